"""Captioner: every source, every batch, saved and loaded, says the same."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import regard
from regard import pretrained
from regard.captioner import Captioner
from regard.decoding import DecodingOptions
from regard.errors import CheckpointError, ConfigError, MissingExtra, UnknownName
from regard.pipeline import banned_ids, decoding_options, prefix_ids
from regard.recipes import override
from regard.text.vocabulary import SPECIALS, Vocabulary
from regard.types import Caption
from tests.helpers.toy_models import captioner
from tests.helpers.toys import WORDS, jpeg, picture, vocabulary


@pytest.fixture(scope="module")
def model() -> Captioner:
    return captioner()


@pytest.fixture(scope="module")
def folder(model: Captioner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models") / "toy"
    model.save(made, metrics={"scores": {"bleu4": 20.0}, "settings": {"split": "val"}})
    return made


def assert_same(one: Caption, other: Caption, tolerance: float = 0.0) -> None:
    assert one.text == other.text
    assert [w.text for w in one.words] == [w.text for w in other.words]
    assert one.score == pytest.approx(other.score, abs=max(tolerance, 1e-12))
    np.testing.assert_allclose(one.trace.alpha, other.trace.alpha, rtol=0, atol=tolerance)
    assert one.trace.grid == other.trace.grid
    assert len(one.n_best) == len(other.n_best)


# Saved and loaded


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"attention": "hard", "scores": "dot"},
        {"gate": "feature", "position": "learned", "tie_embeddings": True},
    ],
)
def test_a_loaded_captioner_says_and_sees_the_same(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    made = captioner(**settings)
    made.save(tmp_path / "m")
    loaded = Captioner.load(tmp_path / "m")
    for source in (picture(0), picture(1)):
        assert_same(
            made.caption(source, beam=2, n_best=2), loaded.caption(source, beam=2, n_best=2)
        )
    assert loaded.name == made.name
    assert loaded.vocabulary == made.vocabulary
    assert loaded.config == made.config


def test_half_precision_rounds_once(model: Captioner, tmp_path: Path) -> None:
    model.save(tmp_path / "half", half=True)
    model.save(tmp_path / "full")
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("half", "full")]
    assert sizes[0] < 0.52 * sizes[1]
    loaded = Captioner.load(tmp_path / "half")
    weight = model.decoder.embedding.weight
    assert loaded.decoder.embedding.weight.equal(weight.half().float())
    assert loaded.encoder.digest() == model.encoder.digest()


def test_scores_travel_with_the_model(folder: Path, tmp_path: Path) -> None:
    loaded = Captioner.load(folder)
    assert loaded.metrics["scores"] == {"bleu4": 20.0}
    loaded.save(tmp_path / "again")
    assert Captioner.load(tmp_path / "again").metrics == loaded.metrics
    assert "BLEU-4: 20.0" in (folder / "README.md").read_text("utf-8")


def test_loading_leaves_random_numbers_alone(folder: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    Captioner.load(folder)
    assert torch.rand(3).equal(wanted)


def test_only_a_resumable_checkpoint_says_where_the_data_lay(tmp_path: Path) -> None:
    made = captioner()
    settings = [
        "data.annotations=/home/me/captions.csv",
        "data.images=/home/me/pictures",
        "data.store=/home/me/store",
        "training.init_from=/home/me/first",
    ]
    made = made.with_components(config=override(made.config, settings))
    made.save(tmp_path / "last", training_state={"step": 1})
    made.save(tmp_path / "best")
    assert Captioner.load(tmp_path / "last").config == made.config
    assert "/home/me" not in (tmp_path / "best" / "config.json").read_text("utf-8")
    assert Captioner.load(tmp_path / "best").config.data.annotations == "captions.csv"


def changed(folder: Path, target: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Copy a checkpoint with another config."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    config = json.loads((target / "config.json").read_text("utf-8"))
    change(config)
    (target / "config.json").write_text(json.dumps(config), "utf-8")
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["encoder"].update(annotation_dim=7), "annotation_dim is 7, and the encoder"),
        (lambda c: c["encoder"].update(grid_shape=[3, 3]), r"grid_shape is \[3, 3\]"),
        (lambda c: c["preprocessing"].update(resize="crop"), "preprocessing is"),
        (lambda c: c["encoder"].update(digest="0"), "the encoder's weights are not those"),
        (lambda c: c["recipe"]["decoder"].update(hidden=3), "unknown key in decoder 'hidden'"),
        (lambda c: c["recipe"]["encoder"].update(name="vgg"), "unknown encoder 'vgg'"),
        (lambda c: c["recipe"]["decoder"].update(hidden_dim=11), "has shape"),
        (lambda c: c["recipe"]["decoder"].update(gate="none"), "is unknown"),
        (lambda c: c["recipe"]["decoder"].update(gate="feature"), "has shape"),
        (lambda c: c["recipe"]["decoder"].update(feature_dim=9), "is missing"),
    ],
)
def test_a_config_of_another_model_is_refused(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        Captioner.load(changed(folder, tmp_path / "m", change))


def test_a_changed_encoder_is_noticed(folder: Path, tmp_path: Path) -> None:
    copy = changed(folder, tmp_path / "m", lambda config: config.pop("files"))
    weights = load_file(copy / "model.safetensors")
    key = next(k for k in weights if k.startswith("encoder.") and k.endswith("weight"))
    weights[key] = weights[key] + 0.5
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match="damaged or belongs to another model"):
        Captioner.load(copy)


# Sources


def test_every_kind_of_source_gives_the_same_caption(model: Captioner, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    pixels = picture(2)
    Image.fromarray(pixels).save(path)
    wanted = model.caption(path)
    sources: list[Any] = [
        str(path),
        path.read_bytes(),
        Image.open(io.BytesIO(path.read_bytes())),
        pixels,
        torch.from_numpy(np.moveaxis(pixels, -1, 0).copy()),
        pixels.astype(np.float32) / 255,
    ]
    for caption in model.caption(sources):
        assert_same(caption, wanted, tolerance=1e-5)
    assert wanted.file == str(path)
    assert wanted.pixels is not None
    np.testing.assert_array_equal(wanted.pixels, pixels)


def test_a_batch_says_what_one_by_one_says(model: Captioner) -> None:
    pictures = [picture(i, size) for i, size in enumerate([(40, 60), (64, 64), (90, 30), (8, 8)])]
    together = model.caption(pictures, batch_size=3, beam=3, n_best=2)
    assert len(together) == 4
    for caption, one in zip(together, pictures, strict=True):
        alone = model.caption(one, beam=3, n_best=2)
        assert_same(caption, alone, tolerance=1e-5)
        assert caption.grid.source_size == one.shape[:2]


def test_a_list_gives_a_list(model: Captioner) -> None:
    assert model.caption([]) == []
    assert isinstance(model.caption([picture()]), list)
    assert isinstance(model.caption((picture(),)), list)
    assert isinstance(model.caption(picture()), Caption)


def test_a_caption_holds_its_words_maps_and_runners_up(model: Captioner) -> None:
    caption = model.caption(picture(), beam=3, n_best=2, min_length=2)
    steps = len(caption.words)
    assert steps >= 2
    assert caption.text == " ".join(word.text for word in caption.words)
    assert caption.trace.alpha.shape == (steps, 4)
    assert all(word.alpha.shape == (2, 2) for word in caption.words)
    assert all(len(word.alternatives) == 5 for word in caption.words)
    assert caption.trace.attention == "soft"
    assert caption.trace.context == "expected"
    assert caption.seconds > 0
    assert caption.model == "toy"
    scores = [caption.score, *(other.score for other in caption.n_best)]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)


def test_alternatives_are_words_the_end_and_what_the_vocabulary_lacks(model: Captioner) -> None:
    caption = model.caption(picture(), alternatives=99, min_length=2)
    for word in caption.words:
        assert {text for text, _ in word.alternatives} == {*WORDS, "<end>", "<unk>"}
        assert len(word.alternatives) == len(WORDS) + 2


def options_of(model: Captioner, given: dict[str, Any]) -> DecodingOptions:
    return decoding_options(given, model.vocabulary, model.config, model.name)


def test_captions_of_characters_may_be_as_long_as_in_training(model: Captioner) -> None:
    words = options_of(model, {})
    assert words.max_length == 20
    letters = Vocabulary((*SPECIALS, *"abcdefgh"), "character")
    recipe = replace(model.config, data=replace(model.config.data, max_length=77))
    speller = Captioner(model.encoder, model.decoder, letters, recipe, name="speller")
    assert options_of(speller, {}).max_length == 77
    assert options_of(speller, {"max_length": 5}).max_length == 5


def test_hard_attention_says_where_it_looked() -> None:
    caption = captioner(attention="hard").caption(picture(), context="argmax", min_length=3)
    assert caption.trace.attention == "hard"
    assert caption.trace.context == "argmax"
    assert len(caption.words) >= 3
    for word in caption.words:
        assert word.location == int(word.alpha.argmax())


def test_json_has_exactly_these_keys(model: Captioner) -> None:
    record = model.caption(jpeg(), min_length=2, n_best=2).to_json()
    assert list(record) == [
        "schema_version", "file", "medium", "caption", "score", "finished", "words", "grid",
        "alpha", "n_best", "model", "seconds", "notices",
    ]  # fmt: skip
    assert list(record["words"][0]) == [
        "text", "logprob", "beta", "entropy", "peak", "location", "alternatives",
    ]  # fmt: skip
    assert list(record["words"][0]["alternatives"][0]) == ["text", "logprob"]
    assert list(record["grid"]) == ["axes", "shape", "source_size"]
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_evaluation_mode_is_given_back(model: Captioner) -> None:
    wanted = model.caption(picture())
    model.decoder.train()
    model.encoder.train()
    try:
        assert_same(model.caption(picture()), wanted)  # no dropout
        assert model.decoder.training
        assert model.encoder.training
    finally:
        model.decoder.eval()
        model.encoder.eval()


# Streams


# Options


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"beams": 3}, UnknownName, "unknown captioning option 'beams'. Did you mean 'beam'"),
        ({"beam": 0}, ConfigError, "beam is 0"),
        ({"beam": 1, "n_best": 2}, ConfigError, "n_best=2 captions cannot come from beam=1"),
        ({"batch_size": 0}, ConfigError, "batch_size is 0"),
        ({"context": "argmax"}, ConfigError, "soft attention, which looks at all"),
        ({"prefix": "a zebra"}, ConfigError, "prefix holds 'zebra'"),
        ({"prefix": [99]}, ConfigError, "unknown word id 99"),
        ({"banned": [-1]}, ConfigError, "unknown word id -1"),
    ],
)
def test_a_wrong_option_is_refused_before_the_first_picture(
    model: Captioner, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.caption_many(iter(()), **options)


def test_a_prefix_and_banned_words_are_words(model: Captioner) -> None:
    assert model.caption(picture(), prefix="Red cat").text.startswith("red cat")
    free = model.caption(picture(), beam=1)
    said = {word.text for word in free.words}
    for banned in (" ".join(said), sorted(said), [*model.vocabulary.encode(" ".join(said))]):
        other = model.caption(picture(), beam=1, banned=banned)
        assert not said & {word.text for word in other.words}


def test_beam_one_is_greedy(model: Captioner) -> None:
    assert_same(model.caption(picture(), beam=1), model.caption(picture(), method="greedy"))


def test_words_to_ids_for_prefix_and_ban() -> None:
    words = vocabulary()
    assert prefix_ids(words, ["a", 5]) == (4, 5)
    assert banned_ids(words, "dog unheard") == (5,)
    letters = Vocabulary((*SPECIALS, "a", "b"), tokens="character")
    assert prefix_ids(letters, "ab") == (4, 5)
    spaced = Vocabulary((*SPECIALS, "a", "b", "▁"), tokens="character")
    assert prefix_ids(spaced, ["a", "b"]) == prefix_ids(spaced, "a b") == (4, 6, 5)
    assert prefix_ids(spaced, ["a", 5, "b"]) == (4, 5, 5)
    assert banned_ids(letters, ["a", 5]) == (4, 5)
    with pytest.raises(ConfigError, match="'ab', which is 2 tokens"):
        banned_ids(letters, "ab")


def test_an_unknown_device_is_one_clear_error(folder: Path) -> None:
    for device in ("abacus", "cuda:99"):
        with pytest.raises(ConfigError, match=f"device '{device}' cannot be used"):
            Captioner.load(folder, device=device)


# Where models come from


def test_a_model_is_found_by_folder_run_and_shipped_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pretrained.find_model(str(folder)) == folder
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best").symlink_to(folder)
    assert pretrained.find_model(str(tmp_path / "run")) == tmp_path / "run" / "best"
    monkeypatch.setattr(pretrained, "shipped_models", lambda: {"tiny": folder})
    monkeypatch.setitem(pretrained.DEFAULTS, "image", "tiny")
    assert pretrained.find_model("tiny") == folder
    assert regard.load().name == "toy"
    assert Captioner.from_pretrained("tiny").name == "toy"
    with pytest.raises(CheckpointError, match=r"no model 'tinny'.*shipped: tiny"):
        regard.load("tinny")


def test_a_hub_id_needs_the_hub_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"regard\[hub\]"):
        regard.load("somebody/model")


def test_a_hub_id_is_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class HubError(Exception):
        pass

    def snapshot_download(name: str) -> str:
        if name != "somebody/model":
            raise HubError("404")
        return str(folder)

    errors = SimpleNamespace(HfHubHTTPError=HubError, HFValidationError=HubError)
    hub = ModuleType("huggingface_hub")
    hub.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)  # type: ignore[arg-type]
    assert regard.load("somebody/model").name == "toy"
    with pytest.raises(CheckpointError, match="the hub did not provide it: 404"):
        regard.load("somebody/else")


def test_the_public_names_are_there() -> None:
    assert dir(regard) == sorted(regard.__all__)
    for name in regard.__all__:
        assert getattr(regard, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = regard.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("options", [{"beam": 2}, {"beam": 3, "n_best": 2}, {"method": "greedy"}])
def test_an_empty_caption_says_so(options: dict) -> None:
    model = captioner()
    every = tuple(range(len(WORDS)))[4:]
    empty = model.caption(picture(), banned=every, **options)
    assert empty.text == ""
    assert any("Empty caption" in notice for notice in empty.notices)
    full = model.caption(picture(), min_length=2, **options)
    assert full.text
    assert not full.notices
