"""What synthetic volumes are made of: a file's place in the world, lesions, rods, their places.

Points are in millimetres from the scan's middle, along the scan's own x, y, z: the patient's
directions (RAS+), tilted.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

KINDS = ("ball", "hole", "shell", "target")
"""Bright; dark; dark with a bright rim; bright with a dark rim."""
SIZES = {"small": (14.0, 16.0), "large": (22.0, 24.0)}
"""Diameters in millimetres."""
PLACES = tuple(
    " ".join(words)
    for words in itertools.product(("lower", "upper"), ("left", "right"), ("back", "front"))
)
FIELD = 64.0
"""Side in millimetres of the cube around the scan's middle that holds all lesions."""

_CORE = 0.65  # of the radius of shells and targets
_OFF_MIDDLE = 5.0  # millimetres at least from a lesion's centre to the middle planes
_ABOVE = 8.0  # millimetres at least between the heights of two lesions
_GAP = 2.0  # millimetres between two things, and between a thing and the field's border
_ROD = 1.5  # millimetres, radius
_TILT = 15.0  # degrees
_TRIES = 300
_SUBSAMPLES = 3  # along each side of a voxel, whose value is their mean

Vector = tuple[float, float, float]
"""(x, y, z) in world millimetres, RAS+."""
Points = list[np.ndarray]
"""x, y and z, each shaped to spread over the axes of the file."""


@dataclass(frozen=True, eq=False)
class Frame:
    """How a file lies in the world; arrays are of three, one for each axis of the file.

    Attributes:
        shape: voxels.
        spacing: in millimetres.
        axes: which of the scan's own axes (0 x, 1 y, 2 z) it is.
        signs: 1 where it runs the same way, -1 where it is turned round.
        tilt: (3, 3), the scan's own axes as columns, in the world.
        middle: of the scan in world millimetres.
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


def draw_frame(draw: np.random.Generator) -> Frame:
    """Draw one of the 48 orders and directions, a tilt, spacings, an origin and a size."""
    spacing = draw.uniform(0.8, 1.6, 3)
    spacing[draw.integers(3)] = draw.uniform(1.6, 3.0)
    axis = draw.normal(size=3)
    return Frame(
        shape=np.round(draw.uniform(FIELD, FIELD + 12, 3) / spacing).astype(int),
        spacing=spacing,
        axes=draw.permutation(3),
        signs=draw.choice((-1, 1), 3),
        tilt=_rotation(axis / np.linalg.norm(axis), np.deg2rad(draw.uniform(0, _TILT))),
        middle=draw.uniform(-100, 100, 3),
    )


def arrange(
    draw: np.random.Generator, radii: np.ndarray, places: list[str]
) -> tuple[Frame, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Draw a frame, the lesions' centres and the ends of one or two rods; nothing overlaps.

    The first lesion is the highest, the second the lowest, a third between them has no place of
    its own. Places and heights hold along the world's axes and along the scan's own, which the
    tilt turns away from them. A frame whose tilt leaves no room for that is drawn anew.
    """
    while True:
        frame = draw_frame(draw)
        reach = np.minimum(frame.sides, FIELD) / 2 - _GAP
        for _ in range(_TRIES):
            centres = _centres(draw, reach - radii[:, None], places)
            if all(_hold(points, places) for points in (centres, centres @ frame.tilt.T)) and all(
                np.linalg.norm(centres[i] - centres[j]) > radii[i] + radii[j] + _GAP
                for i, j in itertools.combinations(range(len(radii)), 2)
            ):
                return frame, centres, _rods(draw, reach, centres, radii)


def _rods(
    draw: np.random.Generator, reach: np.ndarray, centres: np.ndarray, radii: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
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
    return rods


def _centres(draw: np.random.Generator, reach: np.ndarray, places: list[str]) -> np.ndarray:
    centres = draw.uniform(-reach, reach)
    for i, place in enumerate(places):
        centres[i] = _directions(place) * draw.uniform(_OFF_MIDDLE, reach[i])
    return centres


def _hold(points: np.ndarray, places: list[str]) -> bool:
    """Whether points lie at their places and heights along one set of axes."""
    named = [
        (_directions(place) * point).min() for place, point in zip(places, points, strict=False)
    ]
    heights = points[[0, *range(2, len(points)), 1], 2]
    return min(named) >= _OFF_MIDDLE and (-np.diff(heights)).min() >= _ABOVE


def add_lesion(
    values: np.ndarray, frame: Frame, kind: str, centre: np.ndarray, radius: float
) -> None:
    """Lay a ball of 0.5 brighter and darker parts over the values, in place."""
    where, (x, y, z) = frame.near(centre - radius, centre + radius)
    dx, dy, dz = x - centre[0], y - centre[1], z - centre[2]
    depth = np.sqrt(dx**2 + dy**2 + dz**2) / radius
    rim = depth > _CORE
    everywhere = np.ones_like(rim)
    bright = {"ball": everywhere, "hole": ~everywhere, "shell": rim, "target": ~rim}[kind]
    values[where] += 0.5 * _averaged(np.where(bright, 1.0, -1.0) * (depth <= 1))


def add_rod(values: np.ndarray, frame: Frame, start: np.ndarray, stop: np.ndarray) -> None:
    """Lay a thin rod with round ends, 0.5 brighter, over the values, in place."""
    low, high = np.minimum(start, stop) - _ROD, np.maximum(start, stop) + _ROD
    where, points = frame.near(low, high)
    step = stop - start
    offsets = [point - begin for point, begin in zip(points, start, strict=True)]
    share = offsets[0] * step[0] + offsets[1] * step[1] + offsets[2] * step[2]
    share = (share / (step @ step)).clip(0, 1)
    dx, dy, dz = (offset - share * s for offset, s in zip(offsets, step, strict=True))
    values[where] += 0.5 * _averaged((dx**2 + dy**2 + dz**2 <= _ROD**2).astype(np.float64))


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
