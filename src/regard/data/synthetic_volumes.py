"""Synthetic volumes: captions that are decided by the scan, and lesions whose place is known in mm.

A volume holds two or three lesions and one or two bright rods on a noisy ground. Its caption is

    a <size> <kind> in the <upper|lower> <left|right> <front|back> and a ...

with two sizes, five kinds and eight places, and the volume leaves no choice in it:

- Kinds do not repeat in a volume, and are named in the order of `KINDS`.
- Places are the patient's own, seen from the middle of the scan: left is towards -x of RAS,
  back towards -y, lower towards -z. No lesion is near a middle plane, and no two share a place.
- The rods are never spoken of.

Every file is stored in another way: axes swapped and turned round (one of 48), the whole tilted
by up to 15 degrees, voxels of 0.8 to 3 mm that are longest along a random axis, an origin of its
own, intensities on a scale of their own. There are 29,120 combinations of lesions; of a shuffled
list every eighth is kept for validation and every eighth for testing: no caption occurs in two
splits.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from regard.data.synthetic import SPLITS
from regard.data.synthetic_lesions import (
    FIELD,
    KINDS,
    PLACES,
    SIZES,
    Vector,
    add_lesion,
    add_rod,
    arrange,
    draw_frame,
)
from regard.errors import ConfigError, DatasetError, MissingExtra, UnknownName

_COUNTS = (2, 3)

Combination = tuple[tuple[str, str, str], ...]
"""(size, kind, place) of each lesion, in the order of the caption."""


@dataclass(frozen=True)
class Lesion:
    """One lesion and its place in the world.

    Attributes:
        size: one of `SIZES`.
        kind: one of `KINDS`.
        place: one of `PLACES`.
        centre: in world millimetres, RAS+.
        diameter: in millimetres.
    """

    size: str
    kind: str
    place: str
    centre: Vector
    diameter: float

    @property
    def box(self) -> tuple[tuple[float, float], ...]:
        """(start, stop) along x, y and z in world millimetres."""
        return tuple((c - self.diameter / 2, c + self.diameter / 2) for c in self.centre)


@dataclass(frozen=True, eq=False)
class SyntheticVolume:
    """A volume as its file stores it, its caption, and where the lesions are.

    Attributes:
        values: (i, j, k) int16.
        affine: (4, 4) from (i, j, k, 1) to world millimetres, RAS+.
        caption: the one right caption.
        lesions: in the order of the caption.
    """

    values: np.ndarray
    affine: np.ndarray
    caption: str
    lesions: tuple[Lesion, ...]


def combinations(split: str) -> tuple[Combination, ...]:
    """Return the combinations of lesions that volumes of a split show; the splits share none.

    Raises:
        UnknownName: no such split.
    """
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)
    return _split_combinations()[split]


def make_volumes(count: int, *, split: str = "train", seed: int = 0) -> Iterator[SyntheticVolume]:
    """Make volumes one by one; volume i is the same whatever `count` is.

    Args:
        count: how many.
        split: "train", "val" or "test"; their combinations of lesions differ.
        seed: of all that is drawn.

    Raises:
        UnknownName: no such split.
        ConfigError: a negative count.
    """
    allowed = combinations(split)
    if count < 0:
        raise ConfigError(f"{count} volumes cannot be made; wanted 0 or more.")
    by_count = [[c for c in allowed if len(c) == n] for n in _COUNTS]
    for i in range(count):
        draw = np.random.default_rng((seed, SPLITS.index(split), i))
        some = by_count[draw.integers(len(by_count))]
        yield _volume(draw, some[draw.integers(len(some))])


def write_volumes(
    folder: str | Path, *, train: int = 3000, val: int = 200, test: int = 300, seed: int = 0
) -> Path:
    """Write volumes as a data set: NIfTI files, `dataset.json` and `lesions.json`.

    `dataset.json` is in Karpathy's form. `lesions.json` maps each file to its caption's words (for
    every word the index of the lesion that it speaks of, or null) and its lesions, whose centres
    are in world millimetres.

    Args:
        folder: made where it does not exist; files of the same names are replaced.
        train: training volumes.
        val: validation volumes.
        test: test volumes.
        seed: of all that is drawn.

    Returns:
        The path of `dataset.json`.

    Raises:
        DatasetError: the folder cannot be written.
        MissingExtra: nibabel is not installed.
    """
    try:
        from nibabel.nifti1 import Nifti1Image
    except ImportError as error:
        raise MissingExtra("nibabel", "volume", "writing NIfTI") from error
    folder = Path(folder)
    images: list[dict[str, Any]] = []
    lesions: dict[str, Any] = {}
    try:
        for split, count in zip(SPLITS, (train, val, test), strict=True):
            (folder / split).mkdir(parents=True, exist_ok=True)
            for i, volume in enumerate(make_volumes(count, split=split, seed=seed)):
                name = f"{i:05d}.nii.gz"
                Nifti1Image(volume.values, volume.affine).to_filename(folder / split / name)
                sentence = {"raw": volume.caption, "tokens": volume.caption.split()}
                images.append(
                    {"filepath": split, "filename": name, "split": split, "sentences": [sentence]}
                )
                lesions[f"{split}/{name}"] = {
                    "words": spoken_lesions(volume),
                    "lesions": [asdict(lesion) for lesion in volume.lesions],
                }
        (folder / "lesions.json").write_text(json.dumps(lesions), "utf-8")
        dataset = folder / "dataset.json"
        dataset.write_text(json.dumps({"dataset": "synthetic volumes", "images": images}), "utf-8")
    except OSError as error:
        raise DatasetError(f"volumes cannot be written to {folder}: {error.strerror}.") from error
    return dataset


def spoken_lesions(volume: SyntheticVolume) -> list[tuple[str, int | None]]:
    """Return each word of the caption with the index of the lesion it names, or None.

    Size and kind name a lesion; the words of its place, which may be known from elsewhere, do not.

    >>> volume = next(make_volumes(1))
    >>> [place for _, place in spoken_lesions(volume)][:4]
    [None, 0, 0, None]
    """
    found: list[tuple[str, int | None]] = []
    at = -1
    for word in volume.caption.split():
        at += word in SIZES
        found.append((word, at if word in SIZES or word in KINDS else None))
    return found


@cache
def _split_combinations() -> dict[str, tuple[Combination, ...]]:
    everything: list[Combination] = []
    for count in _COUNTS:
        for kinds in itertools.combinations(KINDS, count):
            for sizes in itertools.product(SIZES, repeat=count):
                for places in itertools.permutations(PLACES, count):
                    everything.append(tuple(zip(sizes, kinds, places, strict=True)))
    # Shuffled once and for all: a regular pattern would be a rule that a model can learn.
    random.Random(1).shuffle(everything)
    kept = {0: "val", 4: "test"}
    return {
        split: tuple(c for i, c in enumerate(everything) if kept.get(i % 8, "train") == split)
        for split in SPLITS
    }


def _volume(draw: np.random.Generator, combination: Combination) -> SyntheticVolume:
    frame = draw_frame(draw)
    diameters = np.array([draw.uniform(*SIZES[size]) for size, _, _ in combination])
    places = [place for _, _, place in combination]
    centres, rods = arrange(draw, frame, diameters / 2, places)
    scale = draw.uniform(100, 3000)  # MRI has no absolute one
    slope = draw.uniform(-0.1, 0.1, 3)
    points = frame.points([np.arange(n) for n in frame.shape])
    shades = 1 + sum(slope[a] * points[a] / (FIELD / 2) for a in range(3))
    values = np.array(np.broadcast_to(shades, frame.shape))
    for (_, kind, _), centre, radius in zip(combination, centres, diameters / 2, strict=True):
        add_lesion(draw, values, frame, kind, centre, radius)
    for start, stop in rods:
        add_rod(values, frame, start, stop)
    values += draw.normal(0, 0.06, values.shape)
    lesions = tuple(
        Lesion(size, kind, place, frame.world(centre), float(diameter))
        for (size, kind, place), centre, diameter in zip(
            combination, centres, diameters, strict=True
        )
    )
    caption = " and ".join(f"a {size} {kind} in the {place}" for size, kind, place in combination)
    return SyntheticVolume(
        (values * scale).round().astype(np.int16), frame.affine, caption, lesions
    )
