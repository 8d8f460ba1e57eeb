"""Discovery of the DICOM files of a folder, grouped into series.

Only technical attributes are read from a file. Attributes about the patient and the examination are
not even parsed.
"""

import io
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

from regard.errors import MediaError, needs_extra
from regard.media.scan import damage_as_media_error
from regard.media.source_file import (
    is_dicom,
    quiet_libraries,
    read_start,
    refuse_costly_dicom,
    refuse_empty,
)
from regard.types.media import DICOM_SUFFIXES, MEDIA

MODALITIES = frozenset(
    ("CR", "CT", "DX", "IO", "IVOCT", "IVUS", "MG", "MR", "NM", "OCT", "OPT", "OT", "PT", "PX")
    + ("RF", "RTDOSE", "RTIMAGE", "SEG", "SM", "US", "XA", "XC")
    # without an image
    + ("DOC", "ECG", "KO", "PR", "REG", "RTPLAN", "RTRECORD", "RTSTRUCT", "SR", "FID", "RWV")
)
"""Known modalities; any other text in that attribute is never repeated."""

_TAGS = (
    ("SOPClassUID", "SeriesInstanceUID", "SeriesNumber", "Modality", "ImageType")
    + ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation")
    + ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration")
    + ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing")
    + ("SliceThickness", "SpacingBetweenSlices", "GridFrameOffsetVector")
    + ("RescaleSlope", "RescaleIntercept", "DoseGridScaling", "ModalityLUTSequence")
    + ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
    + ("PixelData", "FloatPixelData", "DoubleFloatPixelData", "EncryptedAttributesSequence")
    + ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
)
_HEAD = 132  # bytes: a preamble of 128 and the magic
_DIRECTORY = b"1.2.840.10008.1.3.10"  # DICOMDIR
_ENVELOPED = bytes.fromhex("2a864886f70d010703")  # of a file that is encrypted as a whole (PS3.15)
_LISTED = 20  # series in an error message


@dataclass(frozen=True, eq=False)
class DicomHeader:
    """One DICOM file without its pixels.

    Attributes:
        source: its path, or its bytes.
        dataset: its technical attributes.
        series: equal for all files of a series; a file of many frames is its own series.
        number: number of the series, for sorting.
        modality: a known one, or "".
        shape: (frames, rows, cols); zeros if it holds no image.
    """

    source: str | bytes
    dataset: Any
    series: str
    number: int
    modality: str
    shape: tuple[int, int, int]


def read_dataset(source: str | bytes, *, pixels: bool) -> Any:
    """Read the technical attributes of a DICOM file, with or without its pixels.

    Raises:
        MissingExtra: pydicom is not installed.
    """
    with needs_extra("pydicom", "volume", "reading DICOM"):
        import pydicom
    opened: Any = io.BytesIO(source) if isinstance(source, bytes) else source
    return pydicom.dcmread(
        opened, stop_before_pixels=not pixels, force=True, specific_tags=list(_TAGS)
    )


def read_header(source: str | bytes, name: str) -> DicomHeader:
    """Read a DICOM file without its pixels.

    Raises:
        MediaError: it is not a DICOM file, or a damaged or encrypted one.
        MissingExtra: pydicom is not installed.
    """
    head = source[:_HEAD] if isinstance(source, bytes) else read_start(source, name, _HEAD)
    refuse_empty(len(head), name)
    if not is_dicom(head) and _ENVELOPED in head:
        raise MediaError(f"{name} is encrypted. Decrypt it first.")
    refuse_costly_dicom(source, name)
    with damage_as_media_error(name, "DICOM"), quiet_libraries:
        return _header(source, read_dataset(source, pixels=False))


def dicom_files(folder: str) -> list[str]:
    """Return the paths of the DICOM files in a folder, sorted; sub-folders are not searched."""
    with os.scandir(folder) as entries:
        # Reading a pipe would block; macOS leaves `._x.dcm` beside `x.dcm`.
        files = [e.path for e in entries if e.is_file() and not e.name.startswith(".")]
    return sorted(filter(_is_dicom_file, files))


def read_series(folder: str) -> tuple[list[tuple[DicomHeader, ...]], tuple[str, ...]]:
    """Return the series of the DICOM files in a folder, in the order of their numbers.

    Returns:
        The files of each series; and a note on files without an image, such as reports, which
        belong to no series.

    Raises:
        MediaError: a file is damaged, or none holds an image.
        MissingExtra: pydicom is not installed.
    """
    groups: dict[str, list[DicomHeader]] = {}
    others: Counter[str] = Counter()
    for file in dicom_files(folder):
        header = read_header(file, file)
        if header.shape[0]:
            groups.setdefault(header.series, []).append(header)
        else:
            others[header.modality or "unknown kind"] += 1
    what = ", ".join(f"{n} of {modality}" for modality, n in sorted(others.items()))
    if not groups:
        raise MediaError(
            f"{folder} is a folder without a picture, clip or scan in it"
            + (f": its DICOM files hold no image ({what})" if what else "")
            + ". Give a folder with such files or with DICOM slices, or a file."
        )
    ordered = sorted(groups.items(), key=lambda pair: (pair[1][0].number, pair[0]))
    notes = (f"DICOM files without an image left out: {what}",) if what else ()
    return [tuple(headers) for _, headers in ordered], notes


def pick_series(folder: str, number: int | None) -> tuple[tuple[DicomHeader, ...], tuple[str, ...]]:
    """Return the files of a series and notes.

    Args:
        folder: folder of DICOM files.
        number: number of the series, from 1; None if the folder has only one.

    Raises:
        MediaError: the series does not exist, or the number is missing; the series are listed.
    """
    found, notes = read_series(folder)
    if number is None and len(found) == 1:
        return found[0], notes
    if number is not None and 1 <= number <= len(found):
        return found[number - 1], notes
    listed = "; ".join(
        f"{folder}#{i} is {_describe(headers)}" for i, headers in enumerate(found[:_LISTED], 1)
    )
    more = f"; and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    asked = "" if number is None else f" and no #{number}"
    raise MediaError(f"{folder} holds {len(found)} series{asked}. Name one: {listed}{more}.")


def _describe(headers: tuple[DicomHeader, ...]) -> str:
    """Return modality, slices and size of a series, without data that may hold a name."""
    _, rows, cols = headers[0].shape
    slices = sum(header.shape[0] for header in headers)
    modality = headers[0].modality or "of unknown modality"
    return f"{modality}, {slices} slice{'s' if slices > 1 else ''} of {rows}×{cols}"


def _header(source: str | bytes, dataset: Any) -> DicomHeader:
    if dataset.get("SOPClassUID") is None and dataset.get("Rows") is None:
        meta = getattr(dataset, "file_meta", None)
        if meta is None or meta.get("MediaStorageSOPClassUID") is None:
            raise ValueError("no DICOM attributes found")
    rows, cols = (int(dataset.get(key) or 0) for key in ("Rows", "Columns"))
    frames = int(dataset.get("NumberOfFrames") or 1) if rows > 0 and cols > 0 else 0
    series = str(dataset.get("SeriesInstanceUID") or "")
    if frames > 1 or "PerFrameFunctionalGroupsSequence" in dataset:
        series += f" {source if isinstance(source, str) else ''}"
    try:
        number = int(dataset.get("SeriesNumber") or 0)
    except ValueError:
        number = 0  # it is only used for sorting
    modality = str(dataset.get("Modality") or "")
    modality = modality if modality in MODALITIES else ""
    shape = (frames, rows, cols) if frames > 0 else (0, 0, 0)
    return DicomHeader(source, dataset, series, number, modality, shape)


def _is_dicom_file(path: str) -> bool:
    suffix = os.path.splitext(path)[1].lower()
    if suffix in DICOM_SUFFIXES | MEDIA["image"].suffixes | MEDIA["video"].suffixes:
        return suffix in DICOM_SUFFIXES
    try:
        head = read_start(path, path, _HEAD + 512)
    except MediaError:
        return False
    # A DICOMDIR lists other files, which are found without it.
    return is_dicom(head) and _DIRECTORY not in head
