"""Scans: NIfTI and DICOM files as stored volumes, reoriented to canonical axes (RAS+)."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from regard.errors import MediaError, MediaTooLarge, RegardError, needs_extra

_THIN = 1e-4  # of the volume that axes at right angles would span


@dataclass(frozen=True, eq=False)
class StoredVolume:
    """A volume as its file stores it.

    Attributes:
        values: (i, j, k) float32 in the scan's own units.
        affine: (4, 4) from (i, j, k, 1) to world millimetres, RAS+.
        modality: "CT", "MR", another modality's code, or "".
        notes: assumptions that the reader made.
    """

    values: np.ndarray
    affine: np.ndarray
    modality: str = ""
    notes: tuple[str, ...] = ()


def checked_affine(affine: np.ndarray, name: str) -> np.ndarray:
    """Return the affine as (4, 4) float64.

    Raises:
        MediaError: it has values that are not finite, or is singular.
    """
    advice = "Write the right one with nibabel or 3D Slicer, or convert the scan again."
    affine = np.array(affine, np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise MediaError(
            f"{name} has an affine with values that are not finite: the position of its voxels "
            f"is unknown. {advice}"
        )
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not lengths.all() or abs(np.linalg.det(affine[:3, :3] / lengths)) < _THIN:
        voxel = " × ".join(f"{length:.3g}" for length in lengths)
        raise MediaError(
            f"{name} has a singular affine: its axes, of {voxel} mm a voxel, do not span a "
            f"space. {advice}"
        )
    return affine


def to_canonical(stored: StoredVolume) -> tuple[np.ndarray, np.ndarray]:
    """Return (slices, rows, cols) voxels and their affine, both RAS+.

    Axes are swapped and reversed, never rotated: an oblique scan keeps its own axes.

    Raises:
        MissingExtra: nibabel is not installed.
    """
    orientations = import_nibabel("scans").orientations
    ornt = orientations.io_orientation(stored.affine)
    values = orientations.apply_orientation(stored.values, ornt)
    affine = stored.affine @ orientations.inv_ornt_aff(ornt, stored.values.shape)
    # (x, y, z) to (slice, row, col).
    return np.ascontiguousarray(values.transpose(2, 1, 0)), affine[:, [2, 1, 0, 3]]


def import_nibabel(purpose: str) -> Any:
    """Return the module `nibabel`.

    Raises:
        MissingExtra: nibabel is not installed.
    """
    with needs_extra("nibabel", "volume", f"reading {purpose}"):
        import nibabel
    return nibabel


@contextmanager
def damage_as_media_error(name: str, kind: str) -> Generator[None]:
    """Turn every error that a library raises on a damaged file into a `MediaError`.

    The library's own message is dropped: it may contain a patient's data.

    Args:
        name: the file's name in messages.
        kind: the format that was read.
    """
    try:
        yield
    except RegardError:
        raise
    except MemoryError:
        raise MediaTooLarge(
            f"{name} does not fit into memory. Crop or downsample it first."
        ) from None
    except Exception as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise MediaError(
            f"{name} cannot be read as {kind} ({reason}): it is cut short or damaged. Copy or "
            "export it again."
        ) from None
