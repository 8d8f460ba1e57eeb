"""Beginning from a model: its words stay, new ones come after them and can be learned."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from regard.captioner import Captioner
from regard.config import EncoderConfig, ObjectiveConfig, Recipe
from regard.errors import CheckpointError, ConfigError
from regard.model.decoder import AttentionDecoder
from regard.model.encoders import build_encoder
from regard.model.encoders.onnx_encoder import encode_with
from regard.pretrained import shipped_models
from regard.recipes import override
from regard.text.vocabulary import (
    SPECIALS,
    UNKNOWN,
    Vocabulary,
    build_vocabulary,
    extend_vocabulary,
)
from regard.training import train
from regard.training.devices import Devices
from regard.training.fine_tune import fine_tuning_recipe
from regard.training.logs import Silent
from regard.training.setup import TrainingRun, prepare_run
from tests.helpers import pointing, toys

CAPTIONS = ("a zebra runs", "a striped zebra runs on grass")
SMALL = ("training.batch_size=4", "evaluation.diary_pictures=1", "training.precision=fp32")


class Notes(Silent):
    """Remembers what a run says, and is killed at a step."""

    def __init__(self, killed_at: int = 0) -> None:
        self.said: list[str] = []
        self.killed_at = killed_at

    def message(self, text: str) -> None:
        self.said.append(text)

    def progress(self, step: int, *_: object) -> None:
        if step == self.killed_at:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def plain_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting an encoder takes longer than eight pictures do without."""
    monkeypatch.setattr(
        "regard.training.inputs.encode_with", lambda encoder: encode_with(encoder, runtime="torch")
    )


def write_data(folder: Path, captions: tuple[str, ...] = CAPTIONS) -> Path:
    lines = ["file,caption,split"]
    folder.mkdir(parents=True)
    for i in range(8):
        (folder / f"{i}.jpg").write_bytes(toys.jpeg(i))
        lines += [f"{i}.jpg,{text},{'val' if i % 4 == 3 else 'train'}" for text in captions]
    (folder / "captions.csv").write_text("\n".join(lines) + "\n", "utf-8")
    return folder / "captions.csv"


def recipe_of(model: Path | str, folder: Path, *settings: str) -> Recipe:
    data = folder / "data" / "captions.csv"
    if not data.exists():
        write_data(data.parent)
    places = [f"data.annotations={data}", f"data.images={data.parent}"]
    return override(fine_tuning_recipe(str(model)), [*places, *SMALL, *settings])


def prepared(recipe: Recipe, folder: Path) -> TrainingRun:
    return prepare_run(recipe, folder / "run", False, Silent(), Devices())


def captioner(**decoder_settings: object) -> Captioner:
    """A small captioner whose files are small, too: runs write theirs again and again."""
    config = EncoderConfig("small_cnn", image_size=64, level="stride8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        encoder = build_encoder(config)
    decoder = toys.decoder(
        annotation_dim=encoder.annotation_dim, grid_shape=encoder.grid_shape, **decoder_settings
    )
    kind = "hard_attention" if decoder.config.attention == "hard" else "cross_entropy"
    recipe = Recipe("toy", config, decoder.config, objective=ObjectiveConfig(kind=kind))
    return Captioner(encoder, decoder, toys.vocabulary(), recipe, name="toy")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    captioner().save(tmp_path / "model")
    return tmp_path / "model"


KINDS = {
    "soft": {},
    "tied": {"tie_embeddings": True},
    "hard": {"attention": "hard"},
    "position": {"position": "learned"},
}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_old_words_keep_ids_and_weights_bit_for_bit(kind: str, half: bool, tmp_path: Path) -> None:
    captioner(**KINDS[kind]).save(tmp_path / "model", half=half)
    old = Captioner.load(tmp_path / "model", backend="torch")
    run = prepared(recipe_of(tmp_path / "model", tmp_path), tmp_path)
    known = len(old.vocabulary)
    assert run.vocabulary.words == (*old.vocabulary.words, "zebra", "striped")
    for module, other in ((run.state.decoder, old.decoder), (run.state.encoder, old.encoder)):
        weights = module.state_dict()
        for key, value in other.state_dict().items():
            own = weights[key] if weights[key].shape == value.shape else weights[key][:known]
            assert torch.equal(own, value), key
    one, other = run.state.decoder.embedding.weight[known:].detach()
    assert not torch.allclose(one, other, atol=1e-3)  # else no step could tell new words apart
    shared = run.state.decoder.output.weight is run.state.decoder.embedding.weight
    assert shared == (kind == "tied")


@pytest.mark.parametrize("kind", ["soft", "tied"])
def test_before_the_first_step_it_says_what_the_model_says(kind: str, tmp_path: Path) -> None:
    captioner(**KINDS[kind]).save(tmp_path / "model")
    old = Captioner.load(tmp_path / "model", backend="torch")
    run = prepared(recipe_of(tmp_path / "model", tmp_path), tmp_path)
    state = run.state
    new = Captioner(state.encoder, state.decoder.eval(), run.vocabulary, run.recipe, name="new")
    files = [tmp_path / "data" / f"{i}.jpg" for i in range(8)]
    options = {"min_length": 3, "max_length": 12, "method": "greedy"}
    one = [c.text for c in old.caption(files, **options)]
    other = [c.text for c in new.caption(files, banned=["zebra", "striped"], **options)]
    assert one == other


@pytest.mark.parametrize("kind", ["soft", "tied", "hard"])
def test_a_new_word_is_as_probable_as_it_is_frequent(kind: str, tmp_path: Path) -> None:
    """Of the 11 tokens of two captions, ends included, two are zebra and one is striped."""
    captioner(**KINDS[kind]).save(tmp_path / "model")
    run = prepared(recipe_of(tmp_path / "model", tmp_path), tmp_path)
    decoder, ids = run.state.decoder.eval(), run.vocabulary.encode("zebra striped")
    items = list(run.splits.train.items)
    found, mask = run.pictures.read(items, ["plain"] * len(items))
    tokens = torch.tensor([[1, *run.vocabulary.encode(CAPTIONS[0])]] * len(items))
    with torch.no_grad():
        unrolled = decoder(tokens, decoder.project(found, mask))
        mean = unrolled.logits.log_softmax(-1)[..., ids].flatten(0, 1).mean(0).exp()
    assert mean.tolist() == pytest.approx([2 / 11, 1 / 11], rel=0.25)


def test_a_word_that_only_new_captions_have_is_learned(model: Path, tmp_path: Path) -> None:
    settings = ["training.epochs=10", "training.batch_size=1", "training.captions_per_image=1",
                "optimizer.learning_rate=0.03", "decoder.dropout=0"]  # fmt: skip
    notes = Notes()
    best = train(recipe_of(model, tmp_path, *settings), tmp_path / "run", report=notes)
    assert f"begins from {model}: its 12 words and 2 new words: zebra, striped" in notes.said
    learned = Captioner.load(best)
    picture = tmp_path / "data" / "3.jpg"
    assert "zebra" in learned.caption(picture).text.split()
    assert "zebra" not in Captioner.load(model).caption(picture).text.split()
    card = (best / "README.md").read_text("utf-8")
    assert "Fine-tuned from model: its words, and those of the new captions." in card
    assert str(tmp_path) not in (best / "config.json").read_text("utf-8")


def test_killed_and_resumed_without_the_model_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    captioner().save(tmp_path / "model", half=True)
    recipe = recipe_of(tmp_path / "model", tmp_path, "training.epochs=2", "training.save_every=1")
    train(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "broken", report=Notes(killed_at=4))
    shutil.rmtree(tmp_path / "model")  # all that is needed is in `last`
    train(recipe, tmp_path / "broken", resume=True)
    for name in ("last", "best"):
        one, other = (Captioner.load(tmp_path / run / name) for run in ("whole", "broken"))
        assert one.vocabulary == other.vocabulary
        for part in ("decoder", "encoder"):
            weights = getattr(one, part).state_dict()
            for key, value in getattr(other, part).state_dict().items():
                assert torch.equal(value, weights[key]), (name, part, key)


def test_a_model_that_does_not_gain_stays_the_best(model: Path, tmp_path: Path) -> None:
    spoiled = ["optimizer.learning_rate=30.0", "optimizer.warmup_steps=0", "optimizer.ema_decay=0",
               "training.epochs=1", "evaluation.metric=loss"]  # fmt: skip
    best = train(recipe_of(model, tmp_path, *spoiled), tmp_path / "run")
    assert Captioner.load(best).metrics["settings"]["epoch"] == 0


def test_a_run_goes_on_from_a_run(model: Path, tmp_path: Path) -> None:
    recipe = recipe_of(model, tmp_path, "training.epochs=1")
    train(recipe, tmp_path / "first")
    write_data(tmp_path / "more" / "data", ("a zebra runs", "a kiwi runs"))
    second = recipe_of(tmp_path / "first", tmp_path / "more", "training.epochs=1")
    best = train(second, tmp_path / "second")
    assert Captioner.load(best).vocabulary.words[-3:] == ("zebra", "striped", "kiwi")
    assert "Fine-tuned from first:" in (best / "README.md").read_text("utf-8")


def test_the_recipe_is_the_model_s_where_it_must_be() -> None:
    for name, path in shipped_models().items():
        old = Captioner.load(path).config
        made = fine_tuning_recipe(name)
        kept = (
            old.encoder
            if not old.encoder.frozen_blocks
            else replace(old.encoder, trainable=False, frozen_blocks=0)
        )
        assert replace(made.encoder, weights="") == replace(kept, weights="")
        by = {"self_critical": "cross_entropy"}.get(old.objective.kind, old.objective.kind)
        assert (made.decoder, made.objective) == (old.decoder, replace(old.objective, kind=by))
        assert (made.data.flip, made.data.max_length) == (old.data.flip, old.data.max_length)
        assert made.data.familiarity == old.data.familiarity
        assert made.name == "fine-tune"
        assert made.training.init_from == name
    assert "CC-BY-SA" in fine_tuning_recipe("hippocampus-soft").data.credit


def test_a_named_recipe_says_the_rest(model: Path) -> None:
    wanted = override(Recipe(), ["decoder.attention=hard", "objective.kind=hard_attention",
                                 "decoder.hidden_dim=99", "training.epochs=7"])  # fmt: skip
    made = fine_tuning_recipe(str(model), wanted)
    assert made.decoder.attention == "hard"
    assert made.decoder.hidden_dim == 10
    assert (made.objective, made.training.epochs) == (wanted.objective, 7)


def test_self_critical_training_is_not_gone_on_with(tmp_path: Path) -> None:
    made = captioner()
    made = made.with_components(
        config=replace(made.config, objective=ObjectiveConfig(kind="self_critical"))
    )
    made.save(tmp_path / "model")
    assert fine_tuning_recipe(str(tmp_path / "model")).objective.kind == "cross_entropy"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("decoder.hidden_dim=12", r"decoder.hidden_dim is 12, but .*model was trained with 10"),
        ("decoder.output_activation=linear", "output_activation is 'linear'.*with 'tanh'"),
        ("encoder.resize=pad", "encoder.resize is 'pad', but .* with 'squash'"),
        ("encoder.video.frames=3", "encoder.video.frames is 3"),
        ("encoder.weights=mine.safetensors", "both set the encoder's weights"),
        ("data.tokens=character", "data.tokens is 'character', and .* uses 'word' tokens"),
    ],
)
def test_settings_that_do_not_fit_are_named(
    setting: str, message: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        prepared(recipe_of(model, tmp_path, setting), tmp_path)
    free = "decoder.dropout=0.1", "encoder.trainable=true", "encoder.image_size=96"
    prepared(recipe_of(model, tmp_path, *free), tmp_path)


def test_models_that_do_not_fit_are_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model 'nowhere'"):
        fine_tuning_recipe("nowhere")
    toys.volume_captioner().save(tmp_path / "of-scans")
    with pytest.raises(ConfigError, match=r"of-scans captions scans, and .*csv holds pictures"):
        prepared(recipe_of(tmp_path / "of-scans", tmp_path), tmp_path)
    config = model / "config.json"
    config.write_text(config.read_text("utf-8").replace('"gate"', '"gait"'), "utf-8")
    with pytest.raises(CheckpointError, match="gait"):
        fine_tuning_recipe(str(model))


def test_a_vocabulary_is_extended_behind_its_end() -> None:
    known = Vocabulary((*SPECIALS, "a", "dog"))
    captions = ["a cat sat", "the cat sat", "A dog <unk>", "a cat"]
    assert extend_vocabulary(known, captions, min_count=2).words[4:] == ("a", "dog", "cat", "sat")
    assert extend_vocabulary(known, captions, max_words=3).words[4:] == ("a", "dog", "cat")
    assert extend_vocabulary(known, captions, max_words=1) == known
    assert extend_vocabulary(known, captions, min_count=9) == known
    letters = Vocabulary((*SPECIALS, "a", "b"), "character")
    assert extend_vocabulary(letters, ["abc"]).words[4:] == ("a", "b", "c")


def test_pieces_stay_as_they_are() -> None:
    pytest.importorskip("tokenizers")
    known = build_vocabulary(["a dog runs", "a dog sits"], tokens="bpe", min_count=1)
    assert extend_vocabulary(known, ["zebras"] * 9) is known


@pytest.mark.parametrize("native", [False, True])
def test_precision_is_what_the_processor_computes_in(
    native: bool, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regard.training.setup.supports_bf16", lambda _: native)
    notes = Notes()
    for wanted, taken in (("auto", "bf16" if native else "fp32"), ("bf16", "bf16")):
        recipe = recipe_of(model, tmp_path, f"training.precision={wanted}")
        run = prepare_run(recipe, tmp_path / wanted, False, notes, Devices())
        assert run.recipe.training.precision == taken
    assert any("only imitates" in said for said in notes.said) is not native


def test_a_caption_s_cut_end_leaves_its_words_a_prior(model: Path, tmp_path: Path) -> None:
    run = prepared(recipe_of(model, tmp_path, "data.max_length=1"), tmp_path)
    assert isinstance(run.state.decoder, AttentionDecoder)
    assert bool(run.state.decoder.output.bias.isfinite().all())
    assert UNKNOWN not in run.vocabulary.encode("zebra striped")


def test_a_model_that_points_keeps_its_concepts(tmp_path: Path) -> None:
    pointing.captioner().save(tmp_path / "model")
    captions = ("a zebra stands by a fire hydrant", "dogs and a zebra by a hydrant")
    write_data(tmp_path / "data", captions)
    recipe = recipe_of(tmp_path / "model", tmp_path, "training.epochs=1", "data.min_count=1")
    assert recipe.decoder.concepts == len(pointing.CONCEPTS)
    train(recipe, tmp_path / "run")
    before, after = (Captioner.load(tmp_path / name) for name in ("model", "run/last"))
    assert after.concepts() == before.concepts()
    assert after.vocabulary.words[: len(pointing.VOCABULARY)] == pointing.VOCABULARY.words
    assert {"zebra", "hydrant"} < set(after.vocabulary.words)
    old, new = (model.decoder.pointer for model in (before, after))
    assert old is not None
    assert new is not None
    for name in ("vectors", "forms", "threshold", "sharpness", "cell.weight", "cell.bias"):
        torch.testing.assert_close(
            new.state_dict()[name], old.state_dict()[name], rtol=0, atol=0, msg=name
        )
    for name in ("switch.weight", "read.weight", "plural"):
        assert not torch.equal(new.state_dict()[name], old.state_dict()[name]), name


def test_a_fresh_model_has_no_bank_to_point_at(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    places = [
        f"data.annotations={tmp_path / 'data/captions.csv'}",
        f"data.images={tmp_path / 'data'}",
    ]
    recipe = override(Recipe(), [*places, "decoder.concepts=3"])
    with pytest.raises(ConfigError, match=r"decoder.concepts is 3.*no bank.*--init MODEL"):
        prepared(recipe, tmp_path)
