"""Evaluation in training: which val pictures it takes, and how it decodes them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from regard.config import EncoderConfig, Recipe
from regard.decoding import DecodingOptions, decode
from regard.recipes import override
from regard.training import train
from tests.helpers import toys


def toy_recipe(tmp_path: Path, *settings: str) -> Recipe:
    """Of one epoch over 16 pictures, four of them val: 3, 7, 11, 15."""
    captions, images = toys.write_data(tmp_path, 16)
    own = [f"data.annotations={captions}", f"data.images={images}", "data.min_count=1"]
    recipe = replace(toys.recipe(), encoder=EncoderConfig("small_cnn", 64, "stride8"))
    return override(recipe, [*own, "training.epochs=1", *settings])


def test_a_limit_keeps_the_first_val_pictures(tmp_path: Path) -> None:
    """Scores, samples and diary are of the same pictures, and no other is encoded."""
    settings = ["data.limit=2", "evaluation.limit=2", "evaluation.diary_pictures=6"]
    recipe = toy_recipe(tmp_path, *settings)
    best = train(recipe, tmp_path / "run")
    settings = json.loads((best / "metrics.json").read_text())["settings"]
    assert settings["pictures"] == 2
    page = (tmp_path / "run" / "diary.html").read_text()
    assert page.count("<section") == 2
    assert ("7.jpg" in page, "11.jpg" in page) == (True, False)
    listings = [p for p in (tmp_path / "run" / "annotations").glob("*.json") if "shard" in p.name]
    assert sum(len(json.loads(p.read_text())) for p in listings) == 2 + 2


def test_captions_of_the_evaluation_are_decoded_as_the_recipe_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[DecodingOptions] = []

    def kept(*given: Any, **more: Any) -> Any:
        asked.append(given[2])
        return decode(*given, **more)

    monkeypatch.setattr("regard.training.evaluation.decode", kept)
    settings = ["decoding.length_penalty=0.8", "decoding.block_ngram=2", "evaluation.beam=2"]
    train(toy_recipe(tmp_path, *settings), tmp_path / "run")
    found = {(o.method, o.beam, o.length_penalty, o.block_ngram) for o in asked}
    assert found == {("beam", 2, 0.8, 2)}


def test_japanese_is_scored_by_the_characters_of_the_model(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, "data.tokens=character")
    captions = tmp_path / "captions.csv"
    text = captions.read_text()
    for word, other in (
        ("a dog", "犬が"),
        ("a cat", "猫が"),
        ("a red", "赤い"),
        ("on grass", "草"),
    ):
        text = text.replace(word, other)
    captions.write_text(text.replace(" ", ""), "utf-8")
    best = train(recipe, tmp_path / "run")
    found = json.loads((best / "metrics.json").read_text())
    assert found["settings"]["tokenizer"] == "the model's characters"
