"""Maps grid cells to the pixels, seconds or millimetres that they cover, and back.

Drawings, pointing scores, heat maps and pages all use these functions.
"""

from __future__ import annotations

import numpy as np

from regard.media.preprocess import Extent, PreprocessingSpec, covered_extent
from regard.types import Clip, Grid, Scan


def image_grid(size: tuple[int, int], spec: PreprocessingSpec, shape: tuple[int, ...]) -> Grid:
    """Return the grid of an encoder's cells on a picture.

    Args:
        size: (height, width) of the upright picture in pixels.
        spec: how the picture is preprocessed.
        shape: (rows, cols) of the encoder's grid.

    Returns:
        A grid with the axes ("rows", "cols"); its extent is smaller than the picture after a
        crop, larger after padding.
    """
    return Grid(("rows", "cols"), shape, size, covered_extent(size, spec))


def clip_grid(clip: Clip, spec: PreprocessingSpec, shape: tuple[int, ...]) -> Grid:
    """Return the grid of an encoder's cells on a clip, in seconds and in pixels.

    Args:
        clip: with F frames, F at most shape[0].
        spec: how each frame is preprocessed.
        shape: (frames,) or (frames, rows, cols) of the encoder's grid.
    """
    first = (clip.spans[0][0], clip.spans[-1][1])
    axes, size, extent = ("frames",), (clip.duration,), (first,)
    if len(shape) == 3:
        axes = ("frames", "rows", "cols")
        size = (clip.duration, *clip.frame_size)
        extent = (first, *covered_extent(clip.frame_size, spec))
    return Grid(axes, shape, size, extent, clip.spans, clip.times)


def scan_grid(scan: Scan, extent: Extent, shape: tuple[int, ...]) -> Grid:
    """Return the grid of an encoder's cells in a scan, in millimetres along the scan's own axes.

    Args:
        scan: the scan.
        extent: the part of it that the network's input covers, in millimetres from the scan's
            corner (the outer corner of its first voxel); negative where it was padded.
        shape: (slices, rows, cols) of the encoder's grid.
    """
    spacing = np.array(scan.spacing)
    affine = np.array(scan.affine, np.float64)
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, 0.5)  # voxel centres to voxel corners
    affine[:3, :3] /= spacing
    size = tuple(float(n * mm) for n, mm in zip(scan.pixels.shape, spacing, strict=True))
    rows = tuple(tuple(map(float, row)) for row in affine)
    return Grid(("slices", "rows", "cols"), shape, size, extent, affine=rows)


def real_mask(grid: Grid) -> np.ndarray:
    """Return (L,) bool: True for cells on the source, False for padding.

    The real cells of a clip are those of real frames; of a scan, those whose middle lies in it
    (see `Grid.real_along`). All cells of a picture are real: its models learned from the square
    that it is padded to.
    """
    if grid.axes[0] != "slices":
        return np.arange(grid.cells) < grid.real_cells
    mask = np.ones(grid.shape, bool)
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        mask &= np.expand_dims(np.array(grid.real_along(axis)), others)
    return mask.ravel()


def world_of(grid: Grid, point: tuple[float, ...]) -> tuple[float, float, float]:
    """Return a scan's point in world millimetres, RAS+.

    Args:
        grid: the grid of a scan.
        point: (slices, rows, cols) in millimetres from the scan's corner, as in `cell_bounds`.
    """
    x, y, z, _ = np.array(grid.affine) @ (*point, 1.0)
    return float(x), float(y), float(z)


def places_of(grid: Grid, affine: np.ndarray) -> np.ndarray:
    """Return the 4×4 from a file's voxels to millimetres along a scan's own axes.

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
        raise IndexError(f"there is no cell {cell} in a grid of {last} cells")
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
