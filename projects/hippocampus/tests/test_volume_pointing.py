"""Attention against masks of voxels, in millimetres."""

from __future__ import annotations

import numpy as np
import pytest

from projects.hippocampus.volume_pointing import GridMask, peak_distance
from regard.types import Grid

# Two cells of 4 mm along each axis; the input reaches 1 mm beyond the scan's 6 mm on both sides.
GRID = Grid(
    ("slices", "rows", "cols"), (2, 2, 2), (6.0, 6.0, 6.0), ((-1, 7), (-1, 7), (-1, 7)),
    affine=tuple(map(tuple, np.eye(4).tolist())),
)  # fmt: skip


def test_shares_and_hits_by_hand() -> None:
    mask = np.zeros((6, 6, 6), bool)
    mask[0:3, 0:3, 1:3] = True  # 18 mm³ in the first cell, which has 64
    solid = GridMask.of_mask(mask, (1.0, 1.0, 1.0), GRID)
    assert solid.shares.tolist() == [18 / 64, 0, 0, 0, 0, 0, 0, 0]
    assert solid.hits.tolist() == [True] + [False] * 7  # its middle is (1, 1, 1) mm
    alpha = np.array([0.4, 0.6, 0, 0, 0, 0, 0, 0])
    found = solid.pointing(alpha)
    assert found.mass == pytest.approx(0.4 * 18 / 64)
    assert not found.hit
    assert found.uniform_mass == pytest.approx(18 / 512)
    assert found.uniform_hit == 1 / 8
    assert not found.middle_hit  # the middle of the grid belongs to its last cell


def test_spacing_and_voxels_cut_by_a_cell_are_counted_in_part() -> None:
    mask = np.zeros((3, 6, 6), bool)
    mask[1] = True  # slices of 2 mm: from 2 to 4 mm, half in either cell
    solid = GridMask.of_mask(mask, (2.0, 1.0, 1.0), GRID)
    assert solid.shares == pytest.approx(np.full(8, 1 * 3 * 3 / 64))


def test_the_peak_may_lie_beside_the_mask() -> None:
    mask = np.zeros((6, 6, 6), bool)
    mask[0, 1, 5] = True
    alpha = np.eye(8)[0]  # its middle is (1, 1, 1); the voxel spans 0-1, 1-2, 5-6
    assert peak_distance(alpha, GRID, mask, (1.0, 1.0, 1.0)) == pytest.approx(4)
    mask[0, 0, 0] = True
    assert peak_distance(alpha, GRID, mask, (1.0, 1.0, 1.0)) == 0
