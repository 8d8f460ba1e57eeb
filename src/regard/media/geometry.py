"""From a cell of the grid to the pixels it covers, and back."""

from __future__ import annotations

import numpy as np

from regard.media.preprocess import PreprocessingSpec, covered_extent
from regard.types import Grid


def image_grid(size: tuple[int, int], spec: PreprocessingSpec, shape: tuple[int, int]) -> Grid:
    """Return where an encoder's cells lie on a picture.

    Args:
        size: (height, width) of the upright picture in pixels.
        spec: the preprocessing that it went through.
        shape: (rows, cols) of the encoder's grid.

    Returns:
        A grid with the axes ("rows", "cols"); its extent is smaller than the picture after a
        crop, larger after padding.
    """
    return Grid(("rows", "cols"), shape, size, covered_extent(size, spec))


def cell_bounds(grid: Grid, cell: int) -> tuple[tuple[float, float], ...]:
    """Return the (start, stop) that a cell covers along each axis, in source units.

    Args:
        grid: the grid.
        cell: flat index, row-major.

    Raises:
        IndexError: the grid has no such cell.
    """
    if not 0 <= cell < grid.cells:
        raise IndexError(f"cell {cell} of a grid of {grid.cells} cells")
    bounds: list[tuple[float, float]] = []
    for at, count, (start, stop) in zip(
        np.unravel_index(cell, grid.shape), grid.shape, grid.extent, strict=True
    ):
        step = (stop - start) / count
        bounds.append((start + int(at) * step, start + (int(at) + 1) * step))
    return tuple(bounds)


def cell_at(grid: Grid, point: tuple[float, ...]) -> int | None:
    """Return the flat index of the cell that covers a point; None outside the grid.

    Args:
        grid: the grid.
        point: one coordinate per axis, in source units: (y, x) for a picture.
    """
    place: list[int] = []
    for value, count, (start, stop) in zip(point, grid.shape, grid.extent, strict=True):
        if not start <= value < stop:
            return None
        place.append(min(count - 1, int((value - start) / (stop - start) * count)))
    return int(np.ravel_multi_index(place, grid.shape))
