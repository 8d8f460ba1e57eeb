"""From a scan's voxels to the voxels that a network reads, and which millimetres they cover."""

from __future__ import annotations

import numpy as np

from regard.media.geometry import Extent
from regard.media.preprocess import ScanSpec
from regard.media.scan.windows import window_of, windowed
from regard.types import Scan


def resample(scan: Scan, spec: ScanSpec) -> tuple[np.ndarray, Extent]:
    """Return the network's input and which part of the scan it covers.

    Along each of the scan's own axes the voxels are interpolated linearly; where they become
    fewer, each is a mean over its neighbourhood, weighted by a triangle (no aliasing). Nothing
    is rounded to whole voxels: the input's middle is the scan's middle, to the last digit.

    Args:
        scan: in canonical orientation.
        spec: the encoder's. Its window is taken, not the scan's, which may have been read for
            another model.

    Returns:
        (1, slices, rows, cols) float32: 0..1 from black to white, or z-scores; 0 outside the
        scan. And the extent along each axis in millimetres from the scan's corner, the outer
        corner of its first voxel: negative where it was padded.
    """
    sizes = [n * mm for n, mm in zip(scan.pixels.shape, scan.spacing, strict=True)]
    steps = spec.spacing or [s / n for s, n in zip(sizes, spec.shape, strict=True)]
    starts = [(size - n * step) / 2 for size, n, step in zip(sizes, spec.shape, steps, strict=True)]
    # The axis that loses most first: the others have less to do.
    values = scan.pixels
    ratios = [n / m for n, m in zip(spec.shape, scan.pixels.shape, strict=True)]
    outside = np.zeros(spec.shape, bool)
    for axis in np.argsort(ratios):
        spacing = scan.spacing[axis]
        centres = starts[axis] + (np.arange(spec.shape[axis]) + 0.5) * steps[axis]
        values = _along(values, int(axis), centres / spacing - 0.5, steps[axis] / spacing)
        # A voxel that the scan covers in part is filled: a thin slice must not be lost.
        half = steps[axis] / 2
        beyond = (centres + half <= 0) | (centres - half >= sizes[axis])
        outside |= np.expand_dims(beyond, [other for other in range(3) if other != axis])
    values = windowed(values, window_of(scan.pixels, spec.window), spec.window)
    values[outside] = 0.0
    extent = tuple(
        (float(start), float(start + n * step))
        for start, n, step in zip(starts, spec.shape, steps, strict=True)
    )
    return np.ascontiguousarray(values[None], np.float32), extent


def _along(values: np.ndarray, axis: int, places: np.ndarray, reach: float) -> np.ndarray:
    """Interpolate one axis.

    Args:
        values: (slices, rows, cols).
        axis: which one.
        places: where on the axis, in voxels (0 is the middle of the first one).
        reach: input voxels per output voxel; above 1 as many are averaged.
    """
    count = values.shape[axis]
    reach = max(1.0, reach)
    inside = places.clip(0, count - 1)  # the outer half of the outermost voxels, and beyond
    distance = np.abs(inside[:, None] - np.arange(count))
    weights = (1 - distance / reach).clip(0)
    weights /= weights.sum(1, keepdims=True)
    used = np.flatnonzero(weights.any(0))
    first, last = used[0], used[-1] + 1
    part = np.take(values, range(first, last), axis)
    found = np.tensordot(weights[:, first:last].astype(np.float32), part, (1, axis))
    return np.moveaxis(found, 0, axis)
