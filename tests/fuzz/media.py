"""Damaged pictures, clips and scans through `Captioner.caption`: captions or `RegardError`s."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.children import MEMORY_BYTES, Fault, Outcome, try_items
from tests.fuzz.media_samples import write_media_samples
from tests.fuzz.mutators import KINDS, damaged, damaged_of_kind
from tests.fuzz.tally import Tally

ITEMS = 5000
_REAL_EVERY = 50  # items of which one goes through a model's whole network
_STRANGE_NAMES = 0.04  # of the items have the suffix of another kind
_OF_FORMAT = 0.6  # of the damages know the format
_KEPT_SHOWN = 20
_WORTH_A_CHILD = 200  # items from which a second child pays for its start


def run(scale: float, seed: int, folder: Path) -> Tally:
    """Try `5,000 × scale` damaged files of nine kinds, `seed` deciding the damages."""
    write_media_samples(folder / "seeds")
    count = max(len(KINDS), round(ITEMS * scale))
    return tried(_maker, count, seed, folder, lambda number: content_of(folder, seed, number))


def tried(
    maker: Callable[[Path, int], Callable[[int], str]],
    count: int,
    seed: int,
    folder: Path,
    again: Callable[[int], tuple[str, bytes]],
) -> Tally:
    """Try items in child processes, count them, and keep those that fail.

    Args:
        maker: see `try_items`; its folder is `folder/childN/work`.
        count: number of items.
        seed: seed of the damages.
        folder: working folder.
        again: maps a number to the name and content of its item, to keep it.
    """
    tally, peak, notes = Tally(), 0, Counter[str]()
    children = 1 if count < _WORTH_A_CHILD else 2
    for outcome in try_items(maker, iter(range(count)), seed, folder, children):
        peak = max(peak, outcome.peak)
        if not outcome.fault:
            tally.handle()
            notes[outcome.note] += 1
            continue
        name, content = again(outcome.number)
        kept = Path("build", "fuzz", f"{seed}-{outcome.number}-{name}")
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(content)
        _count_fault(tally, outcome, kept)
    tally.figures.append(", ".join(f"{n} × {note}" for note, n in notes.most_common()))
    tally.figures.append(
        f"{peak / 2**20:.0f} MiB at most for one item; {MEMORY_BYTES // 2**20} MiB are allowed"
    )
    return tally


def _count_fault(tally: Tally, outcome: Outcome, kept: Path) -> None:
    what = f"item {outcome.number} (kept as {kept}): {outcome.fault}"
    if len(tally.troubles) >= _KEPT_SHOWN:
        what = f"item {outcome.number}: {outcome.fault[:300]}"
    if outcome.fault.startswith("outside"):
        tally.lose(what)
    else:
        tally.miss(what)


@cache
def _seeds(folder: Path) -> dict[str, list[tuple[str, bytes]]]:
    found: dict[str, list[tuple[str, bytes]]] = {}
    for path in sorted(folder.iterdir()):
        found.setdefault(path.name.split("-")[0], []).append((path.name, path.read_bytes()))
    return found


def content_of(folder: Path, seed: int, number: int) -> tuple[str, bytes]:
    """Return the name and content of an item; the kinds come in turn."""
    seeds = _seeds(folder / "seeds")
    draw = random.Random(f"media {seed} {number}")
    kind = KINDS[number % len(KINDS)]
    name, content = draw.choice(seeds[kind])
    other = draw.choice(seeds[draw.choice(KINDS)])[1]
    if draw.random() < _OF_FORMAT:
        content = damaged_of_kind(kind, content, other, draw)
    if draw.random() > _OF_FORMAT or content == _whole(seeds, name):
        content = damaged(content, other, draw)
    if draw.random() < _STRANGE_NAMES:
        name = name.partition(".")[0] + draw.choice(seeds[draw.choice(KINDS)])[0].partition("-")[2]
    return name, content


def _whole(seeds: dict[str, list[tuple[str, bytes]]], name: str) -> bytes:
    return dict(seeds[name.split("-")[0]])[name]


def _maker(folder: Path, seed: int) -> Callable[[int], str]:
    """Load the shipped models; return a function that captions one damaged file."""
    from regard import RegardError, load
    from regard.media import medium_of

    real = {medium: load(medium=medium) for medium in ("image", "video", "volume")}
    quick = {
        medium: model.with_backend(_StubBackend(len(model.vocabulary), model.reader.annotation_dim))
        for medium, model in real.items()
    }
    for medium, seed_name in (("image", "png-rgb.png"), ("video", "mp4-h264.mp4"),
                              ("volume", "nifti-int16.nii")):  # fmt: skip
        whole = str(folder.parents[1] / "seeds" / seed_name)
        for models in (real, quick):
            check(models[medium].caption(whole, beam=2))

    def task(number: int) -> str:
        name, content = content_of(folder.parents[1], seed, number)
        path = folder / name
        path.write_bytes(content)
        try:
            models = real if number % _REAL_EVERY == 0 else quick
            found = models[medium_of(str(path))].caption(str(path), beam=2)
        except RegardError as error:
            return refusal(error)
        finally:
            path.unlink()
        check(found)
        return "captioned"

    return task


def refusal(error: Exception) -> str:
    """Return the class of a `RegardError` with a useful message.

    Raises:
        Fault: the message is empty or too long.
    """
    if not 10 < len(str(error)) < 4000:
        raise Fault(f"{type(error).__name__} of {len(str(error))} characters")
    return type(error).__name__


def check(caption: Any) -> None:
    """Check a caption.

    Raises:
        Fault: the caption is invalid.
    """
    try:
        json.dumps(caption.to_json(), allow_nan=False)
    except ValueError as error:
        raise Fault(f"the caption's JSON: {error}") from error
    for word in caption.words:
        if not math.isclose(float(word.alpha.sum()), 1, abs_tol=1e-3):
            raise Fault(f"attention that sums to {word.alpha.sum()}")


@dataclass(frozen=True)
class _StubBackend:
    """A backend that checks the pixels and predicts two words."""

    words: int
    features: int
    encode_batch_size: int = 0

    def encode(self, pixels: np.ndarray, grids: Any, mask: Any = None) -> Any:
        from regard.types import Annotations

        if not np.isfinite(pixels).all() or pixels.dtype != np.float32:
            raise AssertionError(f"the input has {pixels.dtype} values that are not finite")
        if not mask.any(1).all():
            raise AssertionError("the input has no real cell")
        vectors = np.zeros((*mask.shape, self.features), np.float32)
        return Annotations(vectors, mask, grids)

    def init_state(self, annotations: Any, captions_per_item: int = 1) -> Any:
        from regard.types import DecoderState, ProjectedAnnotations

        rows = np.zeros((len(annotations.grids) * captions_per_item, 1), np.float32)
        vectors = annotations.vectors
        return ProjectedAnnotations(vectors, vectors, annotations.mask), DecoderState(rows, rows)

    def step(self, token: Any, state: Any, projected: Any, **_: Any) -> Any:
        from regard.types import DecoderState, Step

        hidden = state.hidden + 1
        logits = np.zeros((len(token), self.words), np.float32)
        logits[:, 2] = np.where(hidden[:, 0] > 2, 9, -9)  # the end after two words
        each = np.repeat(projected.mask, len(token) // len(projected.mask), 0)
        alpha = (each / each.sum(1, keepdims=True)).astype(np.float32)
        return Step(logits, DecoderState(hidden, hidden), alpha)

    def asarray(self, x: np.ndarray) -> np.ndarray:
        return x

    def generator(self, seed: int) -> Any:
        return np.random.default_rng(seed)

    def use_one_core(self) -> Callable[[], None]:
        return lambda: None


__all__ = ["check", "content_of", "refusal", "run", "tried"]
