"""From attention weights to maps on the source picture, on one absolute scale.

A map is drawn in multiples of uniform attention 1/L, never stretched to its own range: a flat
map is 1 everywhere and must look flat.
"""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps

from regard.errors import ConfigError
from regard.types import Grid

ENLARGE = 16
"""Points per cell in a smoothed map, as in the paper (14 cells become 224 pixels)."""
SIGMA_SIDE = 20 / 224
"""Width of the paper's Gaussian, 20 pixels, as a share of the grid's side."""
SIGMA_LEAST = 0.5
"""The Gaussian's least width in cells; a narrower one would leave a coarse grid angular."""
SCALE_LEAST = 2.0
"""The colour scale's least top in multiples of uniform, so that a nearly flat map stays flat."""
COLOURS = "viridis"
"""Even in lightness and safe for the colour-blind: light means much."""
OPACITY = 0.72
"""Of the colour at the top of the scale; below it falls in proportion to the weight."""
_FIRST_COLOUR = 0.2  # darker ones would vanish in a picture's shadows
_IMAGES = 3  # reflections on each side; on one cell the Gaussian is half a cell wide
_GREY = 0.85  # how much of its own colour the picture gives up below a map
_UNSEEN = 0.65  # how far what no cell covers fades to white


def relative_map(alpha: np.ndarray) -> np.ndarray:
    """Return one word's alpha in multiples of uniform, alpha · L, in the shape that it has."""
    return alpha * alpha.size


def sigma_cells(cells: int) -> float:
    """Return the width of the smoothing Gaussian along an axis, in cells."""
    return max(SIGMA_LEAST, SIGMA_SIDE * cells)


def smoothing(cells: int, enlarge: int = ENLARGE) -> np.ndarray:
    """Return how smoothing acts along one axis, (cells · enlarge, cells).

    Bilinear enlargement, then a Gaussian, as the paper draws its maps (Xu et al. 2015,
    section 5.4). The Gaussian is reflected at the border, so that both laws hold: rows sum to 1
    (a flat map stays exactly flat), columns to `enlarge` (no attention is lost or made).

    Args:
        cells: along the axis.
        enlarge: points per cell.
    """
    points = (np.arange(cells * enlarge) + 0.5) / enlarge
    sigma = sigma_cells(cells)
    gauss = np.zeros((len(points), len(points)))
    for shift in range(-_IMAGES, _IMAGES + 1):  # the mirror images of mirror images too
        for image in (points, -points):
            gauss += np.exp(-0.5 * ((points[:, None] - image - 2 * shift * cells) / sigma) ** 2)
    # Even the sum over all images is a little uneven between points, where it is cut off.
    gauss /= gauss.sum(1, keepdims=True)
    return gauss @ between(points, cells)


def absolute_scale(alpha: np.ndarray, grid: Grid, *, smooth: bool = False) -> float:
    """Return the top of a caption's colour scale in multiples of uniform.

    One scale serves all words of a caption: its largest drawn value, at least 2.

    Args:
        alpha: (T, L) weights of all words.
        grid: the grid of the L cells.
        smooth: whether smoothed maps or raw cells are drawn.
    """
    require_picture_grid(grid)
    relative = (alpha * grid.cells).reshape(-1, *grid.shape)
    if smooth:
        rows, cols = (smoothing(cells) for cells in grid.shape)
        relative = rows @ relative @ cols.T
    return max(SCALE_LEAST, float(relative.max(initial=0.0)))


def upsample(
    alpha: np.ndarray, grid: Grid, size: tuple[int, int], *, smooth: bool = True
) -> np.ndarray:
    """Lay a word's attention over a drawing of its source.

    Args:
        alpha: (rows, cols) weights of one word.
        grid: where the cells lie on the source; what lies beyond the source (padding) is
            not drawn.
        size: (height, width) of the drawing; its sides stand for the grid's source_size.
        smooth: see `smoothing`; False gives every pixel the value of its cell.

    Returns:
        (height, width) float32 in multiples of uniform; nan where no cell lies (what a
        centre crop cut off).

    Raises:
        ConfigError: the grid is not one of rows and columns.
    """
    require_picture_grid(grid)
    places = [_places(grid, axis, pixels) for axis, pixels in enumerate(size)]
    inside = [(p >= 0) & (p < n) for p, n in zip(places, grid.shape, strict=True)]
    rows, cols = (
        between(place * ENLARGE, cells * ENLARGE) @ smoothing(cells)
        if smooth
        else nearest(place, cells)
        for place, cells in zip(places, grid.shape, strict=True)
    )
    values = rows @ relative_map(alpha.astype(np.float64)) @ cols.T
    return np.where(inside[0][:, None] & inside[1], values, np.nan).astype(np.float32)


def paint(pixels: np.ndarray, relative: np.ndarray, top: float) -> np.ndarray:
    """Paint a map over a picture.

    Below it the picture is nearly grey, so that every colour is the map's. What no cell covers
    is faded, for the decoder never saw it.

    Args:
        pixels: (height, width, 3) uint8.
        relative: (height, width) in multiples of uniform; nan where no cell lies.
        top: the top of the colour scale.

    Returns:
        (height, width, 3) uint8.
    """
    picture = pixels.astype(np.float64) / 255
    grey = (picture @ (0.299, 0.587, 0.114))[..., None]
    picture += _GREY * (grey - picture)
    colour, opacity = colours(np.nan_to_num(relative, nan=0.0) / top)
    picture += opacity[..., None] * (colour - picture)
    unseen = np.isnan(relative)[..., None]
    picture = np.where(unseen, picture + _UNSEEN * (1 - picture), picture)
    return np.rint(255 * picture).astype(np.uint8)


def colours(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the colour (..., 3) and the opacity (...) of shares of the scale, all in 0..1."""
    share = np.clip(share, 0.0, 1.0)
    return colormaps[COLOURS](_FIRST_COLOUR + (1 - _FIRST_COLOUR) * share)[..., :3], OPACITY * share


def require_picture_grid(grid: Grid) -> None:
    """Refuse grids that have no place on a still picture.

    Raises:
        ConfigError: the grid is not one of rows and columns.
    """
    if grid.axes != ("rows", "cols"):
        raise ConfigError(
            f"a grid of {' × '.join(grid.axes)} came; maps are drawn on pictures, whose grid has "
            "rows × cols. Read the weights from the words' alpha instead."
        )


def _places(grid: Grid, axis: int, pixels: int) -> np.ndarray:
    """Return where the centre of each drawn pixel lies along an axis, in cells."""
    source = (np.arange(pixels) + 0.5) / pixels * grid.source_size[axis]
    start, stop = grid.extent[axis]
    return (source - start) / (stop - start) * grid.shape[axis]


def nearest(places: np.ndarray, cells: int) -> np.ndarray:
    """Return (places, cells): 1 for the cell that each place lies in."""
    return np.eye(cells)[np.clip(np.floor(places).astype(int), 0, cells - 1)]


def between(places: np.ndarray, cells: int) -> np.ndarray:
    """Return (places, cells): linear interpolation between the centres of cells."""
    centred = np.clip(places - 0.5, 0, cells - 1)
    return np.clip(1 - np.abs(centred[:, None] - np.arange(cells)), 0, None)
