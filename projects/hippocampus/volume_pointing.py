"""Does attention lie on the thing, in a scan? As `metrics.pointing`, with masks of voxels.

All is exact and in millimetres: a cell's share of the mask is a sum of voxels cut at the cell's
faces, and it is the middle of a cell that hits or does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regard.media import cell_at, cell_bounds, real_mask
from regard.metrics.pointing import Pointing
from regard.types import Grid


@dataclass(frozen=True)
class Solid:
    """A mask laid on a grid.

    Attributes:
        shares: (L,) which share of each cell's volume lies in the mask.
        hits: (L,) bool, whether the cell's middle lies in it.
        middle: the cell in the middle of the grid.
        real: (L,) bool, the cells that attention can lie on; even attention is even over them.
    """

    shares: np.ndarray
    hits: np.ndarray
    middle: int
    real: np.ndarray

    @classmethod
    def of_mask(cls, mask: np.ndarray, spacing: tuple[float, float, float], grid: Grid) -> Solid:
        """Lay a mask on a scan's grid.

        Args:
            mask: (slices, rows, cols) bool, voxel by voxel as the scan was read.
            spacing: millimetres between voxels.
            grid: of the scan.
        """
        covered, inside = mask.astype(np.float64), mask
        edges = [
            np.linspace(start, stop, cells + 1)
            for (start, stop), cells in zip(grid.extent, grid.shape, strict=True)
        ]
        for axis, (cuts, mm) in enumerate(zip(edges, spacing, strict=True)):
            weights = _overlaps(cuts, mm, mask.shape[axis])
            covered = np.moveaxis(np.tensordot(weights, covered, (1, axis)), 0, axis)
            middles = (cuts[1:] + cuts[:-1]) / 2 / mm
            at = np.floor(middles).astype(int)
            real = (at >= 0) & (at < mask.shape[axis])
            inside = np.take(inside, at.clip(0, mask.shape[axis] - 1), axis)
            inside = inside & np.expand_dims(real, [a for a in range(3) if a != axis])
        middle = cell_at(grid, tuple((start + stop) / 2 for start, stop in grid.extent))
        assert middle is not None  # the middle of an extent lies on it
        return cls(covered.reshape(-1), inside.reshape(-1), middle, real_mask(grid))

    def pointing(self, alpha: np.ndarray) -> Pointing:
        """Compare one word's attention, (L,) or in the grid's shape, with the mask."""
        flat = alpha.reshape(-1).astype(np.float64)
        return Pointing(
            mass=float(flat @ self.shares),
            hit=bool(self.hits[flat.argmax()]),
            uniform_mass=float(self.shares[self.real].mean()),
            uniform_hit=float(self.hits[self.real].mean()),
            middle_hit=bool(self.hits[self.middle]),
        )


def peak_distance(
    alpha: np.ndarray, grid: Grid, mask: np.ndarray, spacing: tuple[float, float, float]
) -> float:
    """Return the millimetres from the middle of the peak's cell to the nearest voxel of a mask."""
    bounds = cell_bounds(grid, int(alpha.argmax()))
    middle = np.array([(start + stop) / 2 for start, stop in bounds])
    voxels = (np.argwhere(mask) + 0.5) * np.array(spacing)
    beyond = (np.abs(voxels - middle) - np.array(spacing) / 2).clip(0)
    return float(np.linalg.norm(beyond, axis=1).min())


def _overlaps(cuts: np.ndarray, mm: float, voxels: int) -> np.ndarray:
    """Return (cells, voxels): which share of a cell's side each voxel fills."""
    first, last = cuts[:-1, None], cuts[1:, None]
    start = np.arange(voxels) * mm
    overlap = np.minimum(last, start + mm) - np.maximum(first, start)
    return overlap.clip(0) / (last - first)


__all__ = ["Solid", "peak_distance"]
