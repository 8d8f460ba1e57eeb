"""The three planes through a point of a scan, as pictures that a word's attention is painted on.

Radiological convention: the patient's right is on the viewer's left, and in the sagittal plane
anterior is on the viewer's left. The planes are the scan's own; nothing is turned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regard.explain.maps import between, paint
from regard.explain.scan.volume_maps import along, mixed
from regard.explain.tiles import grey_slice
from regard.types import Grid, Scan

NAMES = ("axial", "coronal", "sagittal")
"""The plane across each axis of a scan."""
SEEN = ((1, 2), (0, 2), (0, 1))
"""The axes that run up and across a plane, each from high to low as the viewer sees it."""
_LETTERS = ("LR", "PA", "IS")  # the ends of world x, y and z


@dataclass(frozen=True)
class Plane:
    """One plane as it is drawn.

    Attributes:
        name: "axial", "coronal" or "sagittal".
        picture: (height, width, 3) uint8.
        size: (down, across) in millimetres; the picture's sides have this proportion.
        point: the point's (down, across) in millimetres from the picture's upper left corner.
        edges: the letters at its left, right, upper and lower edge, such as ("R", "L", "A", "P").
        box: of a framed cell (top, left, bottom, right), likewise; None without one.
    """

    name: str
    picture: np.ndarray
    size: tuple[float, float]
    point: tuple[float, float]
    edges: tuple[str, str, str, str]
    box: tuple[float, float, float, float] | None = None


def three_planes(
    scan: Scan,
    grid: Grid,
    point: tuple[float, float, float],
    *,
    alpha: np.ndarray | None = None,
    top: float = 1.0,
    smooth: bool = True,
    cell: tuple[tuple[float, float], ...] | None = None,
    pixels: int = 260,
) -> tuple[Plane, Plane, Plane]:
    """Return the axial, coronal and sagittal plane through a point.

    Args:
        scan: in canonical orientation.
        grid: of its cells.
        point: (slices, rows, cols) in millimetres from the scan's corner; one beyond the scan
            (on padding) is taken to its border.
        alpha: (slices, rows, cols) weights of one word; None draws the scan alone.
        top: of the colour scale in multiples of uniform.
        smooth: smoothed map or raw cells.
        cell: bounds of a cell to frame.
        pixels: of the longest side of the scan.
    """
    inside = np.clip(point, 0, np.array(grid.source_size) * (1 - 1e-9))
    scale = pixels / max(grid.source_size)
    lattice = [_places(size, scale) for size in grid.source_size]
    axial, coronal, sagittal = (
        _plane(scan, grid, axis, inside, lattice, alpha, top, smooth, cell) for axis in range(3)
    )
    return axial, coronal, sagittal


def oblique_degrees(scan: Scan) -> float:
    """Return by how much the scan's axes are turned from the world's, at most, in degrees."""
    directions = scan.affine[:3, :3] / np.linalg.norm(scan.affine[:3, :3], axis=0)
    nearest = np.abs(directions).max(0).clip(0, 1)
    return float(np.degrees(np.arccos(nearest)).max())


def ends(scan: Scan) -> tuple[tuple[str, str], ...]:
    """Return for each axis of a scan the letters at its low and at its high end."""
    found: list[tuple[str, str]] = []
    for direction in scan.affine[:3, :3].T:
        world = int(np.abs(direction).argmax())
        low, high = _LETTERS[world]
        found.append((low, high) if direction[world] > 0 else (high, low))
    return tuple(found)


def _plane(
    scan: Scan, grid: Grid, axis: int, point: np.ndarray, lattice: list[np.ndarray],
    alpha: np.ndarray | None, top: float, smooth: bool,
    cell: tuple[tuple[float, float], ...] | None,
) -> Plane:  # fmt: skip
    up, across = SEEN[axis]
    number = min(int(point[axis] / scan.spacing[axis]), scan.pixels.shape[axis] - 1)
    rows, cols = (
        between(lattice[seen] / scan.spacing[seen], scan.pixels.shape[seen])
        for seen in (up, across)
    )
    shades = grey_slice(scan, rows @ scan.pixels.take(number, axis).astype(np.float64) @ cols.T)
    picture = np.repeat(shades[..., None], 3, axis=-1)
    if alpha is not None:
        at = [lattice[i] if i != axis else point[[axis]] for i in range(3)]
        first, second, third = (along(grid, i, at[i], smooth=smooth) for i in range(3))
        relative = mixed(alpha, (first, second, third), grid.real_cells).squeeze(axis)
        picture = paint(picture, relative, top)
    high, wide = grid.source_size[up], grid.source_size[across]
    letters = ends(scan)
    box = None
    if cell is not None:
        (low, top_end), (near, far) = cell[up], cell[across]
        box = (high - top_end, wide - far, high - low, wide - near)
    return Plane(
        NAMES[axis],
        np.ascontiguousarray(picture[::-1, ::-1]),
        (high, wide),
        (float(high - point[up]), float(wide - point[across])),
        (letters[across][1], letters[across][0], letters[up][1], letters[up][0]),
        box,
    )


def _places(size: float, scale: float) -> np.ndarray:
    """Return the centres of drawn pixels along an axis, in millimetres."""
    count = max(1, round(size * scale))
    return (np.arange(count) + 0.5) / count * size
