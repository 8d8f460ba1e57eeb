"""Many sources: streams, batches, failures in their places, the faster way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regard.captioner import Captioner, Deferred, Failure
from regard.errors import ConfigError, MediaError
from regard.media import read_image
from regard.types import Caption
from tests.helpers.toy_models import captioner
from tests.helpers.toys import jpeg, picture


@pytest.fixture(scope="module")
def model() -> Captioner:
    return captioner()


def test_a_bad_item_fails_alone_and_in_its_place(model: Captioner, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    sources: list[Any] = [picture(0), tmp_path / "text.jpg", picture(1), b"", tmp_path / "none.png"]
    results = list(model.caption_many(sources, batch_size=2))
    assert [type(r) for r in results] == [Caption, Failure, Caption, Failure, Failure]
    failures = [r for r in results if isinstance(r, Failure)]
    assert [f.file for f in failures] == [str(sources[1]), "<bytes>", str(sources[4])]
    assert all(isinstance(f.error, MediaError) for f in failures)
    with pytest.raises(MediaError, match=r"text\.jpg"):
        model.caption(sources)


def test_batches_are_the_callers_choice_and_none_is_lost(model: Captioner) -> None:
    given = [picture(i) for i in range(5)]
    sizes: list[int] = []
    encode = model.backend.encode

    def counted(pixels: Any, *others: Any) -> Any:
        sizes.append(len(pixels))
        return encode(pixels, *others)

    backend = SimpleNamespace(
        encode=counted, init_state=model.backend.init_state, step=model.backend.step,
        asarray=model.backend.asarray, generator=model.backend.generator,
        encode_batch_size=0,
    )  # fmt: skip
    other = model.with_backend(backend)  # type: ignore[arg-type]
    found = list(other.caption_batches([given[:1], [], given[1:4], given[4:]], beam=1))
    assert sizes == [1, 3, 1]
    assert [str(c) for c in found] == [str(c) for c in model.caption(given, beam=1)]


def test_a_deferred_source_is_fetched_when_its_turn_comes(model: Captioner) -> None:
    fetched: list[int] = []

    def fetch(number: int) -> bytes:
        fetched.append(number)
        if number == 1:
            raise MediaError("photo-1 could not be fetched.")
        return jpeg(number)

    sources = [Deferred(f"photo-{n}", partial(fetch, n)) for n in range(6)]
    results = model.caption_many(sources, batch_size=2, beam=1, max_length=2)
    first, second = next(results), next(results)
    assert isinstance(first, Caption)
    assert first.file == "photo-0"
    assert isinstance(second, Failure)
    assert (second.file, str(second.error)) == ("photo-1", "photo-1 could not be fetched.")
    assert max(fetched) < 4
    results.close()  # type: ignore[attr-defined]


def test_a_stream_is_read_one_batch_ahead_and_no_more(model: Captioner) -> None:
    taken = itertools.count()

    def endless() -> Iterator[np.ndarray]:
        while True:
            yield picture(next(taken))

    results = model.caption_many(endless(), batch_size=2, beam=1, max_length=2)
    for _ in range(3):
        next(results)
    assert next(taken) == 6  # two batches captioned, one read ahead
    results.close()  # type: ignore[attr-defined]


def test_onnxruntime_captions_as_torch_does() -> None:
    slow = captioner()
    assert slow.accelerated(10) is slow
    fast = slow.accelerated(10_000)
    assert fast is not slow
    assert fast.items_at_once(32) == 32
    assert slow.accelerated(160, cores=8).items_at_once(32) == 20  # something for every core
    pictures = [picture(seed) for seed in range(3)]
    for one, other in zip(slow.caption(pictures), fast.caption(pictures), strict=True):
        assert one.text == other.text
        np.testing.assert_allclose(one.trace.alpha, other.trace.alpha, atol=1e-4)
    media = [read_image(p) for p in pictures]
    one, other = (np.asarray(model.annotate(media).vectors) for model in (slow, fast))
    assert (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other) > 0.9999


@pytest.mark.parametrize("pictures", [3, 200])
def test_pictures_that_are_not_kept_take_no_room_and_change_nothing(pictures: int) -> None:
    model = captioner().accelerated(pictures, cores=2)
    given = [picture(seed) for seed in range(3)]
    kept = list(model.caption_many(given))
    found = list(model.caption_many(given, keep_pixels=False))
    for one, other in zip(kept, found, strict=True):
        assert isinstance(one, Caption)
        assert isinstance(other, Caption)
        assert one.to_json() | {"seconds": 0} == other.to_json() | {"seconds": 0}
        assert one.media is not None
        assert other.media is not None
        assert other.media.digest == one.media.digest
        assert one.pixels is not None
        assert other.pixels is None
        assert other.media.pixels.base is None  # nor a view of what was read
    with pytest.raises(ConfigError, match="holds no picture to draw on"):
        found[0].figure()  # type: ignore[union-attr]


def test_files_whose_pixels_are_not_kept_are_not_copied_out_of_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = captioner()
    file = tmp_path / "a.png"
    Image.fromarray(picture(0)).save(file)
    (kept,) = model.caption_many([file])
    monkeypatch.setattr("regard.media.image.to_rgb", lambda *_: pytest.fail("it was copied"))
    (found,) = model.caption_many([file], keep_pixels=False)
    assert isinstance(kept, Caption)
    assert isinstance(found, Caption)
    assert found.media is not None
    assert found.media.picture is None
    assert kept.to_json() | {"seconds": 0} == found.to_json() | {"seconds": 0}
