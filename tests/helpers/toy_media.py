"""Clips and scans that tests make by hand."""

from __future__ import annotations

import numpy as np

from regard.types import Clip, Scan


def clip(
    frames: int, size: tuple[int, int] = (40, 60), *, seed: int = 0, step: float = 0.5
) -> Clip:
    """A clip of noisy frames, each `step` seconds long."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 255, (frames, 4, 5, 3), dtype=np.uint8)
    pixels = np.kron(coarse, np.ones((1, size[0] // 4, size[1] // 5, 1), np.uint8))
    spans = tuple((step * i, step * (i + 1)) for i in range(frames))
    times = tuple(start + step / 2 for start, _ in spans)
    return Clip(
        "video",
        pixels,
        "toy.mp4",
        f"clip{seed}",
        (),
        times,
        spans,
        step * frames,
        pixels.shape[1:3],
    )


def scan(
    shape: tuple[int, int, int] = (8, 10, 12),
    spacing: tuple[float, float, float] = (2.0, 1.0, 1.0),
    *,
    seed: int = 0,
) -> Scan:
    """A scan of noise, upright in world millimetres, its corner at the origin."""
    pixels = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    # (slice, row, col) to (x, y, z): columns run right, rows forward, slices up.
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing
    affine[:3, 3] = affine[:3, :3] @ (0.5, 0.5, 0.5)
    source = affine[:, [2, 1, 0, 3]]
    return Scan(
        "volume", pixels, "toy.nii.gz", f"scan{seed}", (), affine, source, shape[::-1], "MR",
        (-2.0, 2.0),
    )  # fmt: skip
