"""How captions are decoded is a model's own where a caller does not say."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from regard.captioner import Captioner
from regard.checkpoint.folder import store_decoding
from regard.cli.main import app
from regard.config import DecodingConfig, Recipe
from regard.config.io import from_dict
from regard.errors import CheckpointError, ConfigError
from regard.pipeline import decoding_options
from regard.reliability.calibration import Calibration
from regard.reliability.confidence import Confidence
from regard.text.vocabulary import END
from regard.training.fine_tune import fine_tuning_recipe
from tests.helpers import toys
from tests.helpers.encoding import encode_with_torch

__all__ = ["encode_with_torch"]

OWN = DecodingConfig(length_penalty=0.8, block_ngram=1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A toy model whose captions are long, so that words repeat."""
    toy = toys.captioner()
    with torch.no_grad():
        toy.decoder.output.bias[END] -= 6
    toy.save(tmp_path / "model")
    return tmp_path / "model"


def test_what_is_given_goes_before_what_is_the_models_own() -> None:
    toy = toys.captioner()
    recipe = replace(toy.config, decoding=OWN)
    found = decoding_options({}, toy.vocabulary, recipe, "toy")
    assert (found.length_penalty, found.block_ngram) == (0.8, 1)
    found = decoding_options({"block_ngram": 0}, toy.vocabulary, recipe, "toy")
    assert (found.length_penalty, found.block_ngram) == (0.8, 0)


def test_a_recipe_of_before_has_the_papers_plain_sum() -> None:
    assert from_dict(Recipe, {}).decoding == DecodingConfig(0.0, 0)


@pytest.mark.parametrize("values", [{"length_penalty": -1.0}, {"block_ngram": -1}])
def test_values_that_make_no_sense_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="decoding"):
        from_dict(Recipe, {"decoding": values})


def test_it_is_kept_with_the_model(model: Path) -> None:
    pictures = [toys.picture(seed) for seed in range(4)]
    options = {"beam": 4, "max_length": 7}
    plain = Captioner.load(model)
    before = [c.text for c in plain.caption(pictures, **options)]
    wanted = [c.text for c in plain.caption(pictures, **options, length_penalty=0.8, block_ngram=1)]
    assert wanted != before  # the toy says words twice
    store_decoding(model, OWN)
    own = Captioner.load(model)
    assert [c.text for c in own.caption(pictures, **options)] == wanted
    free = {"length_penalty": 0.0, "block_ngram": 0}
    assert [c.text for c in own.caption(pictures, **options, **free)] == before
    assert fine_tuning_recipe(str(model)).decoding == OWN


def test_a_config_that_is_none_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="cannot be changed"):
        store_decoding(tmp_path, OWN)
    assert (tmp_path / "config.json").read_text() == "[]"


def test_evaluate_keeps_what_it_is_told_to_keep(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions, images = toys.write_data(tmp_path)
    command = ["evaluate", "--annotations", captions, "--images", images, "--model", model]
    command += ["--split", "val", "--tokenizer", "python", "--json", tmp_path / "found.json"]
    command += ["--length-penalty", "0.8", "--block-ngram", "1"]

    def settings(*more: str) -> dict[str, object]:
        done = CliRunner().invoke(app, [*map(str, command), *more])
        assert done.exit_code == 0, done.output
        return json.loads((tmp_path / "found.json").read_text())["settings"]

    before = (model / "config.json").read_bytes()
    assert (settings()["length_penalty"], settings()["block_ngram"]) == (0.8, 1)
    assert (model / "config.json").read_bytes() == before
    chances = dict.fromkeys(("probability", "temperature", "confidence"), 0.1)
    fitted = Calibration(Confidence(0.5, 1.0, "val", 3, 2, 60, 0.3, 0.1), chances, chances)
    monkeypatch.setattr("regard.reliability.calibration.calibrate", lambda *_, **__: fitted)
    settings("--calibrate")
    assert Captioner.load(model).confidence == fitted.confidence
    assert Captioner.load(model).config.decoding == DecodingConfig()
    settings("--keep-decoding")
    assert Captioner.load(model).config.decoding == OWN
    shutil.copytree(model, tmp_path / "copy")
    assert Captioner.load(tmp_path / "copy").config.decoding == OWN


@pytest.mark.parametrize("command", ["caption", "bulk"])
def test_the_commands_pass_on_what_is_given_and_no_more(
    command: str, model: Path, tmp_path: Path
) -> None:
    _, images = toys.write_data(tmp_path, 4)
    files = sorted(map(str, images.glob("*.jpg")))

    def said(*more: str) -> list[str]:
        out = tmp_path / f"out{len(more)}"
        given = [*files, "--json"]
        if command == "bulk":
            given = [str(images), str(out), "--engine", "local", "--format", "jsonl"]
        given += ["--model", str(model), "--beam", "4", "--max-length", "7", *more]
        done = CliRunner().invoke(app, [command, *given])
        assert done.exit_code == 0, done.output
        rows = [p.read_text() for p in sorted(out.glob("part-*"))] or [done.stdout]
        return [json.loads(line)["caption"] for text in rows for line in text.splitlines()]

    store_decoding(model, OWN)
    own = Captioner.load(model)
    options = {"beam": 4, "max_length": 7}
    assert said() == [c.text for c in own.caption(files, **options)]
    free = [c.text for c in own.caption(files, **options, length_penalty=0.0, block_ngram=0)]
    assert said("--length-penalty", "0", "--block-ngram", "0") == free
    assert said("--block-ngram", "0") == [
        c.text for c in own.caption(files, **options, block_ngram=0)
    ]
    assert free != [c.text for c in own.caption(files, **options)]
