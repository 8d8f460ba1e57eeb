"""Which values of a scan are drawn black and white, and what a network gets for a value.

The CT presets are level and width in Hounsfield units, as radiology uses them. MRI has no absolute
scale: its windows are taken from the scan's own foreground, the voxels above its smallest value
(outside the body a scan that was cut out holds one value, its smallest).
"""

from __future__ import annotations

import numpy as np

CT_WINDOWS = {
    "lung": (-600.0, 1500.0),
    "mediastinum": (40.0, 400.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
    "liver": (60.0, 150.0),
}
"""Level and width in Hounsfield units: black is level - width / 2, white level + width / 2."""

_PERCENTILES = (1.0, 99.0)
_SAMPLED = 2**22  # voxels are enough to tell a percentile by
_DRAWN_DEVIATIONS = 2.0  # from black to the mean, and from there to white


def window_of(pixels: np.ndarray, preset: str) -> tuple[float, float]:
    """Return the values that become black and white.

    Args:
        pixels: finite voxels in the scan's own units.
        preset: one of `CT_WINDOWS`; "percentile" (1st to 99th of the foreground); or "zscore" (the
            foreground's mean, two standard deviations to each side).

    Returns:
        (low, high), high above low even where all voxels are alike.
    """
    if preset in CT_WINDOWS:
        level, width = CT_WINDOWS[preset]
        return level - width / 2, level + width / 2
    every = max(1, pixels.size // _SAMPLED)
    values = pixels.reshape(-1)[::every].astype(np.float64)
    foreground = values[values > values.min()]
    # A mask has a foreground of one value, which has no width; the whole scan has one.
    for part in (foreground, values, pixels.reshape(-1).astype(np.float64)):
        low, high = _spread(part, preset) if part.size else (0.0, 0.0)
        if high > low:
            return low, high
    low, high = float(pixels.min()), float(pixels.max())  # all but a few voxels are alike
    return (low, high) if high > low else (low, low + max(1.0, abs(low)))


def windowed(pixels: np.ndarray, window: tuple[float, float], preset: str) -> np.ndarray:
    """Return what a network gets: 0..1 from black to white, or for "zscore" the z-score."""
    low, high = window
    shades = (pixels - np.float32(low)) / np.float32(high - low)
    if preset == "zscore":
        return (shades - np.float32(0.5)) * np.float32(2 * _DRAWN_DEVIATIONS)
    return shades.clip(0.0, 1.0)


def _spread(values: np.ndarray, preset: str) -> tuple[float, float]:
    if preset == "zscore":
        reach = _DRAWN_DEVIATIONS * float(values.std())
        mean = float(values.mean())
        return mean - reach, mean + reach
    low, high = np.percentile(values, _PERCENTILES)
    return float(low), float(high)
