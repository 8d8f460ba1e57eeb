"""`regard teach` and `regard concepts`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regard.captioner import Captioner
from regard.cli.main import app
from regard.errors import ConfigError
from regard.export import export_model
from tests.helpers import pointing, toys


def run(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    pointing.captioner().save(tmp_path / "model", half=True)
    return tmp_path / "model"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Folders "paper boat", of 4 pictures and a broken one, and "kite", of 2."""
    for word, count in (("paper boat", 4), ("kite", 2)):
        (tmp_path / "photos" / word).mkdir(parents=True)
        for i in range(count):
            (tmp_path / "photos" / word / f"{i}.jpg").write_bytes(toys.jpeg(i))
    return tmp_path / "photos"


def listed(folder: Path) -> list[str]:
    result = run("concepts", folder, "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(line)["word"] for line in result.stdout.splitlines()]


def test_concepts_are_listed(model: Path) -> None:
    assert listed(model) == ["dog", "fire hydrant", "bear"]
    table = run("concepts", model).stdout
    assert "fire hydrants" in table
    assert "0.50" in table


def test_a_word_is_taught_to_a_copy_and_forgotten(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "taught"
    boats = photos / "paper boat"
    result = run("teach", model, "--word", "Paper boat", "--images", boats, "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("paper boat: 4 pictures; ")
    assert "named by the others; nearest: " in result.stdout
    assert listed(out) == ["dog", "fire hydrant", "bear", "paper boat"]
    assert listed(model) == ["dog", "fire hydrant", "bear"]
    assert run("teach", out, "--forget", "paper boats").exit_code == 0
    assert listed(out) == ["dog", "fire hydrant", "bear"]
    assert (out / "vocabulary.json").read_text() == (model / "vocabulary.json").read_text()


def test_a_folder_of_folders_teaches_many_and_a_broken_picture_stops_none(
    model: Path, photos: Path
) -> None:
    (photos / "paper boat" / "broken.jpg").write_bytes(b"no picture")
    result = run("teach", model, "--images", photos, "--json")
    assert result.exit_code == 1
    lessons = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(one["word"], one["pictures"]) for one in lessons] == [("kite", 2), ("paper boat", 4)]
    assert lessons[1]["failures"][0]["file"].endswith("broken.jpg")
    assert "broken.jpg" in result.stderr
    assert listed(model)[3:] == ["kite", "paper boat"]


@pytest.mark.slow
def test_graphs_are_written_again(model: Path, photos: Path) -> None:
    pytest.importorskip("onnxscript")
    export_model(model)
    result = run("teach", model, "--word", "kite", "--images", photos / "kite")
    assert result.exit_code == 0, result.output
    light = Captioner.load(model, backend="onnx")
    assert "kites" in light.vocabulary.words
    heavy = Captioner.load(model, backend="torch")
    picture = toys.picture(0, (32, 32))
    assert light.caption(picture).text == heavy.caption(picture).text


@pytest.mark.slow
def test_the_shipped_model_learns_a_word_and_stays_light(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    out = tmp_path / "taught"
    result = run(
        "teach", "everyday", "--word", "paper boat", "--images", photos / "kite", "--out", out
    )
    assert result.exit_code == 0, result.output
    assert "computes its encoder exactly" in result.stderr
    light = Captioner.load(out, backend="onnx")
    assert {"paper boat", "paper boats", "zebra"} <= set(light.vocabulary.words)
    assert light.caption(toys.picture(0, (64, 64))).words


def test_wrong_use_changes_nothing(model: Path, photos: Path, tmp_path: Path) -> None:
    held = (model / "config.json").read_bytes()
    toys.captioner().save(tmp_path / "plain")
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, message in (
        ((model, "--word", "kite", "--images", empty), "0 pictures of 'kite'"),
        ((tmp_path / "plain", "--word", "kite", "--images", photos / "kite"), "has no pointer"),
        (("flickr8k-soft", "--word", "kite", "--images", photos / "kite"), "--out M2"),
        ((model, "--images", photos, "--out", tmp_path / "plain"), "not empty"),
    ):
        result = run("teach", *arguments)
        assert isinstance(result.exception, ConfigError)
        assert message in str(result.exception)
    result = run("teach", model, "--images", photos, "--device", "nonsense")
    assert "device 'nonsense' cannot be used; expected auto" in str(result.exception)
    for arguments in ((model,), (model, "--word", "kite"), (model, "--images", tmp_path / "no")):
        assert run("teach", *arguments).exit_code == 2
    with pytest.raises(ConfigError, match="no pointer"):
        raise run("concepts", tmp_path / "plain").exception  # type: ignore[misc]
    (model / "training.pt").write_bytes(b"")
    result = run("teach", model, "--images", photos)
    assert "state of a training" in str(result.exception)
    assert (model / "config.json").read_bytes() == held
