"""Synthetic volumes with lesions of known kinds and places.

The caption names a bright and a dark lesion by size, kind and place; speckled ones are
distractors. Files differ in orientation, tilt, spacing, origin and size.

Points are in millimetres from the scan's middle, along the scan's own x, y, z: the patient's
directions (RAS+), tilted.
"""

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from regard.data.dataset import write_synthetic
from regard.errors import needs_extra
from regard.synthetic.scenes import generators, part_of, spoken

KINDS = ("ball", "shell", "disc", "bar")
"""Solid; hollow; flat; long. A disc and a bar lie along a random axis of the scan."""
TONES = {"bright": 1.0, "dark": -1.0}
SIZES = {"small": (14.0, 16.0), "large": (22.0, 24.0)}
"""Diameters in millimetres."""
PLACES = tuple(
    " ".join(words)
    for words in itertools.product(("lower", "upper"), ("left", "right"), ("back", "front"))
)
FIELD = 64.0
"""Side in millimetres of the cube around the scan's middle that holds all lesions."""

_HOLLOW, _FLAT, _THIN = 0.6, 0.4, 0.4  # of the radius: a shell's core, half a disc, a bar
_OFF_MIDDLE = 5.0  # millimetres at least from a lesion's centre to the middle planes
_GAP = 2.0  # millimetres between two things, and between a thing and the field's border
_TILT = 15.0  # degrees
_TRIES = 300
_SUBSAMPLES = 3  # along each side of a voxel, whose value is their mean

Vector = tuple[float, float, float]
"""(x, y, z) in world millimetres, RAS+."""
Points = list[np.ndarray]
"""x, y and z, each shaped to spread over the axes of the file."""


@dataclass(frozen=True, eq=False)
class VoxelGrid:
    """The voxels of a file and their place in the world; arrays are (3,), by axis of the file.

    Attributes:
        shape: number of voxels.
        spacing: in millimetres.
        axes: the scan's own axis (0 x, 1 y, 2 z) of each.
        signs: 1 for the same direction, -1 for the opposite one.
        tilt: (3, 3), the scan's own axes as columns, in the world.
        middle: middle of the scan in world millimetres.
    """

    shape: np.ndarray
    spacing: np.ndarray
    axes: np.ndarray
    signs: np.ndarray
    tilt: np.ndarray
    middle: np.ndarray

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) from the file's (i, j, k, 1) to world millimetres."""
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

    def world(self, point: np.ndarray) -> Vector:
        """Return the world's point for one of the scan's own."""
        x, y, z = self.middle + self.tilt @ point
        return float(x), float(y), float(z)

    def points(self, indices: list[np.ndarray]) -> Points:
        """Return the points of the voxels that have these indices along the file's axes."""
        points: Points = [np.empty(0)] * 3
        for a in range(3):
            along = self.signs[a] * (indices[a] - (self.shape[a] - 1) / 2) * self.spacing[a]
            points[self.axes[a]] = np.expand_dims(along, [b for b in range(3) if b != a])
        return points

    def near(self, low: np.ndarray, high: np.ndarray) -> tuple[tuple[slice, ...], Points]:
        """Return the voxels around a box, and the points of their subsamples."""
        slices: list[slice] = []
        fine: list[np.ndarray] = []
        steps = (np.arange(_SUBSAMPLES) + 0.5) / _SUBSAMPLES - 0.5
        for a in range(3):
            ends = np.array((low[self.axes[a]], high[self.axes[a]])) * self.signs[a]
            first, last = np.sort(ends) / self.spacing[a] + (self.shape[a] - 1) / 2
            begin = max(0, int(np.floor(first)))
            stop = min(int(self.shape[a]), int(np.ceil(last)) + 1)
            slices.append(slice(begin, stop))
            fine.append((np.arange(begin, stop)[:, None] + steps).reshape(-1))
        return tuple(slices), self.points(fine)


def draw_grid(draw: np.random.Generator) -> VoxelGrid:
    """Draw one of the 48 orders and directions, a tilt, spacings, an origin and a size."""
    spacing = draw.uniform(0.8, 1.6, 3)
    spacing[draw.integers(3)] = draw.uniform(1.6, 3.0)
    axis = draw.normal(size=3)
    return VoxelGrid(
        shape=np.round(draw.uniform(FIELD, FIELD + 12, 3) / spacing).astype(int),
        spacing=spacing,
        axes=draw.permutation(3),
        signs=draw.choice((-1, 1), 3),
        tilt=_rotation(axis / np.linalg.norm(axis), np.deg2rad(draw.uniform(0, _TILT))),
        middle=draw.uniform(-100, 100, 3),
    )


def arrange(
    draw: np.random.Generator, radii: np.ndarray, places: list[str]
) -> tuple[VoxelGrid, np.ndarray]:
    """Draw a grid and the lesions' centres until nothing overlaps.

    The first lesions lie at the places, the others anywhere. A place is right both along the
    world's axes and along the scan's own, which are tilted.
    """
    while True:
        grid = draw_grid(draw)  # another one if the lesions do not fit
        reach = np.minimum(grid.sides, FIELD) / 2 - _GAP - radii[:, None]
        for _ in range(_TRIES):
            centres = draw.uniform(-reach, reach)
            for i, place in enumerate(places):
                centres[i] = _directions(place) * draw.uniform(_OFF_MIDDLE, reach[i])
            if _hold(centres @ grid.tilt.T, places) and all(
                np.linalg.norm(centres[i] - centres[j]) > radii[i] + radii[j] + _GAP
                for i, j in itertools.combinations(range(len(radii)), 2)
            ):
                return grid, centres


def _hold(points: np.ndarray, places: list[str]) -> bool:
    return all(
        (_directions(place) * point).min() >= _OFF_MIDDLE
        for place, point in zip(places, points, strict=False)
    )


def add_lesion(
    draw: np.random.Generator,
    values: np.ndarray,
    grid: VoxelGrid,
    look: tuple[str, str],
    centre: np.ndarray,
    radius: float,
) -> None:
    """Add a lesion to the values, in place: 0.5 brighter or darker, or speckled with both.

    Args:
        draw: generator for a disc's or a bar's axis and for speckles.
        values: (i, j, k), changed in place.
        grid: the grid of the values.
        look: (tone, kind); a tone that is not in `TONES` is speckled.
        centre: in the scan's own millimetres.
        radius: in millimetres.
    """
    tone, kind = look
    where, points = grid.near(centre - radius, centre + radius)
    x, y, z = ((point - c) / radius for point, c in zip(points, centre, strict=True))
    squared = x**2 + y**2 + z**2
    along = ((x, y, z)[int(draw.integers(3))]) ** 2
    inside = squared <= 1
    if kind == "shell":
        inside &= squared >= _HOLLOW**2
    elif kind == "disc":
        inside &= along <= _FLAT**2
    elif kind == "bar":
        inside &= squared - along <= _THIN**2
    share = _averaged(inside)
    values[where] += 0.5 * share * (TONES.get(tone) or draw.choice((-1.0, 1.0), share.shape))


def _directions(place: str) -> np.ndarray:
    """Return +1 or -1 along x, y and z."""
    return np.array([1.0 if word in place else -1.0 for word in ("right", "front", "upper")])


def _rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """Return the rotation by an angle around a unit vector (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _averaged(values: np.ndarray) -> np.ndarray:
    """Return the mean over the subsamples of each voxel."""
    i, j, k = (n // _SUBSAMPLES for n in values.shape)
    parts = values.reshape(i, _SUBSAMPLES, j, _SUBSAMPLES, k, _SUBSAMPLES)
    return parts.mean((1, 3, 5))


_NOISE = 0.06  # of the ground's own shade; lesions are 0.5 brighter or darker


Combination = tuple[tuple[str, str, str], tuple[str, str, str]]
"""(size, kind, place) of the bright and of the dark lesion."""


@dataclass(frozen=True)
class Lesion:
    """One lesion and its place in the world.

    Attributes:
        tone: one of `TONES`, or "speckled".
        size: one of `SIZES`.
        kind: one of `KINDS`.
        place: one of `PLACES`; "" for a speckled one, which the caption does not mention.
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


@cache
def combinations(split: str) -> tuple[Combination, ...]:
    """Return the combinations of lesions that volumes of a split show. The splits share none.

    Raises:
        UnknownName: the split does not exist.
    """
    looks = list(itertools.product(SIZES, KINDS))
    everything: list[Combination] = [
        ((*one, place), (*other, below))
        for place, below in itertools.permutations(PLACES, 2)
        for one, other in itertools.product(looks, repeat=2)
    ]
    return part_of(everything, split)


def make_volumes(count: int, *, split: str = "train", seed: int = 0) -> Iterator[SyntheticVolume]:
    """Make volumes one by one. Volume i does not depend on `count`.

    Args:
        count: number of volumes.
        split: "train", "val" or "test"; their combinations of lesions differ.
        seed: seed of all random choices.

    Raises:
        UnknownName: the split does not exist.
        ConfigError: the count is negative.
    """
    allowed = combinations(split)
    for draw in generators(count, split, seed, "volumes"):
        yield _volume(draw, allowed[draw.integers(len(allowed))])


def write_volumes(
    folder: str | Path, *, train: int = 6000, val: int = 500, test: int = 500, seed: int = 0
) -> Path:
    """Write volumes as a data set: NIfTI files, `dataset.json` and `lesions.json`.

    `dataset.json` is in Karpathy's form. `lesions.json` maps each file to its caption's words (for
    every word the index of the lesion that it describes, or null) and its lesions, whose centres
    are in world millimetres.

    Args:
        folder: created if it does not exist; volumes that were written into it are replaced.
        train: number of training volumes.
        val: number of validation volumes.
        test: number of test volumes.
        seed: seed of all random choices.

    Returns:
        The path of `dataset.json`.

    Raises:
        ConfigError: the folder holds something else.
        DatasetError: the folder cannot be written.
        MissingExtra: nibabel is not installed.
    """
    with needs_extra("nibabel", "volume", "writing NIfTI"):
        from nibabel.nifti1 import Nifti1Image

    def save(volume: SyntheticVolume, path: Path) -> None:
        Nifti1Image(volume.values, volume.affine).to_filename(path)

    def facts(volume: SyntheticVolume) -> dict[str, Any]:
        lesions = [asdict(lesion) for lesion in volume.lesions]
        return {"words": spoken_lesions(volume), "lesions": lesions}

    make = partial(make_volumes, seed=seed)
    return write_synthetic(
        folder, "volumes", (train, val, test), make, save, facts, ".nii.gz", "lesions.json"
    )


def spoken_lesions(volume: SyntheticVolume) -> list[tuple[str, int | None]]:
    """Return each word of the caption with the index of the lesion it names, or None.

    Size, tone and kind name a lesion; the words of its place do not.

    >>> volume = next(make_volumes(1))
    >>> [place for _, place in spoken_lesions(volume)][:4]
    [None, 0, 0, 0]
    """
    return spoken(volume.caption, lambda word: word in (*SIZES, *TONES, *KINDS))


def _volume(draw: np.random.Generator, combination: Combination) -> SyntheticVolume:
    named = [(tone, *lesion) for tone, lesion in zip(TONES, combination, strict=True)]
    others = [
        ("speckled", str(draw.choice(list(SIZES))), "ball", "") for _ in range(draw.integers(1, 3))
    ]
    lesions = [*named, *others]
    diameters = np.array([draw.uniform(*SIZES[size]) for _, size, _, _ in lesions])
    grid, centres = arrange(draw, diameters / 2, [place for _, _, place in combination])
    scale = draw.uniform(100, 3000)  # MRI has no absolute one
    slope = draw.uniform(-0.1, 0.1, 3)
    points = grid.points([np.arange(n) for n in grid.shape])
    shades = 1 + sum(slope[a] * points[a] / (FIELD / 2) for a in range(3))
    values = np.array(np.broadcast_to(shades, grid.shape))
    for (tone, _, kind, _), centre, radius in zip(lesions, centres, diameters / 2, strict=True):
        add_lesion(draw, values, grid, (tone, kind), centre, radius)
    values += draw.normal(0, _NOISE, values.shape)
    return SyntheticVolume(
        (values * scale).round().astype(np.int16),
        grid.affine,
        " and ".join(f"a {size} {tone} {kind} in the {place}" for tone, size, kind, place in named),
        tuple(
            Lesion(*lesion, grid.world(centre), float(diameter))
            for lesion, centre, diameter in zip(lesions, centres, diameters, strict=True)
        ),
    )
