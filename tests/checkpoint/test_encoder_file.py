"""The encoder's own file: written with the model, shared by its digest, checked when it is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from regard.captioner import Captioner
from regard.checkpoint.components import build_components
from regard.checkpoint.folder import file_digest, load_checkpoint
from regard.config import VideoConfig
from regard.errors import CheckpointError
from tests.helpers import towers, toys

FILE = "encoder.safetensors"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    towers.use_small_towers(monkeypatch)


def change_config(folder: Path, change: Callable[[dict], None]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    change(config)
    path.write_text(json.dumps(config), "utf-8")


def test_a_large_encoder_has_a_file_of_its_own(tmp_path: Path) -> None:
    folder = towers.saved(tmp_path / "model")
    model, own = load_file(folder / "model.safetensors"), load_file(folder / FILE)
    assert all(name.startswith("decoder.") for name in model)
    assert own["blocks.0.qkv.weight"].dtype == torch.int8
    assert own["position"].dtype == own["norm_last.bias"].dtype == torch.float32
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["files"][FILE] == file_digest(folder / FILE)
    assert config["encoder"]["prefix"] == ""
    loaded = Captioner.load(folder)
    assert loaded.encoder.digest() == config["encoder"]["digest"]
    picture = toys.picture(1, (32, 32))
    copy = tmp_path / "elsewhere" / "copy"
    loaded.save(copy)  # not `int8`: what 8 bits hold exactly needs no more
    assert (copy / FILE).read_bytes() == (folder / FILE).read_bytes()
    assert Captioner.load(copy).caption(picture).text == loaded.caption(picture).text


@pytest.mark.parametrize(("half", "stored"), [(False, torch.float32), (True, torch.float16)])
def test_an_encoder_that_8_bits_would_round_keeps_its_values(
    tmp_path: Path, half: bool, stored: torch.dtype
) -> None:
    made = towers.captioner()
    made.save(tmp_path / "model", half=half)
    own = load_file(tmp_path / "model" / FILE)
    assert own["blocks.0.fc1.weight"].dtype == stored
    assert own["position"].dtype == torch.float32
    assert Captioner.load(tmp_path / "model").encoder.digest() == made.encoder.digest()


def test_two_models_share_the_file(tmp_path: Path) -> None:
    soft = towers.saved(tmp_path / "everyday")
    hard = towers.saved(tmp_path / "everyday-hard", decoder_seed=1)
    towers.saved(tmp_path / "another", seed=9)
    assert (soft / FILE).read_bytes() == (hard / FILE).read_bytes()
    picture = toys.picture(1, (32, 32))
    wanted = Captioner.load(hard).caption(picture)
    (hard / FILE).unlink()
    assert load_checkpoint(hard).encoder_file == soft / FILE
    model = Captioner.load(hard)
    found = model.caption(picture)
    assert [(word.text, word.logprob) for word in found.words] == [
        (word.text, word.logprob) for word in wanted.words
    ]
    model.save(tmp_path / "alone" / "copy")
    assert (tmp_path / "alone" / "copy" / FILE).read_bytes() == (soft / FILE).read_bytes()


def test_info_says_where_the_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from regard.cli.main import main

    towers.saved(tmp_path / "everyday")
    hard = towers.saved(tmp_path / "hard", decoder_seed=1)
    (hard / FILE).unlink()
    monkeypatch.setattr("sys.argv", ["regard", "info", str(hard)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    shown = "".join(capsys.readouterr().out.split())  # the table wraps long lines
    assert f"theencoder'sin{tmp_path / 'everyday' / FILE}" in shown


def remove(folder: Path) -> None:
    (folder / FILE).unlink()


def turn_a_bit(folder: Path) -> None:
    stored = bytearray((folder / FILE).read_bytes())
    stored[-1] ^= 1
    (folder / FILE).write_bytes(stored)


def put_another(folder: Path) -> None:
    shutil.copyfile(folder.parent / "another" / FILE, folder / FILE)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            remove,
            r"lacks encoder.safetensors, the weights of clip_vit_b16, and no model in a folder",
        ),
        (turn_a_bit, r"encoder.safetensors is not the file that config.json names"),
        (put_another, r"encoder.safetensors is not the file that config.json names"),
    ],
)
def test_a_missing_damaged_or_foreign_file(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    folder = towers.saved(tmp_path / "model")
    towers.saved(tmp_path / "another", seed=9)  # its file has another digest
    damage(folder)
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(folder)


def cut_header(folder: Path) -> None:
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:20])


def drop_a_scale(folder: Path) -> None:
    weights = load_file(folder / FILE)
    del weights["blocks.1.out.weight.scale"]
    save_file(weights, folder / FILE)


def drop_a_matrix(folder: Path) -> None:
    weights = load_file(folder / FILE)
    del weights["blocks.1.out.bias"]
    save_file(weights, folder / FILE)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut_header, "encoder.safetensors is damaged"),
        (drop_a_scale, "blocks.1.out.weight"),
        (drop_a_matrix, "encoder.blocks.1.out.bias is missing"),
        (put_another, "the encoder's weights are not those that config.json names"),
        (remove, "lacks encoder.safetensors"),
    ],
)
def test_damage_that_no_digest_tells(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    folder = towers.saved(tmp_path / "model")
    towers.saved(tmp_path / "another", seed=9)
    damage(folder)
    change_config(folder, lambda config: config.pop("files"))
    with pytest.raises(CheckpointError, match=reason):
        build_components(load_checkpoint(folder))


def test_a_prefix_that_is_no_text(tmp_path: Path) -> None:
    folder = towers.saved(tmp_path / "model")
    change_config(folder, lambda config: config["encoder"].update(prefix=3))
    with pytest.raises(CheckpointError, match="encoder.prefix is 3; it must be text"):
        load_checkpoint(folder)


def test_models_of_clips_share_the_file_of_pictures(tmp_path: Path) -> None:
    """The file has the names of the picture's encoder; motion features lie with the decoder."""
    pictures = towers.saved(tmp_path / "everyday")
    video = VideoConfig(frames=2, motion="conv3d", motion_dim=4)
    clips = tmp_path / "clips"
    towers.captioner(video=video).save(clips, int8=True)
    assert (clips / FILE).read_bytes() == (pictures / FILE).read_bytes()
    assert any(
        name.startswith("encoder.motion.") for name in load_file(clips / "model.safetensors")
    )
    (clips / FILE).unlink()
    loaded = Captioner.load(clips)
    again = loaded.encoder.state_dict()
    own = Captioner.load(pictures).encoder.state_dict()
    assert all(torch.equal(again[f"picture.{name}"], value) for name, value in own.items())
