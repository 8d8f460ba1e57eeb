"""From a file's own order of voxels to the canonical one: (slices, rows, cols) in RAS+."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regard.errors import MediaError, MissingExtra

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
