"""Recipes and vocabularies."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.config import DecoderConfig, ObjectiveConfig, Recipe
from regard.config.io import from_dict
from regard.config.io import to_dict as as_dict
from regard.errors import CheckpointError, ConfigError, UnknownName
from regard.media import ClipSpec, PreprocessingSpec, ScanSpec
from regard.recipes import find_recipe, load_recipe, override, shipped_recipes
from regard.text.vocabulary import (
    END,
    SPECIALS,
    START,
    UNKNOWN,
    Vocabulary,
    build_vocabulary,
    words_of,
)

PICTURE = PreprocessingSpec(8, "squash", "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_load_and_survive_the_journey(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.name == name
    assert from_dict(Recipe, as_dict(recipe)) == recipe


def test_settings_are_laid_over() -> None:
    recipe = override(Recipe(), ["training.epochs=3", "decoder.scores=dot", "data.images=a b"])
    assert (recipe.training.epochs, recipe.decoder.scores) == (3, "dot")
    assert recipe.data.images == "a b"
    assert override(Recipe(), ["optimizer.learning_rate=1"]).optimizer.learning_rate == 1.0


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("decoder.hiden_dim=3", "hidden_dim"),
        ("decodr.hidden_dim=3", "decoder"),
        ("decoder.hidden_dim=big", "int"),
        ("decoder.hidden_dim=true", "int"),
        ("decoder.hidden_dim=0", "hidden_dim"),
        ("decoder.scores=cosine", "additive"),
        ("decoder.temperature=0.0", "temperature"),
        ("optimizer.learning_rate=0.0", "learning_rate"),
        ("evaluation.metric=spicee", "cider_d"),
        ("decoder.attention=hard", "hard_attention"),
        ("objective.kind=hard_attention", "decoder.attention"),
        ("decoder=3", "table"),
        ("epochs", "="),
    ],
)
def test_wrong_settings_are_named(setting: str, says: str) -> None:
    with pytest.raises((ConfigError, UnknownName), match=says):
        override(Recipe(), [setting])


@pytest.mark.parametrize(
    "setting",
    [
        "data.limit=-3",
        "decoder.feature_dim=-4",
        "decoder.grid_shape=[0]",
        "encoder.volume.channels=[8, 0]",
        "evaluation.diary_pictures=-1",
        "evaluation.limit=-5",
        "objective.cross_entropy_weight=-1.0",
        "objective.lambda_ds=-5.0",
        "objective.lambda_e=-1.0",
        "objective.lambda_r=-1.0",
        "objective.samples=0",
        "objective.samples=-2",
        "optimizer.clip_norm=-1.0",
        "optimizer.encoder_learning_rate=-1.0",
        "optimizer.warmup_steps=-10",
        "optimizer.weight_decay=-1.0",
        "training.patience=-1",
        "training.save_every=-2",
        "training.seed=-1",
        "training.seed=100000000000000000000",
    ],
)
def test_values_out_of_range_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.partition("=")[0] + " is .*; it must"):
        override(Recipe(), [setting])


def test_what_means_off_stays_allowed() -> None:
    names = ("data.limit", "decoder.feature_dim", "evaluation.diary_pictures", "evaluation.limit",
             "objective.lambda_ds", "objective.lambda_r", "objective.lambda_e",
             "objective.cross_entropy_weight", "optimizer.clip_norm", "optimizer.warmup_steps",
             "optimizer.weight_decay", "optimizer.encoder_learning_rate", "training.patience",
             "training.save_every", "training.seed")  # fmt: skip
    recipe = override(Recipe(), [f"{name}=0" for name in names])
    assert override(recipe, [f"training.seed={2**63 - 1}"]).training.seed == 2**63 - 1


def test_recipe_files(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(path)
    path.write_text("name = ")
    with pytest.raises(ConfigError, match="TOML"):
        load_recipe(path)
    path.write_text('name = "mine"\n[decoder]\nhidden_dim = 7\n')
    assert find_recipe(str(path)) == Recipe(name="mine", decoder=DecoderConfig(hidden_dim=7))
    with pytest.raises(UnknownName, match="flickr8k-soft"):
        find_recipe("flickr8k-sofd")


def test_hard_attention_recipes_need_both_settings() -> None:
    recipe = Recipe(
        decoder=DecoderConfig(attention="hard"), objective=ObjectiveConfig(kind="hard_attention")
    )
    assert recipe.decoder.attention == "hard"


def test_vocabulary_keeps_frequent_words_in_a_stable_order() -> None:
    captions = ["a dog runs", "a cat runs", "a dog sits"]
    made = build_vocabulary(captions, min_count=2)
    assert made.words[4:] == ("a", "dog", "runs")
    assert build_vocabulary(captions, min_count=1, max_words=2).words[4:] == ("a", "dog")
    assert made.encode("A dog, sleeping") == [4, 5, UNKNOWN]
    assert made.decode([START, 4, 5, END]) == "a dog"
    with pytest.raises(ConfigError, match="min_count"):
        build_vocabulary(captions, min_count=99)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man's red T-shirt, size 3!", ["a", "man's", "red", "t-shirt", "size", "3"]),
        ("'quoted' -- dash - end-", ["quoted", "dash", "end"]),
        ("एक हिन्दी कुत्ता", ["एक", "हिन्दी", "कुत्ता"]),
        ("Cafe\u0301 Straße ÉTÉ", ["café", "straße", "été"]),
        ("", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_characters_come_back_whatever_the_script(captions: list[str]) -> None:
    try:
        made = build_vocabulary(captions, tokens="character", min_count=1)
    except ConfigError:
        return  # nothing but spaces
    for caption in captions:
        text = made.decode(made.encode(caption))
        assert made.decode(made.encode(text)) == text


def test_bpe_captions_come_back() -> None:
    made = build_vocabulary(["the dog runs", "the dogs run", "狗在跑"] * 3, tokens="bpe",
                            min_count=1, max_words=60)  # fmt: skip
    again = Vocabulary.from_json(made.to_json())
    for caption in ("the dogs run", "狗在跑"):
        assert again.decode(again.encode(caption)) == caption


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format_version": 9}', '{"format_version": 1, "words": [1]}',
             '{"format_version": 1, "words": ["a"], "tokens": "word", "bpe": null}']
)  # fmt: skip
def test_damaged_vocabularies(text: str) -> None:
    with pytest.raises(CheckpointError):
        Vocabulary.from_json(text)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400", "9" * 400])
def test_numbers_that_are_not_finite_are_refused(value: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"[decoder]\ntemperature = {value}\n", "utf-8")
    with pytest.raises(ConfigError, match=r"decoder\.temperature"):
        load_recipe(path)


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "9" * 5000, "\0"])
def test_toml_that_its_parser_chokes_on_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=r"mine\.toml"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("tokens", "bpe"), [("words", None), (None, None), ("bpe", None), ("bpe", 3), ("word", "{}")]
)
def test_a_vocabulary_that_cannot_cut_text_is_refused(tokens: object, bpe: object) -> None:
    values = {"format_version": 1, "tokens": tokens, "words": SPECIALS, "bpe": bpe}
    with pytest.raises(CheckpointError, match="tokens are"):
        Vocabulary.from_json(json.dumps(values))


def test_a_damaged_tokenizer_is_named() -> None:
    values = {"format_version": 1, "tokens": "bpe", "words": SPECIALS, "bpe": "{}"}
    with pytest.raises(CheckpointError, match="tokenizer is damaged"):
        Vocabulary.from_json(json.dumps(values)).split("a dog")


@pytest.mark.parametrize(
    "make",
    [
        lambda: ScanSpec((2**20, 2**20, 4), (), "percentile"),
        lambda: ScanSpec((4, 4), (), "percentile"),
        lambda: ScanSpec((4, 4, 4), (1.0, 1.0), "percentile"),
        lambda: ScanSpec((4, 4, 4), (1.0, 0.0, 1.0), "percentile"),
        lambda: ScanSpec((4, 4, 4), (), "x-ray"),
        lambda: PreprocessingSpec(2**20, "squash", "bilinear", (0, 0, 0), (1, 1, 1)),
        lambda: ClipSpec(PICTURE, 2**23, "chunks", "middle", 0, 1.0),
        lambda: ClipSpec(PICTURE, 4, "some", "middle", 0, 1.0),
        lambda: ClipSpec(PICTURE, 4, "chunks", "last", 0, 1.0),
        lambda: ClipSpec(PICTURE, 4, "chunks", "middle", -1, 1.0),
        lambda: ClipSpec(PICTURE, 4, "chunks", "middle", 0, 0.0),
    ],
)
def test_a_stored_preprocessing_that_makes_no_sense_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match="preprocessing"):
        make()
