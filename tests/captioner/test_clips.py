"""Clips through the whole of it: padding changes nothing, pictures' models read clips, training."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from regard.captioner import Captioner
from regard.config import Recipe, VideoConfig
from regard.data import load_dataset
from regard.data.check import check_dataset
from regard.media.video.video_reader import read_clip
from regard.metrics import java
from regard.metrics.split_evaluation import evaluate
from regard.model_pool import ModelPool
from regard.recipes import find_recipe, override
from regard.training import train
from regard.training.logs import Silent
from tests.helpers import clips, toys
from tests.helpers.encoding import encode_with_torch

__all__ = ["encode_with_torch"]

pytest.importorskip("av")

GRIDS = ["temporal", "spatio_temporal"]


def scene(number: int, count: int) -> bytes:
    """A clip whose frames differ in content, and from those of other numbers."""
    return clips.clip_bytes([toys.picture(100 * number + i, (48, 64)) for i in range(count)])


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("count", [1, 3])
def test_padding_changes_nothing_and_is_never_looked_at(count: int, grid: str, beam: int) -> None:
    model = toys.captioner()
    content = scene(1, count)
    short = model.for_clips(VideoConfig(frames=count, grid=grid)).caption(content, beam=beam)
    padded = model.for_clips(VideoConfig(frames=8, grid=grid)).caption(content, beam=beam)
    assert padded.text == short.text
    assert padded.score == pytest.approx(short.score, abs=1e-5)
    cells = short.trace.alpha.shape[1]
    assert padded.grid.real_cells == cells == short.grid.cells
    assert (padded.trace.alpha[:, cells:] == 0).all()
    np.testing.assert_allclose(padded.trace.alpha[:, :cells], short.trace.alpha, atol=1e-6)
    np.testing.assert_allclose(padded.trace.alpha.sum(1), 1, atol=1e-5)
    assert len(padded.grid.spans) == len(padded.grid.shown) == count


@pytest.mark.parametrize("grid", GRIDS)
def test_short_and_long_clips_in_one_batch_say_what_they_say_alone(grid: str) -> None:
    model = toys.captioner().for_clips(VideoConfig(frames=4, grid=grid))
    sources = [scene(1, 2), scene(2, 9), scene(3, 1)]
    together = model.caption(sources)
    for source, caption in zip(sources, together, strict=True):
        alone = model.caption(source)
        assert alone.text == caption.text
        np.testing.assert_allclose(alone.trace.alpha, caption.trace.alpha, atol=1e-5)


def write_clips(folder: Path, count: int = 8) -> tuple[Path, Path]:
    """Write clips of 2 to 6 frames and a CSV of two captions each; return (captions, clips)."""
    (folder / "clips").mkdir(parents=True)
    lines = ["file,caption,split"]
    for i in range(count):
        (folder / "clips" / f"{i}.mp4").write_bytes(scene(i, 2 + i % 5))
        animal, split = ("dog", "cat")[i % 2], "val" if i % 4 == 3 else "train"
        lines += [f"{i}.mp4,a {animal} runs,{split}", f"{i}.mp4,a red {animal} sits,{split}"]
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    return folder / "captions.csv", folder / "clips"


@pytest.fixture
def torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No onnxruntime: writing its graph takes longer than all these clips."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)


def small(name: str, folder: Path, *settings: str) -> Recipe:
    """A shipped recipe in tiny sizes."""
    captions, files = write_clips(folder)
    eyes = ["encoder.image_size=32"]
    if not name.endswith("lite0"):  # another network; the rest is the recipe's
        eyes += ["encoder.name=small_cnn", "encoder.level=stride8"]
    return override(
        find_recipe(name),
        [
            f"data.annotations={captions}",
            f"data.images={files}",
            "data.min_count=1",
            *eyes,
            "encoder.video.frames=4",
            "encoder.video.motion_dim=8",
            "decoder.embedding_dim=8",
            "decoder.hidden_dim=10",
            "decoder.attention_dim=7",
            "training.epochs=2",
            "training.batch_size=4",
            "training.save_every=2",
            "evaluation.diary_pictures=1",
            "evaluation.metric=loss",
            *settings,
        ],
    )


class _Killed(Exception):
    """Stands for the kill signal."""


class _KillAt(Silent):
    def __init__(self, step: int) -> None:
        self.step = step

    def progress(self, step: int, *_: object) -> None:
        if step == self.step:
            raise _Killed


@pytest.mark.usefixtures("torch_alone")
@pytest.mark.parametrize("name", ["yao2015-temporal", "yao2015-local-temporal-lite0", "mean-pool"])
def test_a_recipe_trains_on_clips_and_resumes_to_the_same_weights(
    name: str, tmp_path: Path
) -> None:
    recipe = small(name, tmp_path)
    train(recipe, tmp_path / "whole")
    with pytest.raises(_Killed):
        train(recipe, tmp_path / "killed", report=_KillAt(3))
    train(recipe, tmp_path / "killed", resume=True)
    whole, killed = (Captioner.load(tmp_path / run / "last") for run in ("whole", "killed"))
    for key, value in whole.decoder.state_dict().items():
        assert torch.equal(value, killed.decoder.state_dict()[key]), key
    assert whole.medium == "video"
    caption = whole.caption(tmp_path / "clips" / "0.mp4")  # two frames of four
    assert caption.grid.shape == (4,)
    assert (caption.trace.alpha[:, 2:] == 0).all()
    if "mean-pool" in name:
        np.testing.assert_allclose(caption.trace.alpha[:, :2], 0.5, atol=1e-6)


@pytest.mark.usefixtures("torch_alone")
def test_the_store_keeps_which_frames_are_real(tmp_path: Path) -> None:
    recipe = small("yao2015-temporal-lite0", tmp_path)
    train(recipe, tmp_path / "run")
    rows = [
        row
        for listing in (tmp_path / "run" / "annotations").glob("shard-*.json")
        for row in json.loads(listing.read_text())
    ]
    # Clips of 2, 3, 4, 5, 6, 2, 3, 4 frames: a row of fewer than four has its mask as bits.
    assert sorted(row[2] for row in rows if row[2]) == ["c0", "c0", "e0", "e0"]
    assert len(rows) == 8
    assert all(isinstance(row[3], int) for row in rows)  # CRC-32 of the vectors


def test_a_model_of_pictures_is_evaluated_on_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(java.shutil, "which", lambda name: None)  # METEOR takes long to start
    dataset = load_dataset(*write_clips(tmp_path))
    model = toys.captioner()
    result = evaluate(model, dataset, split="val", beam=1, tokenizer="python")
    assert result.failures == {}
    assert set(result.captions) == {"3.mp4", "7.mp4"}
    assert result.captions["3.mp4"] == model.for_clips().caption(scene(3, 5), beam=1).text


def test_a_model_file_given_to_the_pool_captions_clips_and_pictures(tmp_path: Path) -> None:
    toys.captioner().save(tmp_path / "model")
    (tmp_path / "a.mp4").write_bytes(scene(1, 3))
    (tmp_path / "b.jpg").write_bytes(toys.jpeg())
    pool = ModelPool(str(tmp_path / "model"))
    files = [str(tmp_path / name) for name in ("a.mp4", "b.jpg")]
    first, second = pool.caption_many(files)
    assert [first.medium, second.medium] == ["video", "image"]  # type: ignore[union-attr]


def test_the_check_opens_clips(tmp_path: Path) -> None:
    captions, files = write_clips(tmp_path)
    (files / "1.mp4").write_bytes(b"nothing")
    (files / "2.mp4").unlink()
    (files / "7.mp4").write_bytes((files / "0.mp4").read_bytes())
    kinds = [(p.kind, p.where) for p in check_dataset(captions, files).problems]
    assert kinds == [
        ("unreadable clip", "1.mp4"),
        ("missing file", "2.mp4"),
        ("same clip in two splits", "7.mp4"),
    ]


@pytest.mark.data
def test_the_shipped_model_sees_the_car_on_its_track(shared_data: Path) -> None:
    clip = shared_data / "msvd" / "clips" / "778mkceE0UQ_40_46.avi"
    caption = ModelPool().captioner("video").caption(str(clip), beam=3)
    assert {"car", "track"} <= set(caption.text.split())
    assert caption.grid.axes == ("frames", "rows", "cols")
    assert caption.grid.source_size == pytest.approx((6.008, 480, 640), abs=0.001)


def test_clips_read_beforehand_are_captioned_too() -> None:
    model = toys.captioner().for_clips(VideoConfig(frames=3))
    content = scene(5, 6)
    clip = read_clip(content, model.encoder.spec)  # type: ignore[arg-type]
    assert model.caption(replace(clip, name="given")).text == model.caption(content).text
