"""How captions are decoded is a model's own where a caller does not say."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import toys
from regard.captioner import Captioner
from regard.captions import decoding_options, store_decoding
from regard.cli.main import app
from regard.config import DecodingConfig, Recipe
from regard.errors import CheckpointError, ConfigError
from regard.settings import from_dict
from regard.training.fine_tune import fine_tuning_recipe

OWN = DecodingConfig(length_penalty=0.8, block_ngram=1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    toys.captioner().save(folder)
    return folder


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
    options = {"beam": 4, "max_length": 7, "min_length": 6}
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


def test_evaluate_tries_it_and_keeps_it_when_told(model: Path, tmp_path: Path) -> None:
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
    settings("--keep-decoding")
    assert Captioner.load(model).config.decoding == OWN
    shutil.copytree(model, tmp_path / "copy")
    assert Captioner.load(tmp_path / "copy").config.decoding == OWN
