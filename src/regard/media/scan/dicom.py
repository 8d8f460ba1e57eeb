"""Reader of DICOM slices and multi-frame files: one stored volume, sorted, in real units.

Messages never include pydicom's own messages, which may contain a patient's data.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regard.errors import MediaError, MediaTooLarge
from regard.media.scan import StoredVolume, damage_as_media_error
from regard.media.scan.dicom_geometry import DicomPlane, place_slices
from regard.media.scan.dicom_series import DicomHeader, read_dataset
from regard.media.source_file import quiet_libraries

_MAX_SLICES = 2**16
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")


@dataclass(frozen=True)
class DicomFrame:
    """One frame of a file, with its plane and the (slope, intercept) of its values."""

    header: DicomHeader
    index: int
    plane: DicomPlane
    rescale: tuple[float, float] | None


def read_dicom(headers: Sequence[DicomHeader], name: str, max_voxels: int) -> StoredVolume:
    """Read the files of one series, or one file of one or many frames.

    Args:
        headers: headers of all its files, in any order.
        name: its name in messages.
        max_voxels: larger scans are rejected based on their headers, before anything is allocated.

    Returns:
        Values in (column, row, slice) order, with slices sorted along the normal; Hounsfield
        units of a CT, by the RescaleSlope and RescaleIntercept of each frame.

    Raises:
        MediaError: no image, colours, slices that do not form a volume, or damaged.
    """
    with damage_as_media_error(name, "DICOM"), quiet_libraries:
        return _read(headers, name, max_voxels)


def _read(headers: Sequence[DicomHeader], name: str, max_voxels: int) -> StoredVolume:
    for header in headers:
        _check_kind(header, name)
        _check_codec(header.dataset, name)
    shape = _common_shape(headers, name)
    count = sum(header.shape[0] for header in headers)
    if count > _MAX_SLICES or count * shape[0] * shape[1] > max_voxels:
        raise MediaTooLarge(
            f"{name} has {count} slices of {shape[0]}×{shape[1]}; expected at most "
            f"{_MAX_SLICES} slices and {max_voxels} voxels. Crop or downsample it, or "
            "set max_voxels."
        )
    frames = [frame for header in headers for frame in _frames(header)]
    _check_alike(frames, name)
    order, affine, notes = place_slices([frame.plane for frame in frames], name)
    values = np.empty((count, *shape), np.float32)
    slots = {(id(frames[at].header), frames[at].index): k for k, at in enumerate(order)}
    for header in headers:
        own = [frame for frame in frames if frame.header is header]
        for frame, pixels in zip(own, _pixels(header, name), strict=True):
            if frame.rescale is not None:
                slope, intercept = frame.rescale
                pixels = pixels * slope + intercept
            values[slots[id(header), frame.index]] = pixels
    if headers[0].dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        values = values.max() + values.min() - values
        notes = (*notes, "its low values are white (MONOCHROME1): turned round")
    return StoredVolume(values.transpose(2, 1, 0), affine, headers[0].modality, notes)


def _check_kind(header: DicomHeader, name: str) -> None:
    dataset = header.dataset
    if not header.shape[0]:
        kind = header.modality or "unknown kind"
        raise MediaError(
            f"{name} is a DICOM file of {kind} that holds no image, such as a report or a "
            "structure set. Give the slices of a scan."
        )
    photometric = str(dataset.get("PhotometricInterpretation") or "")
    if int(dataset.get("SamplesPerPixel") or 1) > 1 or photometric == "PALETTE COLOR":
        raise MediaError(f"{name} is a DICOM file in colour; expected one value per voxel.")
    if "MOSAIC" in (dataset.get("ImageType") or ()):
        raise MediaError(
            f"{name} is a mosaic: the slices of a volume as tiles of one picture. Convert it to "
            "NIfTI, for example with dcm2niix."
        )


def _check_codec(dataset: Any, name: str) -> None:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    syntax = UID(_transfer_syntax(dataset))
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise MediaError(
            f"{name} is compressed in a way that pydicom cannot read. Decompress it first, such as "
            "with gdcmconv --raw."
        ) from None
    if not decoder.is_available:
        # pydicom lists "NAME - requires PACKAGE and PACKAGE"; gdcm is python-gdcm on PyPI.
        needed = [text.partition("requires ")[2] for text in decoder.missing_dependencies]
        packages = ", or ".join(needed).replace("numpy and ", "").replace("gdcm>", "python-gdcm>")
        raise MediaError(
            f"{name} is compressed as {syntax.name}, and its codec is missing. Install {packages}; "
            "or decompress it first, for example with gdcmconv --raw."
        )


def _transfer_syntax(dataset: Any) -> str:
    given = getattr(dataset.file_meta, "TransferSyntaxUID", None)
    if given is not None:
        return str(given)
    implicit, little = dataset.original_encoding
    return _NATIVE[0] if implicit else _NATIVE[1 if little else 2]


def _common_shape(headers: Sequence[DicomHeader], name: str) -> tuple[int, int]:
    shapes = sorted({header.shape[1:] for header in headers})
    if len(shapes) > 1:
        listed = ", ".join(f"{rows}×{cols}" for rows, cols in shapes[:4])
        raise MediaError(
            f"{name} has slices of {len(shapes)} different sizes ({listed}): they do not form "
            "a volume. Put the slices of each size into a separate folder."
        )
    return shapes[0]


def _check_alike(frames: Sequence[DicomFrame], name: str) -> None:
    """Raise unless the values of all slices mean the same.

    Slices may have slopes of their own, as those of PET have; but a slice that lacks a slope, or
    whose shades are reversed, is in other units, and its own cannot be told.
    """
    kinds = {
        "modality": [frame.header.modality or "unknown" for frame in frames],
        "photometric interpretation": [
            "MONOCHROME1"
            if frame.header.dataset.get("PhotometricInterpretation") == "MONOCHROME1"
            else "MONOCHROME2"
            for frame in frames
        ],
        "rescaling": [_scale_kind(frame) for frame in frames],
    }
    if all(frame.rescale in (None, (1.0, 0.0)) for frame in frames):
        kinds["rescaling"] = [kind for kind in kinds["rescaling"] if kind == "by a table"]
        kinds["rescaling"] += ["as stored"] * (0 < len(kinds["rescaling"]) < len(frames))
    for what, found in kinds.items():
        counts = Counter(found)
        if len(counts) > 1:
            listed = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
            raise MediaError(
                f"{name} has slices that differ in their {what} ({listed}): their values do not "
                "mean the same. Export the series again, or take the odd slices out."
            )
    if any(f.rescale is not None and not f.rescale[0] for f in frames):
        raise MediaError(f"{name} has a slice whose RescaleSlope is 0. Export the series again.")


def _scale_kind(frame: DicomFrame) -> str:
    if "ModalityLUTSequence" in frame.header.dataset:
        return "by a table"
    return "without a slope" if frame.rescale is None else "with a slope"


def _frames(header: DicomHeader) -> list[DicomFrame]:
    dataset = header.dataset
    count = header.shape[0]
    if per_frame := dataset.get("PerFrameFunctionalGroupsSequence"):
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
        # If there are too few, some frames have no plane, which `place_slices` refuses.
        groups = [*per_frame, *[{}] * count][:count]
        return [_enhanced(header, i, (group, shared)) for i, group in enumerate(groups)]
    planes = _classic_planes(dataset, count)
    return [DicomFrame(header, i, plane, _rescale(dataset)) for i, plane in enumerate(planes)]


def _classic_planes(dataset: Any, count: int) -> list[DicomPlane]:
    position = _numbers(dataset.get("ImagePositionPatient"), 3)
    orientation = _numbers(dataset.get("ImageOrientationPatient"), 6)
    spacing = _numbers(dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing"), 2)
    depth = _depth(dataset)
    if count == 1:
        return [DicomPlane(position, orientation, spacing, depth)]
    offsets = _numbers(dataset.get("GridFrameOffsetVector"), count)  # of a dose grid
    if position is None or orientation is None or offsets is None:
        return [DicomPlane(None, None, spacing, depth)] * count
    normal = np.cross(orientation[:3], orientation[3:])
    # The first offset is 0, or the first slice's own place along the normal (PS3.3, C.8.8.3.2).
    places = [np.add(position, (offset - offsets[0]) * normal) for offset in offsets]
    return [DicomPlane(tuple(place), orientation, spacing, depth) for place in places]


def _enhanced(header: DicomHeader, index: int, groups: tuple[Any, Any]) -> DicomFrame:
    """Return a frame of an enhanced file from its own and the shared functional groups."""

    def found(sequence: str) -> Any:
        return next((group[sequence][0] for group in groups if group.get(sequence)), {})

    measures = found("PixelMeasuresSequence")
    plane = DicomPlane(
        _numbers(found("PlanePositionSequence").get("ImagePositionPatient"), 3),
        _numbers(found("PlaneOrientationSequence").get("ImageOrientationPatient"), 6),
        _numbers(measures.get("PixelSpacing"), 2),
        _depth(measures),
    )
    return DicomFrame(header, index, plane, _rescale(found("PixelValueTransformationSequence")))


def _rescale(holder: Any) -> tuple[float, float] | None:
    slope, intercept = holder.get("RescaleSlope"), holder.get("RescaleIntercept")
    if holder.get("DoseGridScaling") is not None:
        return float(holder.get("DoseGridScaling")), 0.0
    if slope is None and intercept is None:
        return None
    return (1.0 if slope is None else float(slope)), float(intercept or 0.0)


def _depth(holder: Any) -> float | None:
    for key in ("SpacingBetweenSlices", "SliceThickness"):
        value = holder.get(key)
        if value is not None and float(value) > 0:
            return float(value)
    return None


def _numbers(values: Any, count: int) -> tuple[float, ...] | None:
    """Return `count` finite numbers, or None if the attribute does not hold them."""
    if values is None or isinstance(values, str | float | int) or len(values) != count:
        return None
    numbers = tuple(float(value) for value in values)
    return numbers if all(map(math.isfinite, numbers)) else None


def _pixels(header: DicomHeader, name: str) -> np.ndarray:
    """Return (frames, rows, cols) as they are stored, float32."""
    from pydicom.pixels.processing import apply_modality_lut
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import UID

    dataset = read_dataset(header.source, pixels=True)
    if not any(key in dataset for key in _PIXELS):
        why = ": its attributes are encrypted" if "EncryptedAttributesSequence" in dataset else ""
        raise MediaError(f"{name} holds no pixels{why}. Export it again, with them.")
    dataset.file_meta.TransferSyntaxUID = UID(_transfer_syntax(dataset))
    try:
        pixels = pixel_array(dataset)
    except RuntimeError:  # raised after every installed decoder failed
        raise MediaError(
            f"{name} cannot be decompressed ({dataset.file_meta.TransferSyntaxUID.name}): it is "
            "damaged, or of a variant that Pillow cannot read, such as JPEG of 12 bits. Install "
            "pylibjpeg and pylibjpeg-libjpeg, or decompress it first (gdcmconv --raw)."
        ) from None
    if "ModalityLUTSequence" in dataset:
        pixels = apply_modality_lut(pixels, dataset)
    return pixels.reshape(header.shape).astype(np.float32)
