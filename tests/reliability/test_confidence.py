"""How sure captions say they are: values by hand, and what is stored with a model."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from regard.captioner import Captioner
from regard.cli.main import app
from regard.errors import CheckpointError
from regard.explain.page import Explanation, explanation_page
from regard.pretrained import shipped_models
from regard.reliability.confidence import Confidence, store_confidence, unsure_text, unsure_words
from regard.types import Caption
from tests.helpers import toys

MADE = Confidence(0.5, 1.0, "val", 3, 1000, 4000, 0.3, 0.02)


def said(texts: tuple[str, ...], *probabilities: float) -> Caption:
    caption = toys.caption(texts)
    words = (
        replace(w, logprob=math.log(p)) for w, p in zip(caption.words, probabilities, strict=True)
    )
    return replace(caption, words=tuple(words))


def test_values_by_hand() -> None:
    assert MADE.chance(math.log(0.5)) == pytest.approx(1 / (1 + math.exp(-1)))
    assert MADE.chance(math.log(0.2)) == pytest.approx(1 / (1 + math.exp(-1) * 2))  # (1/4) ** -0.5
    assert 0 < MADE.chance(-1000.0) < MADE.chance(-1.0) < MADE.chance(0.0) < 1


def test_content_words_have_a_confidence_and_the_caption_their_mean() -> None:
    caption = MADE.rate(said(("a", "dog", "runs"), 0.9, 0.5, 0.2))
    first, *others = [word.confidence for word in caption.words]
    assert first is None
    assert others == [MADE.chance(math.log(0.5)), MADE.chance(math.log(0.2))]
    assert caption.confidence == pytest.approx((0.731059 + 0.576117) / 2, abs=1e-5)
    assert unsure_words(caption, 0.6) == (2,)
    assert unsure_text(caption, 0.6) == "a dog runs(?)"
    assert unsure_text(caption, 0.0) == "a dog runs"
    assert unsure_words(caption, caption.words[2].confidence or 0.0) == ()  # not below itself
    assert MADE.rate(said(("a", "the"), 0.5, 0.5)).confidence is None
    assert MADE.rate(toys.caption(())).words == ()


def test_a_word_of_pieces_has_one_confidence() -> None:
    pieces = said(("a", "␣", "do", "g", "␣", "runs"), 0.5, 0.5, 0.5, 0.8, 0.5, 0.5)
    caption = MADE.rate(replace(pieces, text="a dog runs"))
    known = [word.confidence for word in caption.words]
    assert known[2] == known[3] == MADE.chance(math.log(0.5) + math.log(0.8))
    assert known[:2] == [None, None]
    assert unsure_words(caption, 0.72) == (2, 3)
    assert unsure_text(caption, 0.72) == "a dog(?) runs"


def test_json_and_page_say_it_where_it_is_known() -> None:
    plain = said(("a", "dog", "runs"), 0.9, 0.5, 0.2)
    record, before = MADE.rate(plain).to_json(), plain.to_json()
    assert record.pop("confidence") == pytest.approx((0.7311 + 0.5761) / 2, abs=1e-3)
    assert [word.pop("confidence", None) for word in record["words"]] == [None, 0.7311, 0.5761]
    assert record == before
    page, other = (explanation_page([Explanation(c)]) for c in (MADE.rate(plain), plain))
    assert "confidence 73%" in page
    assert "content words 65% can be expected" in page
    assert "onfidence" not in other


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "toy"
    toys.captioner().save(path)
    return path


def test_it_is_stored_with_the_model_and_changes_no_caption(folder: Path, tmp_path: Path) -> None:
    old = Captioner.load(folder)
    assert old.confidence is None
    shutil.copytree(folder, tmp_path / "new")
    store_confidence(tmp_path / "new", MADE)
    new = Captioner.load(tmp_path / "new")
    assert new.confidence == MADE
    assert new.for_clips().confidence is None
    pictures = [toys.picture(seed) for seed in range(3)]
    before = old.caption(pictures, beam=2, n_best=2)
    after = new.caption(pictures, beam=2, n_best=2)
    assert [c.to_json() | {"seconds": 0} for c in before] == [
        replace(
            c, confidence=None, words=tuple(replace(w, confidence=None) for w in c.words), seconds=0
        ).to_json()
        for c in after
    ]
    assert any(word.confidence is not None for c in after for word in c.n_best[0].words)
    new.save(tmp_path / "again")
    assert Captioner.load(tmp_path / "again").confidence == MADE


def test_a_light_model_has_it_too(tmp_path: Path) -> None:
    copy = tmp_path / "light"
    shutil.copytree(shipped_models()["flickr8k-soft"], copy)
    store_confidence(copy, MADE)
    model = Captioner.load(copy, backend="onnx")  # its graphs are not stale
    assert model.confidence == MADE
    assert model.caption(toys.picture()).confidence is not None


@pytest.mark.parametrize(
    "damage",
    [
        None, [], "x", 3, {}, {"scale": 0.5},
        *({"scale": v} for v in (0, -1, math.nan, math.inf, 10**400, "1", True, None, [])),
        {"shift": 1000}, {"error": 2}, {"error_before": -0.1}, {"words": 1.5}, {"split": 3},
        {"more": 1},
    ],
    ids=lambda damage: f"{damage!r:.40}",
)  # fmt: skip
def test_a_damaged_confidence_is_one_clear_error(folder: Path, damage: Any, tmp_path: Path) -> None:
    whole = MADE.to_json()
    is_part = isinstance(damage, dict) and len(damage) == 1 and damage != {"scale": 0.5}
    stored = whole | damage if is_part else damage
    shutil.copytree(folder, tmp_path / "toy")
    path = tmp_path / "toy" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"confidence": stored}))
    if stored is None:
        assert Captioner.load(path.parent).confidence is None
        return
    with pytest.raises(CheckpointError, match="confidence in config.json is damaged"):
        Captioner.load(path.parent)


def test_a_config_that_cannot_be_changed_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be changed"):
        store_confidence(tmp_path, MADE)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="cannot be changed"):
        store_confidence(tmp_path, MADE)
    assert (tmp_path / "config.json").read_text() == "[]"


def test_the_command_marks_words(folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(toys.jpeg())
    shutil.copytree(folder, tmp_path / "sure")
    store_confidence(tmp_path / "sure", MADE)

    def run(model: Path, *options: str):
        return CliRunner().invoke(
            app, ["caption", str(picture), "--model", str(model), "--beam", "1", *options]
        )

    plain = run(folder).stdout.strip()
    assert run(tmp_path / "sure").stdout.strip() == plain
    marked = run(tmp_path / "sure", "--unsure", "1").stdout.strip()
    assert "(?)" in marked
    assert marked.replace("(?)", "") == plain
    record = json.loads(run(tmp_path / "sure", "--unsure", "1", "--json", "--no-alpha").stdout)
    assert record["unsure"] == [t for t, w in enumerate(record["words"]) if "confidence" in w]
    assert "unsure" not in json.loads(run(tmp_path / "sure", "--json", "--no-alpha").stdout)
    refused = run(folder, "--unsure", "0.5")
    assert refused.exit_code != 0
    assert "was not calibrated" in str(refused.exception)
