"""Checkpoints: whole, strict, and safe against a full disk."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import regard
import toys
from regard import checkpoint
from regard.captioner import Captioner
from regard.checkpoint import load_checkpoint
from regard.errors import CheckpointError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "toy"
    toys.captioner().save(folder, metrics={"scores": {"bleu4": 12.5}, "settings": {"beam": 3}})
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "toy"))


def test_saved_and_loaded_it_gives_the_same_caption_and_trace(saved: Path) -> None:
    one, other = toys.captioner(), Captioner.load(saved)
    first, second = (m.caption(toys.picture(), max_length=5) for m in (one, other))
    assert first.text == second.text
    np.testing.assert_array_equal(first.trace.alpha, second.trace.alpha)
    assert other.metrics["scores"]["bleu4"] == 12.5
    assert "BLEU-4: 12.5" in (saved / "README.md").read_text()


def test_a_full_disk_leaves_the_old_checkpoint_whole(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.name: p.read_bytes() for p in copy.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("save_file", "_write_json", "_sync"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, name, full)
            with pytest.raises(CheckpointError, match="No space left"):
                toys.captioner().save(copy)
        assert {p.name: p.read_bytes() for p in copy.iterdir()} == before
        assert [p.name for p in copy.parent.iterdir()] == ["toy"]


def test_a_kill_between_the_two_renames_loses_nothing(copy: Path) -> None:
    copy.rename(copy.with_name(".toy.old"))
    assert load_checkpoint(copy).config["name"] == "toy"


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", "model.safetensors"])
def test_missing_and_corrupted_files(copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged|cannot be read"):
        Captioner.load(copy)
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        Captioner.load(copy)


def edit(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format_version": 99}, "99"),
        ({"special_ids": {"<pad>": 3}}, "special_ids"),
        (
            {"encoder": {"name": "x", "digest": "", "annotation_dim": 7, "grid_shape": [2, 2]}},
            "annotation_dim",
        ),
        ({"encoder": {"annotation_dim": 7}}, "digest"),
        ({"preprocessing": {"size": 9}}, "preprocessing"),
        ({"recipe": {"decodr": {}}}, "decodr"),
    ],
)
def test_configs_that_do_not_fit(copy: Path, changes: dict, says: str) -> None:
    edit(copy, **changes)
    with pytest.raises(CheckpointError, match=says):
        Captioner.load(copy)


def test_a_vocabulary_of_another_model_is_refused(copy: Path) -> None:
    values = json.loads((copy / "vocabulary.json").read_text())
    values["words"].append("zebra")
    (copy / "vocabulary.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="13 words.*12 rows"):
        load_checkpoint(copy)


def test_missing_and_misshapen_weights(copy: Path) -> None:
    path = copy / "model.safetensors"
    weights = load_file(path)
    save_file({k: v for k, v in weights.items() if k != "decoder.output.bias"}, path)
    with pytest.raises(CheckpointError, match="output.bias"):
        Captioner.load(copy)
    save_file(weights | {"decoder.output.bias": np.zeros(3, np.float32)}, path)
    with pytest.raises(CheckpointError, match="output.bias"):
        Captioner.load(copy)


def test_unknown_models_are_named() -> None:
    with pytest.raises(CheckpointError, match="no model 'nowhere'"):
        regard.load("nowhere")
