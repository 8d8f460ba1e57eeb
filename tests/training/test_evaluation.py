"""Evaluation in training: which val pictures it takes."""

import json
from dataclasses import replace
from pathlib import Path

import toys
from regard.config import EncoderConfig
from regard.settings import override
from regard.training import train


def test_a_limit_keeps_the_first_val_pictures(tmp_path: Path) -> None:
    """Scores, samples and diary are of the same pictures, and no other is encoded."""
    captions, images = toys.write_data(tmp_path, 16)  # four of them val: 3, 7, 11, 15
    recipe = override(
        replace(toys.recipe(), encoder=EncoderConfig("small_cnn", 64, "stride8")),
        [
            f"data.annotations={captions}",
            f"data.images={images}",
            "data.min_count=1",
            "data.limit=2",
            "training.epochs=1",
            "evaluation.limit=2",
            "evaluation.diary_pictures=6",
        ],
    )
    best = train(recipe, tmp_path / "run")
    settings = json.loads((best / "metrics.json").read_text())["settings"]
    assert settings["pictures"] == 2
    page = (tmp_path / "run" / "diary.html").read_text()
    assert page.count("<section") == 2
    assert ("7.jpg" in page, "11.jpg" in page) == (True, False)
    listings = [p for p in (tmp_path / "run" / "annotations").glob("*.json") if "shard" in p.name]
    assert sum(len(json.loads(p.read_text())) for p in listings) == 2 + 2
