"""Synthetic volumes: captions that are decided by the scan, and lesions whose place is known in mm.

A volume holds a bright and a dark lesion, and one or two speckled ones, on a noisy ground. Its
caption is

    a <size> bright <kind> in the <place> and a <size> dark <kind> in the <place>

with two sizes, four kinds and eight places (upper or lower, left or right, back or front), and the
volume leaves no choice in it:

- The bright lesion comes first. Which kind is bright and which dark, no view of the whole tells:
  only a look at the right place does. The size is the first word that needs the look; a model
  that has looked may say the words after it from memory.
- The speckled balls are never spoken of.
- Places are the patient's own, seen from the middle of the scan: left is towards -x of RAS, back
  towards -y, lower towards -z. No lesion that is spoken of is near a middle plane, and the two
  have different places.

Every file is stored in another way: axes swapped and turned round (one of 48), the whole tilted
by up to 15 degrees, voxels of 0.8 to 3 mm that are longest along a random axis, an origin of its
own, intensities on a scale of their own. There are 3,584 combinations (size, kind, place, size,
kind, place); of a shuffled list every eighth is kept for validation and every eighth for testing:
no caption occurs in two splits.
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

from regard.errors import ConfigError, DatasetError, MissingExtra, UnknownName
from regard.synthetic.lesions import FIELD, KINDS, PLACES, SIZES, TONES, Vector, add_lesion, arrange
from regard.synthetic.scenes import SPLITS, begin_folder

_NOISE = 0.06  # of the ground's own shade; lesions are 0.5 brighter or darker

_NAMING = {*SIZES, *TONES, *KINDS}

Combination = tuple[tuple[str, str, str], tuple[str, str, str]]
"""(size, kind, place) of the bright and of the dark lesion."""


@dataclass(frozen=True)
class Lesion:
    """One lesion and its place in the world.

    Attributes:
        tone: one of `TONES`, or "speckled".
        size: one of `SIZES`.
        kind: one of `KINDS`.
        place: one of `PLACES`; "" for a speckled one, which is not spoken of.
        centre: in world millimetres, RAS+.
        diameter: in millimetres.
    """

    tone: str
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
        lesions: bright, dark, then the speckled ones.
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
    for i in range(count):
        draw = np.random.default_rng((seed, SPLITS.index(split), i))
        yield _volume(draw, allowed[draw.integers(len(allowed))])


def write_volumes(
    folder: str | Path, *, train: int = 6000, val: int = 500, test: int = 500, seed: int = 0
) -> Path:
    """Write volumes as a data set: NIfTI files, `dataset.json` and `lesions.json`.

    `dataset.json` is in Karpathy's form. `lesions.json` maps each file to its caption's words (for
    every word the index of the lesion that it speaks of, or null) and its lesions, whose centres
    are in world millimetres.

    Args:
        folder: made where it does not exist; volumes that were written into it are replaced.
        train: training volumes.
        val: validation volumes.
        test: test volumes.
        seed: of all that is drawn.

    Returns:
        The path of `dataset.json`.

    Raises:
        ConfigError: the folder holds something else.
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
        begin_folder(folder, "synthetic volumes")
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

    Size, tone and kind name a lesion; the words of its place do not.

    >>> volume = next(make_volumes(1))
    >>> [place for _, place in spoken_lesions(volume)][:4]
    [None, 0, 0, 0]
    """
    found: list[tuple[str, int | None]] = []
    at = -1
    for word in volume.caption.split():
        at += word in SIZES
        found.append((word, at if word in _NAMING else None))
    return found


@cache
def _split_combinations() -> dict[str, tuple[Combination, ...]]:
    looks = list(itertools.product(SIZES, KINDS))
    everything: list[Combination] = [
        ((*one, place), (*other, below))
        for place, below in itertools.permutations(PLACES, 2)
        for one, other in itertools.product(looks, repeat=2)
    ]
    # Shuffled once and for all: a regular pattern would be a rule that a model can learn.
    random.Random(1).shuffle(everything)
    kept = {0: "val", 4: "test"}
    return {
        split: tuple(c for i, c in enumerate(everything) if kept.get(i % 8, "train") == split)
        for split in SPLITS
    }


def _volume(draw: np.random.Generator, combination: Combination) -> SyntheticVolume:
    named = [(tone, *lesion) for tone, lesion in zip(TONES, combination, strict=True)]
    others = [
        ("speckled", str(draw.choice(list(SIZES))), "ball", "") for _ in range(draw.integers(1, 3))
    ]
    lesions = [*named, *others]
    diameters = np.array([draw.uniform(*SIZES[size]) for _, size, _, _ in lesions])
    frame, centres = arrange(draw, diameters / 2, [place for _, _, place in combination])
    scale = draw.uniform(100, 3000)  # MRI has no absolute one
    slope = draw.uniform(-0.1, 0.1, 3)
    points = frame.points([np.arange(n) for n in frame.shape])
    shades = 1 + sum(slope[a] * points[a] / (FIELD / 2) for a in range(3))
    values = np.array(np.broadcast_to(shades, frame.shape))
    for (tone, _, kind, _), centre, radius in zip(lesions, centres, diameters / 2, strict=True):
        add_lesion(draw, values, frame, (tone, kind), centre, radius)
    values += draw.normal(0, _NOISE, values.shape)
    return SyntheticVolume(
        (values * scale).round().astype(np.int16),
        frame.affine,
        " and ".join(f"a {size} {tone} {kind} in the {place}" for tone, size, kind, place in named),
        tuple(
            Lesion(*lesion, frame.world(centre), float(diameter))
            for lesion, centre, diameter in zip(lesions, centres, diameters, strict=True)
        ),
    )
