"""Attention on the parts of a scan that words name, against masks of voxels, in millimetres.

Everything is exact: a cell's share of the mask is a sum of voxels cut at the cell's faces, and it
is the centre of a cell that hits the mask or does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from projects.hippocampus.facts import ANTERIOR, POSTERIOR, MarkedScan
from regard import Caption, Grid
from regard.media import cell_at, cell_bounds, real_mask

SPOKEN = {"anterior": (ANTERIOR,), "posterior": (POSTERIOR,), "hippocampus": (ANTERIOR, POSTERIOR)}
"""Words that name a part, and the labels of what they name."""


@dataclass(frozen=True)
class Pointing:
    """One word's attention against the mask of what the word names.

    Attributes:
        mass: attention inside the mask, 0..1.
        hit: whether the centre of the cell with the largest weight lies inside.
        uniform_mass: mass of uniform attention inside the mask.
        uniform_hit: probability that a cell drawn uniformly hits.
        middle_hit: whether the cell in the middle of the grid hits.
    """

    mass: float
    hit: bool
    uniform_mass: float
    uniform_hit: float
    middle_hit: bool


@dataclass(frozen=True)
class GridMask:
    """A mask laid on a grid.

    Attributes:
        shares: (L,) the share of each cell's volume that lies in the mask.
        hits: (L,) bool, whether the cell's centre lies in it.
        middle: the cell in the middle of the grid.
        real: (L,) bool, the cells that attention can lie on; uniform attention covers them all.
    """

    shares: np.ndarray
    hits: np.ndarray
    middle: int
    real: np.ndarray

    @classmethod
    def of_mask(cls, mask: np.ndarray, spacing: tuple[float, float, float], grid: Grid) -> GridMask:
        """Lay a mask on a scan's grid.

        Args:
            mask: (slices, rows, cols) bool, voxel by voxel as the scan was read.
            spacing: millimetres between voxels.
            grid: grid of the scan.
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
    """Return the millimetres from the centre of the peak's cell to the nearest voxel of a mask."""
    bounds = cell_bounds(grid, int(alpha.argmax()))
    middle = np.array([(start + stop) / 2 for start, stop in bounds])
    voxels = (np.argwhere(mask) + 0.5) * np.array(spacing)
    beyond = (np.abs(voxels - middle) - np.array(spacing) / 2).clip(0)
    return float(np.linalg.norm(beyond, axis=1).min())


def _overlaps(cuts: np.ndarray, mm: float, voxels: int) -> np.ndarray:
    """Return (cells, voxels): the share of a cell's side that each voxel fills."""
    first, last = cuts[:-1, None], cuts[1:, None]
    start = np.arange(voxels) * mm
    overlap = np.minimum(last, start + mm) - np.maximum(first, start)
    return overlap.clip(0) / (last - first)


@dataclass(frozen=True)
class PartAttention:
    """The attention of one word that names a part.

    Attributes:
        word: one of `SPOKEN`.
        pointing: attention against the part's mask.
        distance: millimetres from the peak to the part.
        prior: the same for a map made from the training masks alone.
    """

    word: str
    pointing: Pointing
    distance: float
    prior: Pointing


def attention_on_parts(
    made: Caption, marked: MarkedScan, priors: Mapping[str, np.ndarray]
) -> list[PartAttention]:
    """Return where the decoder looked for each word of a caption that names a part.

    Args:
        made: with its trace.
        marked: the scan and its mask.
        priors: a map (L,) for each of `SPOKEN`; see `mask_priors`.
    """
    found: list[PartAttention] = []
    masks = {word: np.isin(marked.mask, labels) for word, labels in SPOKEN.items()}
    on_grid = {w: GridMask.of_mask(m, marked.spacing, made.grid) for w, m in masks.items()}
    for word in made.words:
        if word.text in SPOKEN:
            mask = on_grid[word.text]
            distance = peak_distance(word.alpha, made.grid, masks[word.text], marked.spacing)
            prior = mask.pointing(priors[word.text])
            found.append(PartAttention(word.text, mask.pointing(word.alpha), distance, prior))
    return found


def mask_priors(training: Sequence[tuple[MarkedScan, Grid]]) -> dict[str, np.ndarray]:
    """Return for each of `SPOKEN` the mean of the training masks on the grid, summing to 1."""
    priors: dict[str, np.ndarray] = {}
    for word, labels in SPOKEN.items():
        shares = [
            GridMask.of_mask(np.isin(marked.mask, labels), marked.spacing, grid).shares
            for marked, grid in training
        ]
        mean = np.mean(shares, axis=0)
        priors[word] = mean / mean.sum()
    return priors
