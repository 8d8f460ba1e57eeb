"""Reader of NIfTI files, plain and gzipped."""

import gzip
import io
import math
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from regard.errors import MediaError, MediaTooLarge, UnknownMedia
from regard.media.scan import StoredVolume, checked_affine, damage_as_media_error, import_nibabel
from regard.media.source_file import quiet_libraries, refuse_empty

_GZIP = b"\x1f\x8b"
_NIFTI1_HEADER, _NIFTI2_HEADER = 348, 540
_MAX_OFFSET = 2**26  # of header and extensions; a gzipped file of zeros could claim any offset
_PAIRS = (b"ni1\0", b"ni2\0")
_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}


def read_nifti(source: str | bytes, name: str, max_voxels: int) -> StoredVolume:
    """Read a NIfTI-1 or NIfTI-2 file of one volume.

    Args:
        source: path of a .nii or .nii.gz, or such a file's bytes.
        name: its name in messages.
        max_voxels: larger scans are rejected based on the header, before anything is allocated.

    Raises:
        MediaError: not NIfTI, damaged, several volumes, colours, or no usable affine.
        MissingExtra: nibabel is not installed.
    """
    nibabel = import_nibabel("NIfTI")
    with damage_as_media_error(name, "NIfTI"), quiet_libraries, _unzipped(source) as stream:
        head = stream.read(_NIFTI2_HEADER)
        stream.seek(0)
        kind = _image_class(nibabel, head, name)
        return from_nibabel(kind.from_stream(stream), name, max_voxels)


def from_nibabel(image: Any, name: str, max_voxels: int) -> StoredVolume:
    """Return the volume of a nibabel image; see `read_nifti` for the checks."""
    header = image.header
    shape = _checked_shape(tuple(int(n) for n in header.get_data_shape()), name, max_voxels)
    dtype = header.get_data_dtype()
    if dtype.kind not in "uif":
        kind = "colours" if dtype.fields else str(dtype)
        raise MediaError(f"{name} holds {kind}; expected one real number per voxel.")
    affine, notes = _affine(image, name)
    if len(shape) == 2:
        shape, notes = (*shape, 1), (*notes, "one slice")
    data = image.dataobj
    values = np.asarray(data.get_scaled(np.float32) if hasattr(data, "get_scaled") else data)
    return StoredVolume(values.reshape(shape).astype(np.float32), affine, "", notes)


@contextmanager
def _unzipped(source: str | bytes) -> Generator[Any]:
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        start = file.read(len(_GZIP))
        file.seek(0)
        with gzip.GzipFile(fileobj=file) if start == _GZIP else nullcontext(file) as unzipped:
            yield unzipped


def _image_class(nibabel: Any, head: bytes, name: str) -> Any:
    """Return nibabel's class for a file that begins with `head`."""
    refuse_empty(len(head), name)
    newer = head[4:7] == b"n+2"
    if not newer and head[344:347] not in (b"n+1", b"ni1") and head[4:7] != b"ni2":
        raise UnknownMedia(
            f"{name} is not a readable scan: its header is neither NIfTI (.nii, .nii.gz) nor DICOM."
        )
    if head[344:348] in _PAIRS or head[4:8] in _PAIRS:
        raise MediaError(
            f"{name} is the header of a pair (.hdr and .img). Join them: nibabel.save("
            'nibabel.load("scan.hdr"), "scan.nii.gz").'
        )
    kind = nibabel.Nifti2Image if newer else nibabel.Nifti1Image
    header = kind.header_class(head[: _NIFTI2_HEADER if newer else _NIFTI1_HEADER], check=False)
    if not float(header["vox_offset"]) <= _MAX_OFFSET:  # this refuses NaN, too
        raise MediaError(
            f"{name} has the voxel offset {float(header['vox_offset']):g}: its header is "
            "damaged. Copy or export the scan again."
        )
    return kind


def _checked_shape(shape: tuple[int, ...], name: str, max_voxels: int) -> tuple[int, ...]:
    """Return the shape of the one volume in the file."""
    sizes = "×".join(map(str, shape))
    volumes = math.prod(shape[3:])
    if len(shape) < 2 or min(shape) < 1:
        raise MediaError(f"{name} has {sizes or 'no'} voxels; expected a volume of (i, j, k).")
    if math.prod(shape) > max_voxels * max(1, volumes):
        raise MediaTooLarge(
            f"{name} has {sizes} voxels; expected at most {max_voxels} in a volume. Crop or thin "
            "it first, or set max_voxels."
        )
    if volumes > 1:
        raise MediaError(
            f"{name} holds {volumes} volumes ({sizes}), such as a time series or diffusion "
            "weightings; expected one. Take the first: nibabel.load("
            '"scan.nii.gz").slicer[..., 0].to_filename("first.nii.gz").'
        )
    return shape[:3]


def _affine(image: Any, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the affine in millimetres, and notes."""
    header = image.header
    notes: tuple[str, ...] = ()
    affine = checked_affine(np.full((4, 4), np.nan) if image.affine is None else image.affine, name)
    if "sform_code" in header and not int(header["sform_code"]) and not int(header["qform_code"]):
        notes += ("no sform and no qform: left and right, front and back are not known",)
    unit = header.get_xyzt_units()[0] if hasattr(header, "get_xyzt_units") else "mm"
    scale = _MILLIMETRES.get(unit, 1.0)
    if scale != 1.0:
        affine[:3] *= scale
        notes += (f"lengths in {unit}s, turned into millimetres",)
    return affine, notes
