"""Checkpoints: whole or not at all, and strict when they are read."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from regard.captioner import Captioner
from regard.checkpoint.build import load_weights, save_checkpoint
from regard.checkpoint.folder import (
    FORMAT_VERSION,
    SPECIAL_IDS,
    inspect_checkpoint,
    load_checkpoint,
)
from regard.errors import CheckpointError
from tests.helpers import toys
from tests.helpers.toys import vocabulary

CONFIG = {
    "name": "toy",
    "medium": "image",
    "recipe": {"name": "toy"},
    "preprocessing": {"size": 64},
    "encoder": {"name": "e", "digest": "d", "annotation_dim": 6, "grid_shape": [2, 2]},
    "special_ids": SPECIAL_IDS,
}


def save(folder: Path, **changed: Any) -> Path:
    parts: dict[str, Any] = {
        "config": CONFIG,
        "vocabulary": vocabulary(),
        "weights": {
            "decoder.embedding.weight": torch.arange(24.0).view(12, 2),
            "encoder.counter": torch.tensor(7),
        },
        "metrics": {"scores": {"bleu4": 20.0}},
        "card": "# toy\n",
    }
    save_checkpoint(folder, **(parts | changed))
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_everything_comes_back(tmp_path: Path) -> None:
    state = {"step": 3, "moments": torch.tensor([1.0, 2.0])}
    folder = save(tmp_path / "deep" / "model", training_state=state)
    loaded = load_checkpoint(folder, training=True)
    assert set(loaded.config.pop("files")) == {"vocabulary.json", "model.safetensors"}
    assert loaded.config == CONFIG | {"format_version": FORMAT_VERSION}
    assert loaded.vocabulary == vocabulary()
    assert loaded.metrics == {"scores": {"bleu4": 20.0}}
    assert loaded.weights["decoder.embedding.weight"].equal(torch.arange(24.0).view(12, 2))
    assert loaded.weights["encoder.counter"].equal(torch.tensor(7))
    assert loaded.training_state is not None
    assert loaded.training_state["step"] == 3
    assert loaded.training_state["moments"].equal(state["moments"])
    assert (folder / "README.md").read_text("utf-8") == "# toy\n"
    assert load_checkpoint(folder).training_state is None


def turn_a_bit(folder: Path) -> None:
    path = folder / "model.safetensors"
    stored = bytearray(path.read_bytes())
    stored[-1] ^= 1
    path.write_bytes(stored)


def exchange_two_words(folder: Path) -> None:
    path = folder / "vocabulary.json"
    told = json.loads(path.read_text("utf-8"))
    told["words"][-2:] = reversed(told["words"][-2:])
    path.write_text(json.dumps(told), "utf-8")


@pytest.mark.parametrize("damage", [turn_a_bit, exchange_two_words])
def test_a_change_that_fits_is_noticed_too(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = save(tmp_path / "m")
    damage(folder)
    with pytest.raises(CheckpointError, match="is not the file that config.json names"):
        load_checkpoint(folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    del config["files"]  # as checkpoints of before had none, and the message advises
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    assert load_checkpoint(folder).config["name"] == "toy"


def test_float16_weights_are_loaded_as_float32(tmp_path: Path) -> None:
    half = torch.linspace(0, 1, 24).view(12, 2).half()
    folder = save(tmp_path / "m", weights={"decoder.embedding.weight": half})
    assert (folder / "model.safetensors").stat().st_size < 24 * 2 + 200
    weight = load_checkpoint(folder).weights["decoder.embedding.weight"]
    assert weight.dtype == torch.float32
    assert weight.equal(half.float())


def test_tied_weights_can_be_stored(tmp_path: Path) -> None:
    shared = torch.ones(12, 2)
    weights = {"decoder.embedding.weight": shared, "decoder.output.weight": shared}
    assert set(load_checkpoint(save(tmp_path / "m", weights=weights)).weights) == set(weights)


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    both = {"decoder.output.weight", "decoder.embedding.weight"}
    for tied in (True, False):
        model = toys.captioner(tie_embeddings=tied, embedding_dim=8)
        model.save(tmp_path / str(tied))
        with safe_open(tmp_path / str(tied) / "model.safetensors", "np") as stored:
            assert both - set(stored.keys()) == ({"decoder.output.weight"} if tied else set())
        again = load_checkpoint(tmp_path / str(tied))
        assert both <= set(again.weights)
        assert again.arrays("decoder.")["output.weight"].shape == (len(model.vocabulary), 8)
        loaded, picture = Captioner.load(tmp_path / str(tied), backend="torch"), toys.picture()
        assert loaded.caption(picture).text == model.caption(picture).text
        shared = loaded.decoder.output.weight is loaded.decoder.embedding.weight
        assert shared == tied


def test_every_file_may_be_read_by_whom_the_config_may(tmp_path: Path) -> None:
    modes = {path.stat().st_mode for path in save(tmp_path / "m").iterdir()}
    assert len(modes) == 1


def test_a_new_checkpoint_replaces_the_old_and_leaves_nothing_beside(tmp_path: Path) -> None:
    save(tmp_path / "m", training_state={"step": 1})
    save(tmp_path / "m", metrics={"scores": {"bleu4": 21.0}})
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert load_checkpoint(tmp_path / "m").metrics == {"scores": {"bleu4": 21.0}}
    assert load_checkpoint(tmp_path / "m", training=True).training_state is None


@pytest.mark.parametrize(
    "place",
    [
        "pathlib.Path.mkdir",
        "pathlib.Path.write_text",
        "safetensors.torch.save_file",
        "torch.save",
        "os.fsync",
        "pathlib.Path.rename",
    ],
)
def test_a_full_disk_leaves_the_old_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    folder = save(tmp_path / "m")
    before = content(folder)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(place, full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            save(folder, metrics={}, training_state={"step": 2})
    assert content(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_stop_between_the_two_renames_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path / "m")
    before = content(folder)
    rename = Path.rename

    def stopped(path: Path, target: Path) -> Path:
        if path.name == ".m.new":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stopped)
        with pytest.raises(KeyboardInterrupt):
            save(folder, metrics={})
    assert content(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_kill_between_the_two_renames_is_survived(tmp_path: Path) -> None:
    save(tmp_path / "m").rename(tmp_path / ".m.old")
    (tmp_path / ".m.new").mkdir()
    (tmp_path / ".m.new" / "config.json").write_text("{")
    assert load_checkpoint(tmp_path / "m").metrics == {"scores": {"bleu4": 20.0}}
    save(tmp_path / "m", metrics={})
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert load_checkpoint(tmp_path / "m").metrics == {}


def test_a_folder_of_other_things_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"dear to somebody")
    (tmp_path / "notes").write_text("also")
    for name in ("photos", "notes"):
        with pytest.raises(CheckpointError, match="is not a checkpoint, so it is not replaced"):
            save(tmp_path / name)
    assert (tmp_path / "photos" / "a.jpg").read_bytes() == b"dear to somebody"
    assert (tmp_path / "notes").read_text() == "also"
    (tmp_path / "empty").mkdir()
    assert load_checkpoint(save(tmp_path / "empty")).config["name"] == "toy"


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "m")
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"lacks {name}"):
        load_checkpoint(folder)


def test_a_folder_that_does_not_exist_lists_what_is_wanted(tmp_path: Path) -> None:
    wanted = "lacks config.json, vocabulary.json, model.safetensors"
    with pytest.raises(CheckpointError, match=wanted):
        load_checkpoint(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("config.json", b'{"format_version": 1,'),
        ("config.json", b"[1]"),
        ("config.json", b"\xff\xfe\x00"),
        ("vocabulary.json", b"{}"),
        ("vocabulary.json", b"\x80"),
        ("metrics.json", b"nonsense"),
        ("model.safetensors", b""),
        ("model.safetensors", b"not weights at all"),
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, name: str, damage: bytes) -> None:
    folder = save(tmp_path / "m")
    (folder / name).write_bytes(damage)
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(folder)


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(tmp_path / "m")


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, None, "1"])
def test_an_unknown_format_is_refused(tmp_path: Path, version: object) -> None:
    folder = save(tmp_path / "m", config=CONFIG | {"format_version": version})
    with pytest.raises(CheckpointError, match=r"this version of regard supports 1\. Update regard"):
        inspect_checkpoint(folder)


def test_an_incomplete_config_says_what_it_lacks(tmp_path: Path) -> None:
    config = {key: value for key, value in CONFIG.items() if key != "recipe"}
    folder = save(tmp_path / "m", config=config | {"encoder": {"name": "e", "digest": "d"}})
    lacking = r"lacks recipe, encoder\.annotation_dim, encoder\.grid_shape"
    with pytest.raises(CheckpointError, match=lacking):
        load_checkpoint(folder)


def test_parts_of_different_models_are_refused(tmp_path: Path) -> None:
    rows = {"decoder.embedding.weight": torch.zeros(13, 2)}
    with pytest.raises(CheckpointError, match="12 words and the embedding 13 rows"):
        load_checkpoint(save(tmp_path / "rows", weights=rows))
    with pytest.raises(CheckpointError, match="holds no word embedding"):
        load_checkpoint(save(tmp_path / "none", weights={"other": torch.zeros(1)}))
    ids = CONFIG | {"special_ids": SPECIAL_IDS | {"<end>": 1}}
    with pytest.raises(CheckpointError, match="special_ids are"):
        load_checkpoint(save(tmp_path / "ids", config=ids))


class Pickled:
    """Unpickling it would run code."""

    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Pickled, "ran", True))


def test_a_training_state_cannot_run_code(tmp_path: Path) -> None:
    folder = save(tmp_path / "m")
    torch.save({"step": Pickled()}, folder / "training.pt")
    with pytest.raises(CheckpointError, match=r"training\.pt is damaged or unsafe"):
        load_checkpoint(folder, training=True)
    assert not Pickled.ran


def test_weights_are_loaded_strictly() -> None:
    module = nn.Linear(2, 3)
    before = module.weight.detach().clone()
    weights = {"weight": torch.zeros(3, 4), "scale": torch.ones(1)}
    with pytest.raises(CheckpointError) as caught:
        load_weights(module, weights, "here")
    message = str(caught.value)
    assert "here: " in message
    assert "bias is missing" in message
    assert "scale is unknown" in message
    assert "weight has shape (3, 4), expected (3, 2)" in message
    assert module.weight.equal(before)
    load_weights(module, {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}, "here")
    assert module.weight.equal(torch.ones(3, 2))


def test_a_long_list_of_faults_is_cut() -> None:
    with pytest.raises(CheckpointError, match="and 3 more"):
        load_weights(nn.Identity(), {str(i): torch.zeros(1) for i in range(7)}, "here")


def test_the_config_is_readable_json(tmp_path: Path) -> None:
    config = json.loads((save(tmp_path / "m") / "config.json").read_text("utf-8"))
    assert next(iter(config)) == "format_version"
