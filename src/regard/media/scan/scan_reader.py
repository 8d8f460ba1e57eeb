"""Reader of scans of all supported kinds, in canonical orientation."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from regard.errors import MediaError, MediaTooLarge
from regard.media.find import digest_of, special_kind, split_series
from regard.media.preprocess import CT_WINDOWS, ScanSpec, intensity_window
from regard.media.scan import StoredVolume, checked_affine, to_canonical
from regard.media.scan.dicom import read_dicom
from regard.media.scan.dicom_series import pick_series, read_header
from regard.media.scan.nifti import from_nibabel, read_nifti
from regard.media.source_file import is_dicom, read_start
from regard.types import Scan
from regard.types.media import DICOM_SUFFIXES

_HEAD = 132
MAX_VOXELS = 2**28
"""Largest scan that is read: 1024 slices of 512 × 512, 1 GiB of float32."""


def read_scan(
    source: Any, spec: ScanSpec, *, name: str | None = None, max_voxels: int = MAX_VOXELS
) -> Scan:
    """Read one scan into canonical orientation.

    Args:
        source: path of a NIfTI file (.nii, .nii.gz) or a DICOM file of one or many frames; a
            folder of DICOM slices, or `FOLDER#N` for its N-th series; a file's bytes; a nibabel
            image; or an array (slices, rows, cols), taken as RAS+ with voxels of 1 mm. Build a
            `Scan` yourself to give an array another position or spacing.
        spec: the encoder's; its window becomes that of the scan.
        name: used in messages and results; the path by default.
        max_voxels: larger scans are rejected based on their headers, before anything is allocated.

    Returns:
        The scan. NaN and infinite voxels are set to the smallest finite value, with a note. Its
        digest is that of the file's bytes, or of affine and voxels where there was no file.

    Raises:
        MediaError: missing, damaged, encrypted, several volumes or series, slices that do not
            form a volume, colours, no image, all voxels equal; `MediaTooLarge`.
        MissingExtra: nibabel or pydicom is not installed.
    """
    if isinstance(source, str | Path):
        path = os.fspath(source)
        name = name or path
        try:
            stored, digest = _from_path(path, name, max_voxels), digest_of(path)
        except OSError as error:  # of a folder, or of a file in it
            raise MediaError(f"{name} cannot be opened: {error.strerror or error}.") from error
        return _scan(stored, spec, name, digest)
    if isinstance(source, bytes | bytearray | memoryview):
        content, name = bytes(source), name or "<bytes>"
        stored = _from_file(content, content[:_HEAD], name, max_voxels)
        return _scan(stored, spec, name, hashlib.sha256(content).hexdigest())
    if hasattr(source, "dataobj") and hasattr(source, "header"):
        name = name or str(source.get_filename() or "<image>")
        stored = from_nibabel(source, name, max_voxels)
    else:
        name = name or "<array>"
        stored = _from_array(source, name, max_voxels)
    sha = hashlib.sha256(f"{stored.values.shape} {stored.affine.tolist()}".encode())
    sha.update(np.ascontiguousarray(stored.values).tobytes())
    return _scan(stored, spec, name, sha.hexdigest())


def _from_path(path: str, name: str, max_voxels: int) -> StoredVolume:
    folder, number = split_series(path)
    if kind := special_kind(folder):  # a scan is read twice
        raise MediaError(f"{name} is a {kind}, not a regular file. Save the scan to one first.")
    if not os.path.isdir(folder):
        return _from_file(path, read_start(path, name, _HEAD), name, max_voxels)
    headers, notes = pick_series(folder, number)
    stored = read_dicom(headers, name, max_voxels)
    return replace(stored, notes=(*stored.notes, *notes))


def _from_file(source: str | bytes, head: bytes, name: str, max_voxels: int) -> StoredVolume:
    suffix = os.path.splitext(source)[1].lower() if isinstance(source, str) else ""
    if is_dicom(head) or suffix in DICOM_SUFFIXES:
        return read_dicom((read_header(source, name),), name, max_voxels)
    return read_nifti(source, name, max_voxels)


def _from_array(source: Any, name: str, max_voxels: int) -> StoredVolume:
    try:
        values = np.asarray(source.detach().cpu() if hasattr(source, "detach") else source)
    except (TypeError, ValueError) as error:
        raise MediaError(f"{name} ({type(source).__name__}) is not an array of numbers.") from error
    if values.ndim != 3 or not values.size or values.dtype.kind not in "buif":
        raise MediaError(
            f"{name} is {values.dtype} of shape {values.shape}; expected real numbers of shape "
            "(slices, rows, cols). Give several scans as a list."
        )
    if values.size > max_voxels:
        raise MediaTooLarge(f"{name} has {values.size} voxels; expected at most {max_voxels}.")
    notes = ("an array without affine: taken as RAS+, 1 mm a voxel",)
    return StoredVolume(values.transpose(2, 1, 0).astype(np.float32), np.eye(4), "", notes)


def _scan(stored: StoredVolume, spec: ScanSpec, name: str, digest: str) -> Scan:
    source_affine = checked_affine(stored.affine, name)
    pixels, affine = to_canonical(stored)
    pixels, notes = _finite(pixels, name)
    notes = (*stored.notes, *notes)
    low = float(pixels.min())
    if low == pixels.max():
        raise MediaError(
            f"{name} holds the value {low:g} in every voxel. Export the "
            "scan again, or use another one."
        )
    if spec.window in CT_WINDOWS and (stored.modality not in ("", "CT") or low >= 0):
        why = f"is {stored.modality}" if stored.modality not in ("", "CT") else "has no value < 0"
        notes += (f"the {spec.window} window is for Hounsfield units, and this scan {why}",)
    return Scan(
        "volume",
        pixels,
        name,
        digest,
        notes,
        affine=affine,
        source_affine=source_affine,
        source_shape=stored.values.shape,
        modality=stored.modality,
        window=intensity_window(pixels, spec.window),
    )


def _finite(pixels: np.ndarray, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the voxels with NaN and infinity replaced by the smallest value, and notes."""
    finite = np.isfinite(pixels)
    missing = pixels.size - int(finite.sum())
    if not missing:
        return pixels, ()
    if missing == pixels.size:
        raise MediaError(f"{name} has no finite voxel (all are NaN or infinite).")
    low = pixels[finite].min()
    note = f"{missing} voxels that are no numbers, set to the smallest value {low:g}"
    return np.where(finite, pixels, low), (note,)
