"""`regard explain` and `regard faithfulness`."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import toys
from clips import clip_bytes
from regard.cli.main import app
from toy_models import captioner


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    toys.captioner().save(folder / "soft")
    captioner(attention="hard").save(folder / "hard")
    toys.captioner(scores="uniform").save(folder / "control")
    return folder


def run(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_a_picture_gets_a_sheet_an_animation_a_page_and_numbers(
    models: Path, tmp_path: Path
) -> None:
    _, images = toys.write_data(tmp_path, 1)
    out = tmp_path / "out"
    found = run("explain", images / "0.jpg", images / "gone.jpg", "--out", out, "--model",
                models / "soft", "--beam", 1, "--grids")  # fmt: skip
    assert found.exit_code == 1, found.output
    assert "gone.jpg" in found.stderr
    assert sorted(p.name for p in out.iterdir()) == [
        "0.html", "0.json", "0.npy", "0.png", "0.webp"
    ]  # fmt: skip
    record = json.loads((out / "0.json").read_text("utf-8"))
    grids = np.load(out / "0.npy")
    assert grids.shape == (len(record["words"]), 2, 2)
    np.testing.assert_allclose(grids.reshape(len(grids), 4), record["alpha"], atol=1e-6)
    assert len(record["occlusion"]["falls"]) == len(record["words"])
    assert found.stdout == f"{images / '0.jpg'}: {record['caption']}\n"


def test_a_clip_gets_a_strip_a_player_and_numbers_by_frames(models: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(clip_bytes(30))
    out = tmp_path / "out"
    found = run("explain", tmp_path / "a.mp4", "--out", out, "--model", models / "soft",
                "--compare", models / "hard", "--beam", 1, "--grids", "--animation", "none",
                )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert sorted(p.name for p in out.iterdir()) == ["a.html", "a.json", "a.npy", "a.png"]
    record = json.loads((out / "a.json").read_text("utf-8"))
    words = len(record["words"])
    assert np.load(out / "a.npy").shape == (words, 12, 2, 2)
    assert record["occlusion"]["covered"] == "frame"
    assert np.shape(record["occlusion"]["falls"]) == (words, 12)
    assert record["compared"]["occlusion"]["covered"] == "frame"
    page = (out / "a.html").read_text("utf-8")
    assert page.count("<video ") == 2
    assert page.count("data:video/mp4;base64,") == 1
    found = run("caption", tmp_path / "a.mp4", "--explain", out, "--model", models / "soft")
    assert found.exit_code == 0, found.output
    assert (out / "a.png").stat().st_size > 10_000


def test_two_models_are_compared(models: Path, tmp_path: Path) -> None:
    _, images = toys.write_data(tmp_path, 1)
    found = run("explain", images, "--out", tmp_path / "out", "--model", models / "soft",
                "--compare", models / "hard", "--no-occlusion", "--animation", "none",
                "--beam", 1)  # fmt: skip
    assert found.exit_code == 0, found.output
    record = json.loads((tmp_path / "out" / "0.json").read_text("utf-8"))
    assert record["compared"]["words"]
    assert "occlusion" not in record
    assert (tmp_path / "out" / "0.html").read_text("utf-8").count("class='regard'") == 2
    assert not list((tmp_path / "out").glob("*.webp"))


def test_an_unknown_animation_is_wrong_usage(tmp_path: Path) -> None:
    found = run("explain", "x.jpg", "--out", tmp_path, "--animation", "mp4")
    assert found.exit_code == 2


def test_faithfulness_prints_and_writes_all_tables(models: Path, tmp_path: Path) -> None:
    captions, images = toys.write_data(tmp_path, 12)
    found = run("faithfulness", "--annotations", captions, "--images", images, "--model",
                models / "soft", "--control", models / "control", "--probed", 1, "--beam", 1,
                "--json", tmp_path / "f.json")  # fmt: skip
    assert found.exit_code == 0, found.output
    for part in ("deletion", "insertion", "occlusion", "permuted", "control: toy"):
        assert part in found.stdout
    record = json.loads((tmp_path / "f.json").read_text("utf-8"))
    assert set(record) >= {"settings", "deletion", "insertion", "agreement", "swaps", "control"}
    assert record["regions"] == {}
