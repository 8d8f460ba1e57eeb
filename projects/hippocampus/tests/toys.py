"""Small scans in the Decathlon's layout, made of boxes whose facts are known by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from projects.hippocampus.facts import MarkedScan
from projects.hippocampus.warp import warp_scan

nibabel = pytest.importorskip("nibabel")


def boxes(spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> MarkedScan:
    """Return two boxes: posterior rows 2-5 (4×4×4), anterior rows 6-11 (4×6×4).

    The anterior box lies 3 lower and 2 further right. Its intensity is 30, that of the posterior
    box 20, and that of the rest 10.
    """
    mask = np.zeros((12, 14, 12), np.uint8)
    mask[5:9, 2:6, 3:7] = 2
    mask[2:6, 6:12, 5:9] = 1
    values = np.choose(mask, (10.0, 30.0, 20.0)).astype(np.float32)
    return MarkedScan(mask, values, spacing)


def write_task04(root: Path, count: int) -> Path:
    """Write so many warped boxes as scans and masks, stored left to right, back to front, upwards.

    Returns:
        The folder, which holds `images` and `labels`.
    """
    draw = np.random.default_rng(0)
    for name in ("images", "labels"):
        (root / name).mkdir()
    for number in range(count):
        made = warp_scan(boxes(), draw)
        for name, values in (("images", made.values), ("labels", made.mask)):
            image = nibabel.Nifti1Image(values.transpose(2, 1, 0), np.eye(4))
            nibabel.save(image, root / name / f"scan_{number:02d}.nii.gz")
    return root
