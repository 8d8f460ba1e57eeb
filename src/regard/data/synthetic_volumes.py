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
from regard.errors import ConfigError, DatasetError, MissingExtra, UnknownName

KINDS = ("ball", "hole", "shell", "target", "magnet")
"""Bright; dark; dark with a bright rim; bright with a dark rim; one half bright, one dark."""
SIZES = {"small": (12.0, 14.0), "large": (20.0, 22.0)}
"""Diameters in millimetres."""
PLACES = tuple(
    " ".join(words)
    for words in itertools.product(("lower", "upper"), ("left", "right"), ("back", "front"))
)
FIELD = 64.0
"""Side in millimetres of the cube around the scan's middle that holds all lesions."""

_COUNTS = (2, 3)
_CORE = 0.65  # of the radius of shells and targets
_OFF_MIDDLE = 5.0  # millimetres at least from a lesion's centre to the middle planes
_GAP = 2.0  # millimetres between two things, and between a thing and the field's border
_ROD = 1.5  # millimetres, radius
_TILT = 15.0  # degrees
_SUBSAMPLES = 3  # along each side of a voxel, whose value is their mean

Vector = tuple[float, float, float]
"""(x, y, z) in world millimetres, RAS+."""
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


@dataclass(frozen=True, eq=False)
class _Frame:
    """How a file lies in the world: shape and spacing of its axes, which of the scan's axes (x, y,
    z, tilted) each is, which way it runs, the tilt, and the world's point in its middle."""

    shape: np.ndarray
    spacing: np.ndarray
    axes: np.ndarray
    signs: np.ndarray
    tilt: np.ndarray
    middle: np.ndarray

    @property
    def affine(self) -> np.ndarray:
        affine = np.eye(4)
        affine[:3, :3] = self.tilt[:, self.axes] * self.signs * self.spacing
        affine[:3, 3] = self.middle - affine[:3, :3] @ ((self.shape - 1) / 2)
        return affine

    @property
    def sides(self) -> np.ndarray:
        """Millimetres that the file covers along the scan's own x, y, z."""
        sides = np.empty(3)
        sides[self.axes] = self.shape * self.spacing
        return sides


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
    frame = _frame(draw)
    diameters = np.array([draw.uniform(*SIZES[size]) for size, _, _ in combination])
    places = [place for _, _, place in combination]
    centres, rods = _arrange(draw, frame, diameters / 2, places)
    scale = draw.uniform(100, 3000)  # MRI has no absolute one
    slope = draw.uniform(-0.1, 0.1, 3)
    points = _points(frame, [np.arange(n) for n in frame.shape])
    shades = 1 + sum(slope[a] * points[a] / (FIELD / 2) for a in range(3))
    values = np.array(np.broadcast_to(shades, frame.shape))
    for (_, kind, _), centre, radius in zip(combination, centres, diameters / 2, strict=True):
        _add_lesion(draw, values, frame, kind, centre, radius)
    for start, stop in rods:
        _add_rod(values, frame, start, stop)
    values += draw.normal(0, 0.06, values.shape)
    lesions = tuple(
        Lesion(size, kind, place, _world(frame, centre), float(diameter))
        for (size, kind, place), centre, diameter in zip(
            combination, centres, diameters, strict=True
        )
    )
    caption = " and ".join(f"a {size} {kind} in the {place}" for size, kind, place in combination)
    return SyntheticVolume(
        (values * scale).round().astype(np.int16), frame.affine, caption, lesions
    )


def _frame(draw: np.random.Generator) -> _Frame:
    spacing = draw.uniform(0.8, 1.6, 3)
    spacing[draw.integers(3)] = draw.uniform(1.6, 3.0)
    axis = draw.normal(size=3)
    return _Frame(
        shape=np.round(draw.uniform(FIELD, FIELD + 12, 3) / spacing).astype(int),
        spacing=spacing,
        axes=draw.permutation(3),
        signs=draw.choice((-1, 1), 3),
        tilt=_rotation(axis / np.linalg.norm(axis), np.deg2rad(draw.uniform(0, _TILT))),
        middle=draw.uniform(-100, 100, 3),
    )


def _rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """Return the rotation by an angle around a unit vector (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _world(frame: _Frame, point: np.ndarray) -> Vector:
    x, y, z = frame.middle + frame.tilt @ point
    return float(x), float(y), float(z)


def _directions(place: str) -> np.ndarray:
    upper, right, front = (word in place for word in ("upper", "right", "front"))
    return np.where((right, front, upper), 1.0, -1.0)


def _arrange(
    draw: np.random.Generator, frame: _Frame, radii: np.ndarray, places: list[str]
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Draw lesions' centres and rods' ends until nothing overlaps; millimetres from the middle.

    A place holds along the world's axes and along the scan's own, which the tilt turns away from
    them.
    """
    directions = np.array([_directions(place) for place in places])
    reach = np.minimum(frame.sides, FIELD) / 2 - _GAP
    while True:
        centres = directions * draw.uniform(_OFF_MIDDLE, reach - radii[:, None])
        if ((centres @ frame.tilt.T) * directions).min() < _OFF_MIDDLE:
            continue
        pairs = itertools.combinations(range(len(radii)), 2)
        if all(
            np.linalg.norm(centres[i] - centres[j]) > radii[i] + radii[j] + _GAP for i, j in pairs
        ):
            break
    rods: list[tuple[np.ndarray, np.ndarray]] = []
    wanted = int(draw.integers(1, 3))
    while len(rods) < wanted:
        start, stop = draw.uniform(-reach, reach, (2, 3))
        if not 15 < np.linalg.norm(stop - start) < 30:
            continue
        along = start + np.linspace(0, 1, 12)[:, None] * (stop - start)
        distances = np.linalg.norm(along[:, None] - centres, axis=2)
        if (distances > radii + _ROD + _GAP).all():
            rods.append((start, stop))
    return centres, rods


def _points(frame: _Frame, indices: list[np.ndarray]) -> list[np.ndarray]:
    """Return the scan's own x, y and z of voxels, each shaped to spread over the file's axes."""
    points: list[np.ndarray] = [np.empty(0)] * 3
    for a in range(3):
        along = frame.signs[a] * (indices[a] - (frame.shape[a] - 1) / 2) * frame.spacing[a]
        points[frame.axes[a]] = np.expand_dims(along, [b for b in range(3) if b != a])
    return points


def _near(frame: _Frame, low: np.ndarray, high: np.ndarray) -> tuple[tuple[slice, ...], Any]:
    """Return the voxels around a box of the scan's own axes, and the points within them."""
    slices: list[slice] = []
    fine: list[np.ndarray] = []
    steps = (np.arange(_SUBSAMPLES) + 0.5) / _SUBSAMPLES - 0.5
    for a in range(3):
        ends = np.array((low[frame.axes[a]], high[frame.axes[a]])) * frame.signs[a]
        first, last = np.sort(ends) / frame.spacing[a] + (frame.shape[a] - 1) / 2
        begin = max(0, int(np.floor(first)))
        stop = min(int(frame.shape[a]), int(np.ceil(last)) + 1)
        slices.append(slice(begin, stop))
        fine.append((np.arange(begin, stop)[:, None] + steps).reshape(-1))
    return tuple(slices), _points(frame, fine)


def _averaged(values: np.ndarray) -> np.ndarray:
    i, j, k = (n // _SUBSAMPLES for n in values.shape)
    parts = values.reshape(i, _SUBSAMPLES, j, _SUBSAMPLES, k, _SUBSAMPLES)
    return parts.mean((1, 3, 5))


def _add_lesion(
    draw: np.random.Generator,
    values: np.ndarray,
    frame: _Frame,
    kind: str,
    centre: np.ndarray,
    radius: float,
) -> None:
    where, (x, y, z) = _near(frame, centre - radius, centre + radius)
    dx, dy, dz = x - centre[0], y - centre[1], z - centre[2]
    depth = np.sqrt(dx**2 + dy**2 + dz**2) / radius
    bright = {
        "ball": depth >= 0,
        "hole": depth < 0,
        "shell": depth > _CORE,
        "target": depth < _CORE,
    }
    if kind == "magnet":
        across = draw.normal(size=3)
        sign = np.where(dx * across[0] + dy * across[1] + dz * across[2] > 0, 1.0, -1.0)
    else:
        sign = np.where(bright[kind], 1.0, -1.0)
    values[where] += 0.5 * _averaged(sign * (depth <= 1))


def _add_rod(values: np.ndarray, frame: _Frame, start: np.ndarray, stop: np.ndarray) -> None:
    low, high = np.minimum(start, stop) - _ROD, np.maximum(start, stop) + _ROD
    where, (x, y, z) = _near(frame, low, high)
    step = stop - start
    offset = (x - start[0], y - start[1], z - start[2])
    share = sum(o * s for o, s in zip(offset, step, strict=True)) / (step @ step)
    share = np.clip(share, 0, 1)
    distance = sum((o - share * s) ** 2 for o, s in zip(offset, step, strict=True))
    values[where] += 0.5 * _averaged((distance <= _ROD**2).astype(float))
