"""Warped copies of a marked scan: rotated, stretched, cropped again, with other grey values."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from projects.hippocampus.facts import MarkedScan

_DEGREES = 8.0  # largest turn about each axis
_STRETCH = (0.88, 1.14)  # of the whole
_UNEVEN = 0.05  # further, of each axis alone
_MARGINS = (3, 10)  # mm between the hippocampus and the edge of the crop, as the real ones have
_GAMMA = (0.8, 1.25)
_SHADING = 0.03  # largest change of brightness from one side to the other
_NOISE = 0.015  # of the largest value


def warp_scan(marked: MarkedScan, draw: np.random.Generator) -> MarkedScan:
    """Return a warped copy with voxels of 1 mm; beyond the source its edge is repeated.

    Args:
        marked: the source, which is not changed.
        draw: source of all random numbers.
    """
    spacing = np.array(marked.spacing)
    matrix = _turn(draw) @ np.diag(
        draw.uniform(*_STRETCH) * draw.uniform(1 - _UNEVEN, 1 + _UNEVEN, 3)
    )
    points = marked.points(1, 2)
    centre = points.mean(0)
    moved = (points - centre) @ matrix.T
    low = moved.min(0) - draw.integers(*_MARGINS, 3)
    high = moved.max(0) + draw.integers(*_MARGINS, 3)
    shape = np.ceil(high - low).astype(int) + 1
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    places = ((indices + low) @ np.linalg.inv(matrix).T + centre) / spacing
    values = _sampled(marked.values[None], places)[0]
    parts = np.stack([marked.mask == label for label in (0, 1, 2)])
    mask = _sampled(parts.astype(np.float32), places).argmax(0).astype(np.uint8)
    return MarkedScan(mask, _other_greys(values, draw), (1.0, 1.0, 1.0))


def _turn(draw: np.random.Generator) -> np.ndarray:
    turn = np.eye(3)
    for axis, degrees in enumerate(draw.uniform(-_DEGREES, _DEGREES, 3)):
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        a, b = (other for other in range(3) if other != axis)
        about = np.eye(3)
        about[[a, a, b, b], [a, b, a, b]] = cosine, -sine, sine, cosine
        turn = about @ turn
    return turn


def _sampled(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Interpolate (channels, slices, rows, cols) at places (..., 3) in voxels."""
    last = np.array(values.shape[1:]) - 1
    # grid_sample wants the last axis first, and -1 to 1 from the first voxel to the last.
    grid = torch.from_numpy((2 * places / last - 1)[..., ::-1].astype(np.float32))
    source = torch.from_numpy(values.astype(np.float32))[None]
    return F.grid_sample(
        source, grid[None], mode="bilinear", padding_mode="border", align_corners=True
    )[0].numpy()


def _other_greys(values: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    top = max(float(values.max()), 1e-6)
    grey = (values.clip(0) / top) ** draw.uniform(*_GAMMA)
    ramps = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in values.shape), indexing="ij"))
    grey *= 1 + np.tensordot(draw.uniform(-_SHADING, _SHADING, 3), ramps, 1)
    grey += draw.normal(0, _NOISE, values.shape)
    # Whole numbers, as scanners give, and a quarter of the bytes.
    return (grey.clip(0, 1.2) * 1000).round().astype(np.int16)
