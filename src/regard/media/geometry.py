"""Maps grid cells to the pixels, seconds or millimetres that they cover, and back.

Drawings, pointing scores, heat maps and pages all use these functions.
"""

import numpy as np

from regard.types import Grid


def world_of(grid: Grid, point: tuple[float, ...]) -> tuple[float, float, float]:
    """Return a scan's point in world millimetres, RAS+.

    Args:
        grid: the grid of a scan.
        point: (slices, rows, cols) in millimetres from the scan's corner, as in `cell_bounds`.
    """
    x, y, z, _ = np.array(grid.affine) @ (*point, 1.0)
    return float(x), float(y), float(z)


def places_of(grid: Grid, affine: np.ndarray) -> np.ndarray:
    """Return the (4, 4) matrix from a file's voxels to millimetres along a scan's own axes.

    Args:
        grid: the grid of the scan, whose inverse affine is taken (see `world_of`).
        affine: (4, 4) from voxels, of any order and direction, to world millimetres, RAS+.
    """
    return np.linalg.inv(np.array(grid.affine)) @ affine


def cell_centre(grid: Grid, cell: int) -> tuple[float, ...]:
    """Return the middle of a cell along each axis, in source units; see `cell_bounds`."""
    return tuple((start + stop) / 2 for start, stop in cell_bounds(grid, cell))


def cell_bounds(grid: Grid, cell: int) -> tuple[tuple[float, float], ...]:
    """Return the interval (start, stop) that a cell covers along each axis, in source units.

    Args:
        grid: the grid.
        cell: flat index, row-major.

    Raises:
        IndexError: the grid has no such cell, or the cell is padding of a short clip.
    """
    last = grid.real_cells if grid.axes[0] == "frames" else grid.cells
    if not 0 <= cell < last:
        raise IndexError(f"cell {cell} is out of range for a grid of {last} cells")
    bounds: list[tuple[float, float]] = []
    for axis, at, count, (start, stop) in zip(
        grid.axes, np.unravel_index(cell, grid.shape), grid.shape, grid.extent, strict=True
    ):
        if axis == "frames":  # the spans of frames may differ in length
            bounds.append(grid.spans[int(at)])
            continue
        step = (stop - start) / count
        bounds.append((start + int(at) * step, start + (int(at) + 1) * step))
    return tuple(bounds)


def cell_at(grid: Grid, point: tuple[float, ...]) -> int | None:
    """Return the flat index of the cell that covers a point, or None outside the grid.

    Args:
        grid: the grid.
        point: one coordinate per axis, in source units: (y, x) for a picture.
    """
    place: list[int] = []
    for axis, value, count, (start, stop) in zip(
        grid.axes, point, grid.shape, grid.extent, strict=True
    ):
        if axis == "frames":
            inside = [i for i, (begin, end) in enumerate(grid.spans) if begin <= value < end]
            if not inside:
                return None
            place.append(inside[0])
            continue
        if not start <= value < stop:
            return None
        place.append(min(count - 1, int((value - start) / (stop - start) * count)))
    return int(np.ravel_multi_index(place, grid.shape))
