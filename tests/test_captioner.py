"""The captioner: sources of every kind, batches, failures, the JSON."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import toys
from regard.captioner import Captioner, Failure
from regard.errors import MediaError, UnknownName


@pytest.fixture(scope="module")
def model() -> Captioner:
    return toys.captioner()


def test_every_kind_of_source(model: Captioner, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(toys.picture()).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    sources = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        buffer.getvalue(),
        Image.fromarray(toys.picture()),
        toys.picture(),
        torch.from_numpy(toys.picture().copy()).permute(2, 0, 1),
    ]
    alone = [model.caption(s, max_length=4) for s in sources]
    together = model.caption(sources, max_length=4, batch_size=4)
    for one, other in zip(alone, together, strict=True):
        assert one.text == other.text == alone[0].text
        np.testing.assert_allclose(one.trace.alpha, other.trace.alpha, atol=1e-5)


def test_a_batch_equals_one_by_one(model: Captioner) -> None:
    pictures = [toys.picture(i, (30 + i, 50)) for i in range(5)]
    together = model.caption(pictures, max_length=6, beam=2)
    for picture, other in zip(pictures, together, strict=True):
        one = model.caption(picture, max_length=6, beam=2)
        assert one.text == other.text
        np.testing.assert_allclose(one.trace.alpha, other.trace.alpha, atol=1e-5)
        assert one.grid == other.grid


def test_words_carry_their_trace(model: Captioner) -> None:
    caption = model.caption(toys.picture(), max_length=4, min_length=2, n_best=2)
    assert len(caption.words) == len(caption.trace.alpha) >= 2
    word = caption.words[1]
    assert word.alpha.shape == (2, 2)
    assert word.alpha.sum() == pytest.approx(1, abs=1e-5)
    assert word.peak == word.alpha.max()
    assert word.entropy == pytest.approx(-(word.alpha * np.log(word.alpha)).sum(), abs=1e-5)
    assert len(word.alternatives) == 5
    assert len(caption.n_best) == 1
    assert caption.score >= caption.n_best[0].score


def test_json_has_the_schema_to_the_letter(model: Captioner) -> None:
    caption = model.caption(toys.picture(), max_length=4, min_length=1)
    record = json.loads(json.dumps(caption.to_json()))
    assert list(record) == [
        "schema_version", "file", "medium", "caption", "score", "finished", "words", "grid",
        "alpha", "n_best", "model", "seconds",
    ]  # fmt: skip
    assert list(record["words"][0]) == [
        "text", "logprob", "beta", "entropy", "peak", "location", "alternatives",
    ]  # fmt: skip
    assert record["grid"] == {"axes": ["rows", "cols"], "shape": [2, 2], "source_size": [40, 60]}
    assert len(record["alpha"]) == len(record["words"])
    assert sum(record["alpha"][0]) == pytest.approx(1, abs=1e-5)
    assert "alpha" not in caption.to_json(alpha=False)


def test_one_bad_file_does_not_stop_the_others(model: Captioner, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no picture")
    sources = [toys.picture(), tmp_path / "bad.jpg", tmp_path / "gone.jpg", toys.picture(1)]
    results = list(model.caption_many(sources, batch_size=3, max_length=3))
    assert [isinstance(r, Failure) for r in results] == [False, True, True, False]
    assert results[1].file.endswith("bad.jpg")
    with pytest.raises(MediaError, match="bad.jpg"):
        model.caption(sources)
    assert model.caption([]) == []


def test_prefix_and_banned_words_are_text(model: Captioner) -> None:
    caption = model.caption(toys.picture(), prefix="red dog", max_length=5)
    assert caption.text.startswith("red dog")
    assert "grass" not in model.caption(toys.picture(), banned="grass cat", max_length=6).text
    with pytest.raises(UnknownName, match="'beam'"):
        model.caption(toys.picture(), beem=3)


def test_hard_attention_says_how_its_context_was_formed() -> None:
    model = toys.captioner(attention="hard")
    for context in ("sample", "argmax", "expected"):
        caption = model.caption(toys.picture(), max_length=3, min_length=2, context=context)
        assert caption.trace.context == context
        assert (caption.words[0].location is None) == (context == "expected")
    caption = model.caption(toys.picture(), max_length=3, min_length=2, context="argmax")
    assert caption.words[0].location == caption.words[0].alpha.argmax()
