"""NIfTI files, single and gzipped, to a volume as it is stored."""

from __future__ import annotations

import gzip
import io
import math
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from regard.errors import MediaError, MediaTooLarge, RegardError, UnknownMedia
from regard.media.scan.voxels import Stored, checked_affine, import_nibabel

_GZIP = b"\x1f\x8b"
_NIFTI1_HEADER, _NIFTI2_HEADER = 348, 540
_MAX_OFFSET = 2**26  # of header and extensions; a zipped file of zeros could have any
_PAIRS = (b"ni1\0", b"ni2\0")
_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}


def is_nifti(head: bytes) -> bool:
    """Whether the first 352 bytes, unzipped, are a NIfTI header's."""
    return head[344:347] in (b"n+1", b"ni1") or head[4:7] in (b"n+2", b"ni2")


def read_nifti(source: str | Path | bytes, name: str, max_voxels: int) -> Stored:
    """Read a NIfTI-1 or NIfTI-2 file of one volume.

    Args:
        source: path of a .nii or .nii.gz, or such a file's bytes.
        name: what messages call it.
        max_voxels: more are refused by the header, before anything is allocated.

    Raises:
        MediaError: no NIfTI, damaged, several volumes, colours, or no usable affine.
        MissingExtra: nibabel is not installed.
    """
    nibabel = import_nibabel("NIfTI")
    try:
        with _opened(source) as stream:
            return _read(nibabel, stream, name, max_voxels)
    except RegardError:
        raise
    except FileNotFoundError as error:
        raise MediaError(f"{name} cannot be opened: {error.strerror}.") from error
    except MemoryError as error:
        raise MediaTooLarge(f"{name} does not fit into memory. Cut or thin it first.") from error
    except Exception as error:  # whatever gzip, zlib and nibabel raise on a damaged file
        raise MediaError(
            f"{name} cannot be read as NIfTI ({type(error).__name__}): it is cut short or damaged. "
            "Bring it again."
        ) from error


def stored_image(image: Any, name: str, max_voxels: int) -> Stored:
    """Return the volume of a nibabel image; see `read_nifti` for what is refused."""
    header = image.header
    shape = _checked_shape(tuple(int(n) for n in header.get_data_shape()), name, max_voxels)
    dtype = header.get_data_dtype()
    if dtype.kind not in "uif":
        kind = "colours" if dtype.fields else str(dtype)
        raise MediaError(f"{name} holds {kind}; wanted one real number per voxel.")
    affine, notes = _affine(image, name)
    if len(shape) == 2:
        shape, notes = (*shape, 1), (*notes, "one slice")
    values = np.asarray(image.dataobj.get_scaled(np.float32)
                        if hasattr(image.dataobj, "get_scaled") else image.dataobj)  # fmt: skip
    return Stored(values.reshape(shape).astype(np.float32), affine, "", notes)


@contextmanager
def _opened(source: str | Path | bytes) -> Generator[Any]:
    with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
        start = file.read(len(_GZIP))
        file.seek(0)
        if start != _GZIP:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unzipped:
            yield unzipped


def _read(nibabel: Any, stream: Any, name: str, max_voxels: int) -> Stored:
    head = stream.read(_NIFTI2_HEADER)
    stream.seek(0)
    if not head:
        raise MediaError(f"{name} is empty (0 bytes). Bring the scan again.")
    if not is_nifti(head):
        raise UnknownMedia(
            f"{name} is no scan that can be read: by its header neither NIfTI (.nii, .nii.gz) nor "
            "DICOM."
        )
    if head[344:348] in _PAIRS or head[4:8] in _PAIRS:
        raise MediaError(
            f"{name} is the header of a pair (.hdr and .img). Join them: nibabel.save("
            'nibabel.load("scan.hdr"), "scan.nii.gz").'
        )
    newer = head[4:7] == b"n+2"
    kind = nibabel.Nifti2Image if newer else nibabel.Nifti1Image
    header = kind.header_class(head[: _NIFTI2_HEADER if newer else _NIFTI1_HEADER], check=False)
    if not float(header["vox_offset"]) <= _MAX_OFFSET:
        raise MediaError(
            f"{name} says that its voxels begin after {float(header['vox_offset']):g} bytes: its "
            "header is damaged. Bring it again."
        )
    return stored_image(kind.from_stream(stream), name, max_voxels)


def _checked_shape(shape: tuple[int, ...], name: str, max_voxels: int) -> tuple[int, ...]:
    """Return the shape of the one volume that the file holds."""
    sizes = "×".join(map(str, shape))
    if len(shape) < 2 or min(shape) < 1:
        raise MediaError(f"{name} has {sizes or 'no'} voxels; wanted a volume of (i, j, k).")
    if math.prod(shape) > max_voxels * max(1, math.prod(shape[3:])):
        raise MediaTooLarge(
            f"{name} has {sizes} voxels; wanted at most {max_voxels} in a volume. Cut or thin it "
            "first, or set max_voxels."
        )
    if math.prod(shape[3:]) > 1:
        raise MediaError(
            f"{name} holds {math.prod(shape[3:])} volumes ({sizes}), such as a time series or "
            "diffusion weightings; wanted one. Take the first: nibabel.load("
            '"scan.nii.gz").slicer[..., 0].to_filename("first.nii.gz").'
        )
    return shape[:3]


def _affine(image: Any, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    header = image.header
    affine = image.affine
    notes: tuple[str, ...] = ()
    if affine is None:
        affine = np.full((4, 4), np.nan)
    affine = checked_affine(affine, name)
    if "sform_code" in header and not int(header["sform_code"]) and not int(header["qform_code"]):
        notes += ("no sform and no qform: left and right, front and back are not known",)
    unit = header.get_xyzt_units()[0] if hasattr(header, "get_xyzt_units") else "mm"
    scale = _MILLIMETRES.get(unit, 1.0)
    if scale != 1.0:
        affine[:3] *= scale
        notes += (f"lengths in {unit}s, turned into millimetres",)
    return affine, notes
