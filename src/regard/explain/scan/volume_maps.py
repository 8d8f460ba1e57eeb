"""A word's attention at any points of a scan, its peak, and planes through the scan.

Points are (slices, rows, cols) in millimetres along the scan's own axes, from the scan's corner.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from regard.explain.drawing import missing_source
from regard.explain.maps import ENLARGE, SCALE_LEAST, between, grey_slice, nearest, paint, smoothing
from regard.media import cell_centre, world_of
from regard.types import Caption, Grid, Scan, Word

Point = tuple[float, ...]

PEAK_LEAST = 1.05
"""Least peak in multiples of uniform; a flatter map has no peak."""
_MOST_POINTS = 2_000_000  # of a map that is searched for its greatest value
_OBLIQUE = 0.5  # degrees; less is rounding


@dataclass(frozen=True)
class Peak:
    """The location of a word's largest weight in a scan.

    Attributes:
        cell: flat index of the cell.
        place: its centre.
        world: its centre in world millimetres, RAS+.
        inside: whether its centre lies in the scan, and not on padding around it.
    """

    cell: int
    place: Point
    world: Point
    inside: bool


def peak_of(word: Word, grid: Grid) -> Peak | None:
    """Return the peak of a word: the chosen cell, or that of the largest weight.

    Args:
        word: word of a scan's caption.
        grid: grid of the scan.

    Returns:
        None where the map is flat, so that no cell stands out.
    """
    if word.location is None and word.peak * grid.real_cells < PEAK_LEAST:
        return None
    cell = int(word.alpha.argmax()) if word.location is None else word.location
    place = cell_centre(grid, cell)
    inside = all(0 <= mm < size for mm, size in zip(place, grid.source_size, strict=True))
    return Peak(cell, place, world_of(grid, place), inside)


def scan_of(caption: Caption) -> Scan:
    """Return the scan that a caption holds.

    Raises:
        ConfigError: the caption does not hold its scan.
    """
    if not isinstance(caption.media, Scan):
        raise missing_source("scan")
    return caption.media


def cell_size(grid: Grid) -> tuple[float, float, float]:
    """Return the millimetres of a cell along (cols, rows, slices): the order of world x, y, z."""
    slices, rows, cols = (
        (stop - start) / count for (start, stop), count in zip(grid.extent, grid.shape, strict=True)
    )
    return cols, rows, slices


def along(grid: Grid, axis: int, places: np.ndarray, *, smooth: bool) -> np.ndarray:
    """Return the weights of an axis's cells at points along it.

    As on pictures: interpolation between the centres of cells and a Gaussian, or the cell that a
    point lies in. Cells on padding, which receive no attention, are left out: the Gaussian is
    reflected where they begin, so that a flat map is flat up to the scan's border.

    Args:
        grid: the grid.
        axis: axis of the grid.
        places: (n,) in millimetres.
        smooth: see `regard.explain.maps.smoothing`.

    Returns:
        (n, cells); a row is nan where no cell lies.
    """
    (start, stop), cells = grid.extent[axis], grid.shape[axis]
    at = (places - start) / (stop - start) * cells
    if smooth:
        first, real = real_cells_along(grid, axis)
        weights = np.zeros((len(at), cells))
        points = between((at - first) * ENLARGE, real * ENLARGE)
        weights[:, first : first + real] = points @ smoothing(real)
    else:
        weights = nearest(at, cells)
        weights[weights @ np.array(grid.real_along(axis)) == 0] = np.nan
    return np.where(((at >= 0) & (at < cells))[:, None], weights, np.nan)


def real_cells_along(grid: Grid, axis: int) -> tuple[int, int]:
    """Return the first real cell along an axis and how many there are; they lie together."""
    real = grid.real_along(axis)
    return real.index(True), sum(real)


def smoothing_along(grid: Grid, axis: int, enlarge: int) -> np.ndarray:
    """Return `along` at `enlarge` points per cell, (cells · enlarge, cells)."""
    (start, stop), cells = grid.extent[axis], grid.shape[axis]
    points = start + (np.arange(cells * enlarge) + 0.5) / (cells * enlarge) * (stop - start)
    return along(grid, axis, points, smooth=True)


def mixed(alpha: np.ndarray, weights: Sequence[np.ndarray], uniform: float) -> np.ndarray:
    """Return a word's map, (a, b, c), on a lattice of points.

    Args:
        alpha: (slices, rows, cols) weights of one word.
        weights: (a, slices), (b, rows) and (c, cols) of `along`.
        uniform: factor of the weights: the number of real cells.

    Returns:
        In multiples of uniform; nan where no cell lies.
    """
    relative = alpha.astype(np.float64) * uniform
    for axis in np.argsort([len(w) for w in weights]):  # the axis that grows most comes last
        relative = np.moveaxis(np.tensordot(weights[axis], relative, (1, axis)), 0, axis)
    return relative


def _fineness(grid: Grid) -> int:
    """Return points per cell: 16 as in smoothing, or 8 or 4 where a grid has many cells."""
    fits = (n for n in (ENLARGE, ENLARGE // 2) if grid.cells * n**3 <= _MOST_POINTS)
    return next(fits, ENLARGE // 4)


def scan_scale(alpha: np.ndarray, grid: Grid, *, smooth: bool) -> float:
    """Return the top of a scan's colour scale in multiples of uniform, as on pictures.

    Args:
        alpha: (T, L) weights of all words.
        grid: grid of the L cells.
        smooth: whether smoothed maps or raw cells are drawn.
    """
    if not smooth:
        return max(SCALE_LEAST, float(alpha.max(initial=0.0)) * grid.real_cells)
    return max(SCALE_LEAST, smoothed_top(alpha, grid, _fineness(grid), grid.real_cells))


def smoothed_top(values: np.ndarray, grid: Grid, enlarge: int, uniform: float) -> float:
    """Return the largest value of all words' smoothed maps, at least 0.

    Args:
        values: (T, ...) of all cells.
        grid: grid of the cells.
        enlarge: points per cell that are searched.
        uniform: see `mixed`.
    """
    weights = [smoothing_along(grid, axis, enlarge) for axis in range(3)]
    maps = (mixed(one.reshape(grid.shape), weights, uniform) for one in values)
    return max([0.0, *(float(one.max()) for one in maps)])


NAMES = ("axial", "coronal", "sagittal")
"""The plane across each axis of a scan."""
SEEN = ((1, 2), (0, 2), (0, 1))
"""The axes that run up and across each plane, each from high to low as the viewer sees it."""
_LETTERS = ("LR", "PA", "IS")  # the ends of world x, y and z


@dataclass(frozen=True)
class SlicePlane:
    """One plane through a scan, as it is drawn.

    Attributes:
        name: "axial", "coronal" or "sagittal".
        picture: (height, width, 3) uint8.
        size: (down, across) in millimetres; the picture's sides have this proportion.
        point: the point's (down, across) in millimetres from the picture's upper left corner.
        edges: the letters at its left, right, upper and lower edge, such as ("R", "L", "A", "P").
        box: box of a framed cell (top, left, bottom, right), likewise; None without one.
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
    point: Point,
    *,
    alpha: np.ndarray | None = None,
    top: float = 1.0,
    smooth: bool = True,
    cell: tuple[tuple[float, float], ...] | None = None,
    pixels: int = 260,
) -> tuple[SlicePlane, ...]:
    """Return the axial, coronal and sagittal plane through a point.

    Args:
        scan: in canonical orientation.
        grid: grid of its cells.
        point: a point beyond the scan (on padding) is moved to its border.
        alpha: (slices, rows, cols) weights of one word; None draws the scan alone.
        top: top of the colour scale in multiples of uniform.
        smooth: smoothed map or raw cells.
        cell: bounds of a cell to frame.
        pixels: number of pixels of the longest side of the scan.
    """
    inside = np.clip(point, 0, np.array(grid.source_size) * (1 - 1e-9))
    scale = pixels / max(grid.source_size)
    lattice = [_places(size, scale) for size in grid.source_size]
    return tuple(
        _plane(scan, grid, axis, inside, lattice, alpha, top, smooth, cell) for axis in range(3)
    )


def oblique_degrees(scan: Scan) -> float:
    """Return the largest angle between the scan's axes and the world's, in degrees."""
    directions = scan.affine[:3, :3] / np.linalg.norm(scan.affine[:3, :3], axis=0)
    cosines = np.abs(directions).max(0).clip(0, 1)
    return float(np.degrees(np.arccos(cosines)).max())


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
) -> SlicePlane:  # fmt: skip
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
        weights = [along(grid, i, at[i], smooth=smooth) for i in range(3)]
        relative = mixed(alpha, weights, grid.real_cells).squeeze(axis)
        picture = paint(picture, relative, top)
    high, wide = grid.source_size[up], grid.source_size[across]
    letters = ends(scan)
    box = None
    if cell is not None:
        (low, top_end), (near, far) = cell[up], cell[across]
        box = (high - top_end, wide - far, high - low, wide - near)
    seen = np.ascontiguousarray(picture[::-1, ::-1])
    place = (float(high - point[up]), float(wide - point[across]))
    edges = (letters[across][1], letters[across][0], letters[up][1], letters[up][0])
    return SlicePlane(NAMES[axis], seen, (high, wide), place, edges, box)


def _places(size: float, scale: float) -> np.ndarray:
    """Return the centres of drawn pixels along an axis, in millimetres."""
    count = max(1, round(size * scale))
    return (np.arange(count) + 0.5) / count * size


def orientation_notes(grid: Grid, scan: Scan) -> list[str]:
    """Return notes on how to read a scan's planes and positions."""
    degrees = oblique_degrees(scan)
    turned = f" (turned by up to {degrees:.0f}° from the world's)" if degrees >= _OBLIQUE else ""
    cell = " × ".join(f"{mm:.3g}" for mm in cell_size(grid))
    return [
        "Radiological convention: the patient's right (R) is on the viewer's left; planes along "
        f"the scan's own axes{turned}",
        "Positions: world mm, RAS (x to the patient's right, y to the front, z to the head); ± "
        f"half a cell, which is {cell} mm",
    ]


def peak_label(word: Word, grid: Grid) -> str:
    """Describe a word's peak, such as "most at (−12, 34, 5) mm ± 3 × 3 × 3"."""
    peak = peak_of(word, grid)
    if peak is None:
        return "flat: no cell stands out"
    halves = " × ".join(f"{mm / 2:.2g}" for mm in cell_size(grid))
    beyond = "" if peak.inside else ", on padding"
    return f"most at {position_label(peak.world)} ± {halves}{beyond}"


def position_label(world: Point) -> str:
    """Return a position in world millimetres, such as "(−12, 34, 5) mm"."""
    return f"({', '.join(f'{round(x):d}'.replace('-', '−') for x in world)}) mm"
