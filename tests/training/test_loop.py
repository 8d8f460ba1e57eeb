"""The training loop: it learns, resumes bit by bit, and writes its logs."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from regard.captioner import Captioner
from regard.checkpoint.folder import load_checkpoint
from regard.config import EncoderConfig, Recipe
from regard.data.shards import read_item
from regard.errors import CheckpointError, ConfigError, DatasetError, RegardError
from regard.model.encoders import build_encoder
from regard.model.encoders.efficientnet_lite import EfficientNetLite
from regard.recipes import override
from regard.training import train
from regard.training.batches import collate, make_chunks, plan_epoch
from regard.training.devices import Devices
from regard.training.fine_tune import fine_tuning_recipe
from regard.training.inputs import crop
from regard.training.logs import RunLog, Silent
from regard.training.objectives.cross_entropy import CrossEntropy
from regard.training.setup import prepare_run
from regard.training.state import TrainState
from tests.helpers import toys


class Killed(Exception):
    """Stands for the kill signal."""


class KillAt(Silent):
    def __init__(self, step: int) -> None:
        self.step = step

    def progress(self, step: int, *_: object) -> None:
        if step == self.step:
            raise Killed


def toy_recipe(folder: Path, *settings: str) -> Recipe:
    captions, images = toys.write_data(folder)
    recipe = override(
        replace(toys.recipe(dropout=0.3), name="toy"),
        [
            f"data.annotations={captions}",
            f"data.images={images}",
            "data.min_count=1",
            "data.flip=true",
            "data.max_length=8",
            "training.epochs=3",
            "training.batch_size=4",
            "training.captions_per_image=2",
            "training.save_every=2",
            "optimizer.learning_rate=0.01",
            "optimizer.ema_decay=0.5",
            "evaluation.diary_pictures=2",
            *settings,
        ],
    )
    return recipe


KINDS = {
    "soft": {},
    "hard": {"decoder": {"attention": "hard"}, "objective": {"kind": "hard_attention"}},
    "self-critical": {"objective": {"kind": "self_critical", "samples": 2}},
    "fine-tuned": {"encoder": {"trainable": True}},
    "cut": {"data": {"crops": 2}},
    "taught": {"objective": {"teachers": ("TEACHER",)}},
    "fine-tuned in part": {
        "encoder": {
            "name": "efficientnet_lite0",
            "image_size": 64,
            "level": "stride32",
            "trainable": True,
            "frozen_blocks": 11,
        }
    },
}


QUICK = {"soft", "fine-tuned"}


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k in QUICK else pytest.mark.slow) for k in KINDS]
)
def test_killed_and_resumed_it_ends_with_the_same_weights(kind: str, tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path)
    sections = {name: replace(getattr(recipe, name), **v) for name, v in KINDS[kind].items()}
    if kind == "taught":
        it = train(override(recipe, ["training.seed=1", "training.epochs=1"]), tmp_path / "it")
        stores = (str(tmp_path / "it" / "annotations"),)
        objective = sections["objective"]
        sections["objective"] = replace(objective, teachers=(str(it),), teacher_stores=stores)
    recipe = replace(recipe, **sections)
    train(recipe, tmp_path / "whole")
    with pytest.raises(Killed):
        train(recipe, tmp_path / "broken", report=KillAt(5))
    train(recipe, tmp_path / "broken", resume=True)
    for name in ("last", "best"):
        one, other = (Captioner.load(tmp_path / run / name) for run in ("whole", "broken"))
        for part in ("decoder", "encoder"):
            weights = getattr(one, part).state_dict()
            for key, value in getattr(other, part).state_dict().items():
                assert torch.equal(value, weights[key]), (name, part, key)
    records = (tmp_path / "broken" / "log.jsonl").read_text().splitlines()
    steps = [json.loads(r)["step"] for r in records if json.loads(r)["kind"] == "train"]
    assert steps == list(range(1, 10))


def test_fine_tuned_in_part_only_the_last_blocks_learn(tmp_path: Path) -> None:
    """And as they learn from pixels: what lies between is stored in half precision."""
    settings = replace(
        toy_recipe(tmp_path, "data.crops=2", "optimizer.ema_decay=0", "training.epochs=1"),
        encoder=EncoderConfig(**KINDS["fine-tuned in part"]["encoder"]),  # type: ignore[arg-type]
    )
    settings = override(settings, ["optimizer.encoder_learning_rate=0.001"])
    start = build_encoder(settings.encoder).state_dict()
    train(settings, tmp_path / "stored")
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(EfficientNetLite, "frozen_part", lambda _: None)
        patch.setattr(EfficientNetLite, "finish", lambda *_: pytest.fail("nothing is stored"))
        train(settings, tmp_path / "pixels")
    stored, pixels = (
        Captioner.load(tmp_path / run / "last").encoder.state_dict() for run in ("stored", "pixels")
    )
    for name, value in start.items():
        tuned = name.startswith(("_head.0", "_blocks.11", "_blocks.15")) and "running" not in name
        if name.startswith(("_stem", *(f"_blocks.{k}." for k in range(11)))):
            assert torch.equal(stored[name], value), name
        elif tuned and value.is_floating_point():
            assert not torch.equal(stored[name], value), name
    losses = []
    for run in ("stored", "pixels"):
        lines = (tmp_path / run / "log.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines if '"train"' in line])
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert set(stored) == set(pixels)


def test_a_run_on_clips_refuses_parts_of_pictures(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, "data.crops=1", "encoder.medium=video")
    with pytest.raises(ConfigError, match="only pictures can be cropped"):
        train(recipe, tmp_path / "run")


def test_parts_of_pictures_are_stored_as_they_are_cut(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, "data.crops=2", "training.epochs=1")
    read: list[str] = []
    with pytest.MonkeyPatch().context() as patch:
        patch.setattr(
            "regard.training.inputs.read_item",
            lambda item, reader: (read.append(item.file), read_item(item, reader))[1],
        )
        run = prepare_run(recipe, tmp_path / "run", False, Silent(), Devices())
    assert len(read) == len(set(read)) == 8  # once for all views
    encoder = run.state.encoder
    item = run.splits.train.items[0]
    whole = encoder.read(item.file)
    for view in ("plain", "flip", "crop1", "crop2-flip"):
        pixels = encoder.prepare(crop(whole, view)).pixels
        pixels = pixels[..., ::-1].copy() if view.endswith("flip") else pixels
        wanted = encoder(torch.from_numpy(pixels)[None])
        found, _ = run.pictures.read([item], [view])
        torch.testing.assert_close(found, wanted, atol=2e-3, rtol=2e-3)
    views = [run.pictures.read([item], [view])[0] for view in ("plain", "crop1")]
    assert not torch.allclose(*views, atol=1e-2)


def test_a_run_killed_in_its_first_epoch_can_be_resumed(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, "training.epochs=1", "training.save_every=0")
    with pytest.raises(Killed):
        train(recipe, tmp_path / "broken", report=KillAt(1))
    train(recipe, tmp_path / "broken", resume=True)
    train(recipe, tmp_path / "whole")
    one, other = (Captioner.load(tmp_path / run / "last") for run in ("whole", "broken"))
    weights = one.decoder.state_dict()
    for key, value in other.decoder.state_dict().items():
        assert torch.equal(value, weights[key]), key


def test_a_run_resumed_within_its_first_epoch_keeps_its_diary(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, "training.epochs=1", "training.save_every=1")
    with pytest.raises(Killed):
        train(recipe, tmp_path / "run", report=KillAt(2))
    train(recipe, tmp_path / "run", resume=True)
    lines = (tmp_path / "run" / "diary.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1]


def test_what_cannot_be_resumed_says_what_to_do(tmp_path: Path) -> None:
    recipe = Recipe()
    with pytest.raises(CheckpointError, match="nothing was saved there yet. Repeat the"):
        train(recipe, tmp_path / "nowhere", resume=True)
    (tmp_path / "run" / "last").mkdir(parents=True)
    (tmp_path / "run" / "log.jsonl").touch()
    with pytest.raises(CheckpointError, match=r"takes the run's folder, .*run\."):
        train(recipe, tmp_path / "run" / "last", resume=True)


def test_a_run_is_not_resumed_on_other_captions(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, "training.epochs=1")
    with pytest.raises(Killed):
        train(recipe, tmp_path / "run", report=KillAt(1))
    captions = tmp_path / "captions.csv"
    before = captions.read_text()
    captions.write_text(before + "0.jpg,a new one,train\n")
    with pytest.raises(DatasetError, match="no longer has the captions"):
        train(recipe, tmp_path / "run", resume=True)
    captions.write_text(before)
    state = tmp_path / "run" / "last" / "training.pt"
    saved = torch.load(state, weights_only=True)
    assert saved.pop("data")
    torch.save(saved, state)  # as an older regard wrote it
    captions.write_text(before + "0.jpg,a new one,train\n")
    train(recipe, tmp_path / "run", resume=True)


@pytest.mark.parametrize("wrong", ["data.annotations=gone.csv", "encoder.weights=gone.pt"])
def test_a_start_that_fails_leaves_no_folder(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(RegardError, match="gone"):
        train(toy_recipe(tmp_path, wrong), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_with_batches_of_one_length_takes_captions_one_by_one(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, "training.batching=equal")
    with pytest.raises(ConfigError, match="captions_per_image"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_evaluation_that_is_made_again_stands_once_in_the_log(tmp_path: Path) -> None:
    """The kill falls between an evaluation's line and the checkpoint after it."""
    lines = [{"kind": "train", "step": 3}, {"kind": "evaluation", "step": 3, "epoch": 1}]
    lines += [{"kind": "train", "step": 6}, {"kind": "evaluation", "step": 6, "epoch": 2}]
    lines += [{"kind": "train", "step": 7}]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tr')
    RunLog(tmp_path, 6, 1).close()
    assert [json.loads(line) for line in log.read_text().splitlines()] == lines[:3]


@pytest.mark.onnx
def test_a_run_leaves_a_diary_logs_and_a_model_that_captions(tmp_path: Path) -> None:
    best = train(toy_recipe(tmp_path), tmp_path / "run")
    page = (tmp_path / "run" / "diary.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<section") == 2
    assert page.count("<b>3</b>") == 2
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    evaluations = [
        json.loads(line)
        for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()
        if '"evaluation"' in line
    ]
    assert [e["epoch"] for e in evaluations] == [0, 1, 2, 3]
    assert {"bleu4", "cider_d", "loss"} <= set(evaluations[0])
    assert Captioner.load(best).caption(tmp_path / "images" / "3.jpg", min_length=1).text


def test_it_learns_two_pictures_by_heart(tmp_path: Path) -> None:
    recipe = toy_recipe(
        tmp_path,
        "training.epochs=40",
        "training.batch_size=1",
        "decoder.dropout=0",
        "data.flip=false",
        "data.limit=2",
        "objective.lambda_ds=0",
        "evaluation.metric=loss",
        "training.captions_per_image=1",
    )
    best = train(recipe, tmp_path / "run")
    lines = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [x["nll_per_word"] for x in lines if x["kind"] == "train"]
    assert losses[-1] < 0.45 * losses[0]
    assert best.is_dir()


def test_early_stopping(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, "optimizer.learning_rate=1e-12", "training.patience=1",
                        "training.epochs=9")  # fmt: skip
    train(recipe, tmp_path / "run")
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert max(json.loads(line).get("epoch", 0) for line in log.splitlines()) < 9


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, "objective.lambda_ds=1e39")
    with pytest.raises(RegardError, match="not updated") as failed:
        train(recipe, tmp_path / "run")
    last = tmp_path / "run" / "last"
    assert f"--init {last} --set optimizer.learning_rate=0.005 --out ANOTHER" in str(failed.value)
    mended = override(recipe, ["objective.lambda_ds=1", "training.epochs=1"])
    assert train(fine_tuning_recipe(str(last), mended), tmp_path / "other").is_dir()


def test_errors_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no captions"):
        train(Recipe(), tmp_path / "run")
    recipe = toy_recipe(tmp_path)
    (tmp_path / "images" / "1.jpg").unlink()
    with pytest.raises(DatasetError, match="1 of 8 files"):
        train(recipe, tmp_path / "run")
    with pytest.raises(CheckpointError, match="nothing was saved there yet"):
        train(recipe, tmp_path / "nowhere", resume=True)


def test_an_epoch_holds_every_caption_once() -> None:
    captions = [[[4] * n for n in range(1, 2 + i % 5)] for i in range(30)]
    chunks = make_chunks(captions, 3)
    for batching in ("bucket", "equal", "random"):
        plan = plan_epoch(chunks, 8, batching, seed=1, epoch=2)
        seen = sorted((c.item, w) for batch in plan for c in batch for w in c.captions)
        wanted = sorted((i, tuple(w)) for i, of in enumerate(captions) for w in of)
        assert seen == wanted
        assert all(len({len(c.captions) for c in batch}) == 1 for batch in plan)
        assert plan == plan_epoch(chunks, 8, batching, seed=1, epoch=2)
        assert plan != plan_epoch(chunks, 8, batching, seed=1, epoch=3)
    equal = plan_epoch(chunks, 8, "equal", seed=1, epoch=0)
    assert all(len({c.length for c in batch}) == 1 for batch in equal)


def test_a_run_goes_on_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = toy_recipe(tmp_path)
    names = {"annotations": "captions.csv", "images": "images", "store": "encoded"}
    recipe = replace(recipe, data=replace(recipe.data, **names))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Killed):
        train(recipe, "run", report=KillAt(3))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    train(recipe, tmp_path / "run", resume=True)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_tokens_begin_with_start_and_targets_end_with_end() -> None:
    tokens, targets, steps = collate(make_chunks([[[7, 8], [9]]], 2))
    assert tokens.tolist() == [[1, 9, 0], [1, 7, 8]]
    assert targets.tolist() == [[9, 2, 0], [7, 8, 2]]
    assert steps.tolist() == [[True, True, False], [True, True, True]]


def test_a_disk_that_fills_up_ends_a_run_with_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RunLog, "write", full)
    with pytest.raises(RegardError, match="No space left.*resume"):
        train(toy_recipe(tmp_path), tmp_path / "run")
    load_checkpoint(tmp_path / "run" / "last", training=True)


def test_a_training_state_sets_nothing_but_a_runs_position() -> None:
    made, recipe = toys.captioner(), toys.recipe()
    made.encoder.requires_grad_(False)
    state = TrainState.create(recipe, made.decoder, made.encoder, CrossEntropy(recipe.objective))
    saved = state.to_dict()
    state.load(saved)
    saved["position"]["optimizer"] = None
    with pytest.raises(CheckpointError, match="optimizer"):
        state.load(saved)
