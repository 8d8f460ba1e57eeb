"""Scans of every kind that is read to voxels in canonical orientation."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from regard.errors import MediaError, MediaTooLarge
from regard.media.find import digest_of, split_series
from regard.media.geometry import Extent
from regard.media.preprocess import CT_WINDOWS, ScanSpec
from regard.media.scan.dicom import read_dicom
from regard.media.scan.dicom_series import pick_series, read_header
from regard.media.scan.nifti import read_nifti, stored_image
from regard.media.scan.voxels import (
    Stored,
    canonical,
    checked_affine,
    window_of,
    windowed,
)
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
            image; or an array (slices, rows, cols), taken as RAS+ with voxels of 1 mm. A `Scan`
            that you build yourself gives an array any other place and spacing.
        spec: the encoder's; its window is that of the scan.
        name: what messages and results call it; the path where there is one.
        max_voxels: larger scans are refused by their headers, before anything is allocated.

    Returns:
        The scan. Voxels that are no numbers are set to the smallest that is one, with a note.
        Its digest is that of the file's bytes, or of affine and voxels where there was no file.

    Raises:
        MediaError: missing, damaged, encrypted, several volumes or series, slices that make no
            volume, colours, no image, all voxels alike; `MediaTooLarge`.
        MissingExtra: nibabel or pydicom is not installed.
    """
    if isinstance(source, str | Path):
        path = os.fspath(source)
        name = name or path
        try:
            stored, digest = _from_path(path, name, max_voxels), digest_of(path)
        except OSError as error:  # of a folder, or a file in it
            raise MediaError(f"{name} cannot be opened: {error.strerror or error}.") from error
        return _scan(stored, spec, name, digest)
    if isinstance(source, bytes | bytearray | memoryview):
        content, name = bytes(source), name or "<bytes>"
        stored = _from_file(content, content[:_HEAD], name, max_voxels)
        return _scan(stored, spec, name, hashlib.sha256(content).hexdigest())
    if hasattr(source, "dataobj") and hasattr(source, "header"):
        name = name or str(source.get_filename() or "<image>")
        stored = stored_image(source, name, max_voxels)
    else:
        name = name or "<array>"
        stored = _from_array(source, name, max_voxels)
    sha = hashlib.sha256(f"{stored.values.shape} {stored.affine.tolist()}".encode())
    sha.update(np.ascontiguousarray(stored.values).tobytes())
    return _scan(stored, spec, name, sha.hexdigest())


def _from_path(path: str, name: str, max_voxels: int) -> Stored:
    folder, number = split_series(path)
    if os.path.isdir(folder):
        headers, notes = pick_series(folder, number)
        stored = read_dicom(headers, name, max_voxels)
        return replace(stored, notes=(*stored.notes, *notes))
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise MediaError(f"{name} cannot be opened: {error.strerror}.") from error
    except ValueError as error:  # a null byte in the name
        raise MediaError(f"{name!r} cannot be opened: {error}.") from error
    return _from_file(path, head, name, max_voxels)


def _from_file(source: str | bytes, head: bytes, name: str, max_voxels: int) -> Stored:
    suffix = os.path.splitext(source)[1].lower() if isinstance(source, str) else ""
    if head[128:132] == b"DICM" or suffix in DICOM_SUFFIXES:
        return read_dicom((read_header(source, name),), name, max_voxels)
    return read_nifti(source, name, max_voxels)


def _from_array(source: Any, name: str, max_voxels: int) -> Stored:
    try:
        values = np.asarray(source.detach().cpu() if hasattr(source, "detach") else source)
    except (TypeError, ValueError) as error:
        raise MediaError(f"{name} ({type(source).__name__}) is no array of numbers.") from error
    if values.ndim != 3 or not values.size or values.dtype.kind not in "buif":
        raise MediaError(
            f"{name} is {values.dtype} of shape {values.shape}; wanted real numbers of shape "
            "(slices, rows, cols). Give several scans as a list."
        )
    if values.size > max_voxels:
        raise MediaTooLarge(f"{name} has {values.size} voxels; wanted at most {max_voxels}.")
    notes = ("an array without affine: taken as RAS+, 1 mm a voxel",)
    return Stored(values.transpose(2, 1, 0).astype(np.float32), np.eye(4), "", notes)


def _scan(stored: Stored, spec: ScanSpec, name: str, digest: str) -> Scan:
    affine = checked_affine(stored.affine, name)
    pixels, turned = canonical(stored)
    pixels, notes = _finite(pixels, name)
    notes = (*stored.notes, *notes)
    low = float(pixels.min())
    if low == pixels.max():
        raise MediaError(
            f"{name} holds the value {low:g} in every voxel: there is nothing to see. Bring the "
            "scan again, or another one."
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
        affine=turned,
        source_affine=affine,
        source_shape=stored.values.shape,
        modality=stored.modality,
        window=window_of(pixels, spec.window),
    )


def _finite(pixels: np.ndarray, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    finite = np.isfinite(pixels)
    missing = math.prod(pixels.shape) - int(finite.sum())
    if not missing:
        return pixels, ()
    if missing == pixels.size:
        raise MediaError(f"{name} holds no number in any voxel (all NaN or infinite).")
    low = pixels[finite].min()
    note = f"{missing} voxels that are no numbers, set to the smallest value {low:g}"
    return np.where(finite, pixels, low), (note,)


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
