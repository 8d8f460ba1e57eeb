"""A caption's attention as a NIfTI image on the voxels of its scan.

The image has the affine and the voxels of the scan's own file, so that any viewer of scans can
overlay it; its fourth axis runs over the words. Only the geometry of the file's header is copied,
because a header may name a patient.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from regard.errors import ConfigError
from regard.explain.drawing import attention_label, smoothing_label
from regard.explain.scan.volume_maps import along, mixed, scan_of
from regard.media import places_of
from regard.media.scan import import_nibabel
from regard.pipeline import NOT_CLINICAL
from regard.types import Caption, Scan
from regard.util.atomic import whole_file
from regard.version import __version__

DESCRIPTION = "regard attention; not for clinical use"
"""The header's `descrip`, of at most 79 bytes."""
LARGE = 8 * 2**20
"""Bytes of 16-bit voxels above which attention is stored in 8 bits."""
_SLAB = 2**22  # voxels that are computed together
_COMMENT = 6  # NIfTI's code of a header extension with a plain comment
_TOLERANCE = 1e-4  # millimetres a voxel by which an axis may miss the scan's


def attention_nifti(caption: Caption, *, smooth: bool = True) -> Any:
    """Return a nibabel image of where in a scan the decoder looked for each word.

    Args:
        caption: with its scan.
        smooth: smoothed maps; False gives each voxel the value of its cell.

    Returns:
        A `nibabel.Nifti1Image` (i, j, k, words) of float32, in multiples of uniform attention, 0
        where no cell lies; its affine and first axes are those of the scan's file.

    Raises:
        ConfigError: the caption does not hold its scan or has no words.
        MissingExtra: nibabel is not installed.
    """
    nibabel = import_nibabel("NIfTI")
    scan = _scan_of(caption)
    values = np.zeros((*scan.source_shape, len(caption.words)), np.float32, order="F")
    for word, start, slab in _slabs(caption, scan, smooth):
        values[:, :, start : start + slab.shape[2], word] = slab
    header = _header(caption, scan, np.dtype(np.float32), smooth)
    return nibabel.Nifti1Image(values, scan.source_affine, header)


def save_attention(caption: Caption, path: str | Path, *, smooth: bool = True) -> Path:
    """Write the image of `attention_nifti`, slab by slab, in little memory.

    Integers of 16 bits (8 where those would take more than `LARGE` bytes) are stored with the
    header's slope: viewers and libraries show multiples of uniform, to 1/32767 (1/255) of the
    caption's largest value.

    Args:
        caption: with its scan.
        path: ends in .nii.gz or .nii; its folder is created.
        smooth: see `attention_nifti`.

    Returns:
        The path.

    Raises:
        ConfigError: as `attention_nifti`, or the name has another ending.
        MissingExtra: nibabel is not installed.
        OSError: the file cannot be written.
    """
    import_nibabel("NIfTI")
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ConfigError(f"Cannot write a NIfTI image to {path}: it must end in .nii.gz or .nii.")
    scan = _scan_of(caption)
    voxels = int(np.prod(scan.source_shape)) * len(caption.words)
    kind = np.dtype("<i2" if 2 * voxels <= LARGE else "u1")
    most = max(float(slab.max(initial=0.0)) for _, _, slab in _slabs(caption, scan, smooth))
    slope = (most or 1.0) / np.iinfo(kind).max  # 0: all attention on padding
    header = _header(caption, scan, kind, smooth)
    header.set_slope_inter(slope, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = path.suffix == ".gz"
    with whole_file(path) as new, new.open("wb") as raw, _stream(raw, packed=packed) as file:
        header.write_to(file)
        file.write(bytes(int(header["vox_offset"]) - file.tell()))
        for _, _, slab in _slabs(caption, scan, smooth):
            stored = np.rint(slab / slope).astype(kind)
            file.write(stored.tobytes(order="F"))
    return path


def description(caption: Caption, *, smooth: bool = True) -> dict[str, Any]:
    """Return the header's comment on the image.

    Args:
        caption: caption of a scan.
        smooth: whether its maps are smoothed.
    """
    return {
        "made_by": f"regard {__version__}",
        "notice": NOT_CLINICAL,
        "what": f"{attention_label(caption.trace)}, one volume per word",
        "unit": "multiples of uniform attention; 0 where no cell lies",
        "grid": list(caption.grid.shape),
        "drawn": smoothing_label(caption.grid) if smooth else "raw cells",
        "words": [word.text for word in caption.words],
    }


def _slabs(caption: Caption, scan: Scan, smooth: bool) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (word, first k, values (i, j, some k) float32) in the order of a NIfTI file."""
    weights, order = _weights(caption, scan, smooth)
    ni, nj, nk = scan.source_shape
    thick = max(1, _SLAB // (ni * nj))
    for number, word in enumerate(caption.words):
        alpha = word.alpha.transpose(order)  # the cells along i, j and k
        for start in range(0, nk, thick):
            of_slab = (weights[0], weights[1], weights[2][start : start + thick])
            slab = mixed(alpha, of_slab, caption.grid.real_cells)
            yield number, start, np.nan_to_num(slab.astype(np.float32), nan=0.0)


def _weights(
    caption: Caption, scan: Scan, smooth: bool
) -> tuple[list[np.ndarray], tuple[int, ...]]:
    """Return `along` of the voxels of i, j and k, and the grid's axis that each runs along.

    The scan's axes are the file's own in another order and direction, however oblique both are
    in the world; so each axis of the file runs along one axis of the grid.
    """
    places = places_of(caption.grid, scan.source_affine)
    turn = places[:3, :3]
    order = tuple(int(axis) for axis in np.abs(turn).argmax(0))
    rest = turn.copy()
    rest[order, range(3)] = 0
    if sorted(order) != [0, 1, 2] or np.abs(rest).max() > _TOLERANCE:
        raise ConfigError(
            "The axes of this scan are not those of its source_affine, so the voxels of its file "
            "cannot be located. Read the scan with `regard.media.scan.scan_reader.read_scan`."
        )
    weights: list[np.ndarray] = []
    for k, axis in enumerate(order):
        at = places[axis, 3] + turn[axis, k] * np.arange(scan.source_shape[k])
        weights.append(along(caption.grid, axis, at, smooth=smooth))
    return weights, order


def _header(caption: Caption, scan: Scan, kind: np.dtype[Any], smooth: bool) -> Any:
    nibabel = import_nibabel("NIfTI")
    header = nibabel.Nifti1Header()
    header.set_data_dtype(kind)
    header.set_data_shape((*scan.source_shape, len(caption.words)))
    spacing = np.linalg.norm(scan.source_affine[:3, :3], axis=0)
    header.set_zooms((*map(float, spacing), 1.0))
    header.set_sform(scan.source_affine, code="scanner")
    header.set_qform(scan.source_affine, code="scanner", strip_shears=True)
    header.set_xyzt_units("mm")
    header["descrip"] = DESCRIPTION
    header["cal_min"], header["cal_max"] = 0.0, 0.0  # viewers choose
    comment = json.dumps(description(caption, smooth=smooth), ensure_ascii=False).encode()
    header.extensions.append(nibabel.nifti1.Nifti1Extension(_COMMENT, comment))
    return header


def _scan_of(caption: Caption) -> Scan:
    if not caption.words:
        raise ConfigError("This caption has no words, so there is no attention to write.")
    return scan_of(caption)


def _stream(raw: Any, *, packed: bool) -> Any:
    # The file holds no name and no time, so that the same caption gives the same bytes.
    return gzip.GzipFile("", "wb", 4, raw, mtime=0) if packed else raw
