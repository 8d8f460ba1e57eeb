"""Which files of a folder are DICOM, and which of them belong together.

Only technical attributes are ever taken from a file: who was scanned, where, when and why is not
even parsed.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

from regard.errors import MediaError, MissingExtra
from regard.media.image import quiet
from regard.types.media import DICOM_SUFFIXES, MEDIA

MODALITIES = frozenset(
    ("CR", "CT", "DX", "IO", "IVOCT", "IVUS", "MG", "MR", "NM", "OCT", "OPT", "OT", "PT", "PX")
    + ("RF", "RTDOSE", "RTIMAGE", "SEG", "SM", "US", "XA", "XC")
    # without an image
    + ("DOC", "ECG", "KO", "PR", "REG", "RTPLAN", "RTRECORD", "RTSTRUCT", "SR", "FID", "RWV")
)
"""Whatever else a file gives for its modality is not repeated."""

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
_MAGIC = b"DICM"
_DIRECTORY = b"1.2.840.10008.1.3.10"  # DICOMDIR
_ENVELOPED = bytes.fromhex("2a864886f70d010703")  # of a file encrypted as a whole (PS3.15)
_LISTED = 20


@dataclass(frozen=True, eq=False)
class Header:
    """One DICOM file without its pixels.

    Attributes:
        source: its path, or its bytes.
        dataset: its technical attributes.
        series: what files of one series share; a file of many frames is one by itself.
        number: of the series, for sorting.
        modality: a known one, or "".
        shape: (frames, rows, cols); zeros where it holds no image.
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
    pydicom = _import_pydicom()
    opened: Any = io.BytesIO(source) if isinstance(source, bytes) else source
    return pydicom.dcmread(
        opened, stop_before_pixels=not pixels, force=True, specific_tags=list(_TAGS)
    )


def read_header(source: str | bytes, name: str) -> Header:
    """Read a DICOM file without its pixels.

    Raises:
        MediaError: it is no DICOM file, or a damaged one.
        MissingExtra: pydicom is not installed.
    """
    _refuse_encrypted(source, name)
    try:
        with quiet:
            return _header(source, read_dataset(source, pixels=False))
    except MissingExtra:
        raise
    except OSError as error:
        raise MediaError(
            f"{name} cannot be opened: {error.strerror or 'it is damaged'}."
        ) from None  # what pydicom says may hold what the file says
    except Exception as error:
        raise MediaError(
            f"{name} cannot be read as DICOM ({type(error).__name__}): it is damaged or of another "
            "kind. Export it again."
        ) from None


def dicom_files(folder: str) -> list[str]:
    """Return the paths of a folder's own DICOM files, sorted; sub-folders are left alone."""
    found: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            # A pipe would wait for ever; macOS leaves `._x.dcm` beside `x.dcm`.
            if not entry.name.startswith(".") and entry.is_file() and _is_dicom(entry.path):
                found.append(entry.path)
    return sorted(found)


def read_series(folder: str) -> tuple[list[tuple[Header, ...]], tuple[str, ...]]:
    """Return the series of a folder's own DICOM files, in the order of their numbers.

    Returns:
        The files of each series; and a note on those without an image, such as reports, which
        belong to none.

    Raises:
        MediaError: a file is damaged, or none holds an image.
        MissingExtra: pydicom is not installed.
    """
    groups: dict[str, list[Header]] = {}
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
            + ". Wanted a folder with such files, or of DICOM slices; or name a file."
        )
    ordered = sorted(groups.items(), key=lambda pair: (pair[1][0].number, pair[0]))
    notes = (f"DICOM files without an image left out: {what}",) if what else ()
    return [tuple(headers) for _, headers in ordered], notes


def pick_series(folder: str, number: int | None) -> tuple[tuple[Header, ...], tuple[str, ...]]:
    """Return the files of the series that `FOLDER#N` names, without a number of the only one.

    Raises:
        MediaError: there is no such series, or several without a number; they are listed.
    """
    found, notes = read_series(folder)
    if number is None and len(found) == 1:
        return found[0], notes
    if number is not None and 1 <= number <= len(found):
        return found[number - 1], notes
    listed = "; ".join(
        f"{folder}#{i} is {describe(headers)}" for i, headers in enumerate(found[:_LISTED], 1)
    )
    more = f"; and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    asked = "" if number is None else f" and no #{number}"
    raise MediaError(f"{folder} holds {len(found)} series{asked}. Name one: {listed}{more}.")


def describe(headers: tuple[Header, ...]) -> str:
    """Return modality, slices and size of a series; nothing that may hold a name."""
    _, rows, cols = headers[0].shape
    slices = sum(header.shape[0] for header in headers)
    modality = headers[0].modality or "of unknown modality"
    return f"{modality}, {slices} slice{'s' if slices > 1 else ''} of {rows}×{cols}"


def _header(source: str | bytes, dataset: Any) -> Header:
    if dataset.get("SOPClassUID") is None and dataset.get("Rows") is None:
        meta = getattr(dataset, "file_meta", None)
        if meta is None or meta.get("MediaStorageSOPClassUID") is None:
            raise ValueError("none of the attributes of DICOM")
    rows, cols = (int(dataset.get(key) or 0) for key in ("Rows", "Columns"))
    frames = int(dataset.get("NumberOfFrames") or 1) if rows > 0 and cols > 0 else 0
    series = str(dataset.get("SeriesInstanceUID") or "")
    if frames > 1 or "PerFrameFunctionalGroupsSequence" in dataset:
        series += f" {source if isinstance(source, str) else ''}"
    modality = str(dataset.get("Modality") or "")
    return Header(
        source,
        dataset,
        series,
        _series_number(dataset),
        modality if modality in MODALITIES else "",
        (frames, rows, cols) if frames > 0 else (0, 0, 0),
    )


def _series_number(dataset: Any) -> int:
    try:
        return int(dataset.get("SeriesNumber") or 0)
    except ValueError:  # it only sorts
        return 0


def _is_dicom(path: str) -> bool:
    suffix = os.path.splitext(path)[1].lower()
    if suffix in DICOM_SUFFIXES | MEDIA["image"].suffixes | MEDIA["video"].suffixes:
        return suffix in DICOM_SUFFIXES
    try:
        with open(path, "rb") as file:
            head = file.read(132 + 512)
    except OSError:
        return False
    # A DICOMDIR lists the files of a medium; they are found without it.
    return head[128:132] == _MAGIC and _DIRECTORY not in head


def _refuse_encrypted(source: str | bytes, name: str) -> None:
    if isinstance(source, bytes):
        head = source[:132]
    else:
        try:
            with open(source, "rb") as file:
                head = file.read(132)
        except OSError as error:
            raise MediaError(f"{name} cannot be opened: {error.strerror}.") from error
    if not head:
        raise MediaError(f"{name} is empty (0 bytes). Bring the scan again.")
    if head[128:132] != _MAGIC and _ENVELOPED in head:
        raise MediaError(f"{name} is encrypted. Decrypt it first, where its key is.")


def _import_pydicom() -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise MissingExtra("pydicom", "volume", "reading DICOM") from error
    return pydicom
