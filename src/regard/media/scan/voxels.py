"""From a file's own order of voxels to the canonical one: (slices, rows, cols) in RAS+."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regard.errors import MediaError, MissingExtra
from regard.media.preprocess import CT_WINDOWS

_THIN = 1e-4  # of the volume that axes at right angles would span


@dataclass(frozen=True, eq=False)
class Stored:
    """A volume as its file stores it.

    Attributes:
        values: (i, j, k) float32 in the scan's own units.
        affine: (4, 4) from (i, j, k, 1) to world millimetres, RAS+.
        modality: "CT", "MR", another one's code, or "".
        notes: what the reader had to decide.
    """

    values: np.ndarray
    affine: np.ndarray
    modality: str = ""
    notes: tuple[str, ...] = ()


def checked_affine(affine: np.ndarray, name: str) -> np.ndarray:
    """Return the affine as (4, 4) float64.

    Raises:
        MediaError: it holds what is no number, or its axes span no space.
    """
    advice = "Write the right one with nibabel or 3D Slicer, or convert the scan anew."
    affine = np.array(affine, np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise MediaError(
            f"{name} has an affine with values that are no numbers, so that nobody knows where its "
            f"voxels lie. {advice}"
        )
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not lengths.all() or abs(np.linalg.det(affine[:3, :3] / lengths)) < _THIN:
        raise MediaError(
            f"{name} has a singular affine: its axes, of {_millimetres(lengths)} a voxel, span no "
            f"space. {advice}"
        )
    return affine


def canonical(stored: Stored) -> tuple[np.ndarray, np.ndarray]:
    """Return (slices, rows, cols) voxels and their affine, both RAS+.

    Axes are swapped and turned round, never rotated: an oblique scan keeps its own axes.

    Raises:
        MissingExtra: nibabel is not installed.
    """
    orientations = import_nibabel("scans").orientations
    ornt = orientations.io_orientation(stored.affine)
    values = orientations.apply_orientation(stored.values, ornt)
    affine = stored.affine @ orientations.inv_ornt_aff(ornt, stored.values.shape)
    # (x, y, z) to (slice, row, col).
    return np.ascontiguousarray(values.transpose(2, 1, 0)), affine[:, [2, 1, 0, 3]]


def import_nibabel(purpose: str):  # type: ignore[no-untyped-def]
    """Import nibabel when it is needed.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtra("nibabel", "volume", f"reading {purpose}") from error
    return nibabel


def _millimetres(lengths: np.ndarray) -> str:
    return " × ".join(f"{length:.3g}" for length in lengths) + " mm"


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
