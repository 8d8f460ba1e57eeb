"""Attention inside a known region: attention correctness and the pointing game.

Definitions follow Liu et al. 2017 (attention correctness) and Zhang et al. 2016 (the pointing
game), on raw cells without smoothing. Two baselines do not depend on the word: attention that is
uniform over the grid, and the grid's middle.
"""

from dataclasses import dataclass

import numpy as np

from regard.media import cell_at, cell_bounds, cell_centre
from regard.types import Grid

Box = tuple[float, float, float, float]
"""(top, left, bottom, right) in source pixels."""


@dataclass(frozen=True)
class Region:
    """The region of an object in its picture: the union of boxes, or a mask.

    Attributes:
        boxes: boxes of the object; several if it occurs several times.
        mask: (height, width) bool over the whole source, instead of boxes; a mask of another
            size is stretched.
        relative: whether boxes are in shares of the source's sides, not in pixels.
    """

    boxes: tuple[Box, ...] = ()
    mask: np.ndarray | None = None
    relative: bool = False

    def holds(self, point: tuple[float, float], source_size: tuple[float, ...]) -> bool:
        """Return whether a point (row, column) in source pixels lies in the region.

        Args:
            point: the point.
            source_size: (height, width) of the source in pixels.
        """
        row, column = point
        if self.mask is not None:
            (high, wide), (height, width) = self.mask.shape, source_size
            if not (0 <= row < height and 0 <= column < width):
                return False
            y, x = int(row * high / height), int(column * wide / width)
            return bool(self.mask[min(y, high - 1), min(x, wide - 1)])  # a product is rounded
        if self.relative:
            row, column = row / source_size[0], column / source_size[1]
        return any(top <= row <= down and left <= column <= right
                   for top, left, down, right in self.boxes)  # fmt: skip

    def shares(self, grid: Grid) -> np.ndarray:
        """Return (L,): the share of each cell's area that lies in the region."""
        return np.array([self._share(grid, cell) for cell in range(grid.cells)])

    def _share(self, grid: Grid, cell: int) -> float:
        (top, down), (left, right) = cell_bounds(grid, cell)
        # Sampling a fine raster handles overlapping boxes and masks alike.
        rows = top + (np.arange(_RASTER) + 0.5) / _RASTER * (down - top)
        columns = left + (np.arange(_RASTER) + 0.5) / _RASTER * (right - left)
        size = grid.source_size
        return float(np.mean([[self.holds((r, c), size) for c in columns] for r in rows]))


_RASTER = 8  # points along each side of a cell


@dataclass(frozen=True)
class Pointing:
    """One word's attention against the region of the thing that it names.

    Attributes:
        mass: attention inside, 0..1.
        hit: whether the middle of the cell with the largest weight lies inside.
        uniform_mass: mass of uniform attention: the region's share of the grid.
        uniform_hit: chance that a random cell hits.
        middle_hit: whether the cell in the picture's middle hits.
    """

    mass: float
    hit: bool
    uniform_mass: float
    uniform_hit: float
    middle_hit: bool


def pointing(alpha: np.ndarray, grid: Grid, region: Region) -> Pointing:
    """Compare one word's attention with a region.

    Args:
        alpha: (L,) or in the grid's shape.
        grid: where the cells lie.
        region: region of the object that the word names.
    """
    flat = alpha.reshape(-1).astype(np.float64)
    shares = region.shares(grid)
    centres = (cell_centre(grid, cell) for cell in range(grid.cells))
    hits = np.array([region.holds((down, along), grid.source_size) for down, along in centres])
    middle = cell_at(grid, tuple((start + stop) / 2 for start, stop in grid.extent))
    assert middle is not None  # the middle of an extent lies on it
    return Pointing(
        mass=float(flat @ shares),
        hit=bool(hits[flat.argmax()]),
        uniform_mass=float(shares.mean()),
        uniform_hit=float(hits.mean()),
        middle_hit=bool(hits[middle]),
    )
