"""From attention weights to maps on the source picture, on one absolute scale.

A map is drawn in multiples of uniform attention 1/L, never stretched to its own range: a flat
map is 1 everywhere and must look flat.
"""

from __future__ import annotations

import numpy as np

from regard.types import Caption, Grid

SIGMA_CELLS = 0.6
"""Width of the Gaussian in cells. The paper enlarges 14×14 cells 16 times with sigma 20 pixels,
1.25 cells; half of that blurs a 7×7 grid as little as its cells allow."""


def relative_map(alpha: np.ndarray) -> np.ndarray:
    """Return alpha in multiples of uniform, alpha · L, in the shape that it has."""
    return alpha * alpha.size


def absolute_scale(caption: Caption) -> float:
    """Return the top of a caption's colour scale in multiples of uniform.

    One scale serves all words of a caption. It never falls below 2, so that flat maps stay
    flat, and is the largest weight of any word otherwise.
    """
    alpha = caption.trace.alpha
    return max(2.0, float(alpha.max() * alpha.shape[1])) if alpha.size else 2.0


def upsample(
    alpha: np.ndarray, grid: Grid, size: tuple[int, int], *, smooth: bool = True
) -> np.ndarray:
    """Lay a word's attention over a drawing of its source.

    Args:
        alpha: (rows, cols) weights of one word.
        grid: where the cells lie on the source.
        size: (height, width) of the drawing; its sides stand for the grid's source_size.
        smooth: a Gaussian over the cells, as the paper draws it; False shows the raw cells.

    Returns:
        (height, width) float32 in multiples of uniform; nan where no cell lies (what a
        centre crop cut off).
    """
    height, width = size
    rows = _places(grid, 0, height)
    cols = _places(grid, 1, width)
    relative = relative_map(alpha).astype(np.float32)
    if smooth:
        values = _weights(rows, grid.shape[0]) @ relative @ _weights(cols, grid.shape[1]).T
    else:
        nearest_row = np.clip(np.floor(rows).astype(int), 0, grid.shape[0] - 1)
        nearest_col = np.clip(np.floor(cols).astype(int), 0, grid.shape[1] - 1)
        values = relative[np.ix_(nearest_row, nearest_col)]
    outside = ((rows < 0) | (rows >= grid.shape[0]))[:, None] | (
        (cols < 0) | (cols >= grid.shape[1])
    )[None]
    return np.where(outside, np.nan, values).astype(np.float32)


def _places(grid: Grid, axis: int, pixels: int) -> np.ndarray:
    """Return where the centre of each drawn pixel lies along an axis, in cells."""
    source = (np.arange(pixels) + 0.5) / pixels * grid.source_size[axis]
    start, stop = grid.extent[axis]
    return (source - start) / (stop - start) * grid.shape[axis]


def _weights(places: np.ndarray, cells: int) -> np.ndarray:
    """Return (pixels, cells): how much each cell adds to a pixel; every row sums to 1.

    Normalised rows keep a flat map flat up to the border.
    """
    distance = places[:, None] - (np.arange(cells) + 0.5)
    weights = np.exp(-0.5 * (distance / SIGMA_CELLS) ** 2) + 1e-12
    return weights / weights.sum(1, keepdims=True)
