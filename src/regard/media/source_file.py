"""Source files: which medium each holds, how it is opened, and what reading it may log.

The suffix tables are here alone; `find` and the DICOM reader both use them.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
import zlib
from pathlib import Path

from regard.errors import MediaError, MediaTooLarge

IMAGE_SUFFIXES = frozenset(
    # Phones write .heic, which Pillow cannot read by itself. Listing it gives an error that says
    # so; skipping such files would look as if all of them had been captioned.
    (".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpeg", ".jpg", ".jp2")
    + (".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
VIDEO_SUFFIXES = frozenset(
    (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv")
    + (".ts", ".webm", ".wmv")
)
DICOM_SUFFIXES = frozenset((".dcm", ".dicom", ".ima"))
VOLUME_SUFFIXES = DICOM_SUFFIXES | {".nii"}
"""Files with these suffixes are read from a folder; a file that is named is always tried."""
_SUFFIXES = {"video": VIDEO_SUFFIXES, "volume": VOLUME_SUFFIXES, "image": IMAGE_SUFFIXES}

_HEAD = 348 + 4  # bytes that decide the medium: a NIfTI-1 header, which ends with its magic
_NIFTI = (b"n+1\0", b"ni1\0", b"n+2\0", b"ni2\0")  # version 1 at byte 344, version 2 at byte 4
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"BM")
_PICTURE_BOXES = (b"ftypavif", b"ftypheic", b"ftypmif1")  # pictures in a video container


def medium_of(path: str) -> str:
    """Return the medium of a path: "image", "video" or "volume".

    The suffix decides, or else the first bytes. A folder is a volume: the slices in it, or those
    of its N-th series (`FOLDER#N`). Everything else is tried as a picture.
    """
    if os.path.isdir(split_series(path)[0]):
        return "volume"
    return medium_by_name(path) or _medium_by_content(path)


def medium_by_name(name: str) -> str | None:
    """Return the medium that the suffix of a name stands for, or None if it is not known."""
    suffix = suffix_of(name)
    return next((medium for medium, known in _SUFFIXES.items() if suffix in known), None)


def suffix_of(name: str) -> str:
    """Return the suffix of a name in lower case; that of "x.nii.gz" is ".nii"."""
    return os.path.splitext(name.lower().removesuffix(".gz"))[1]


def medium_of_head(head: bytes) -> str:
    """Return the medium of a file from its first 352 bytes."""
    head = _unzipped(head)
    if is_dicom(head) or head[344:348] in _NIFTI or head[4:8] in _NIFTI:
        return "volume"
    is_video = head[:4] in (b"\x1a\x45\xdf\xa3", b"FLV\x01") or head[8:12] == b"AVI "
    is_mp4 = head[4:8] == b"ftyp" and head[4:12] not in _PICTURE_BOXES
    return "video" if is_video or is_mp4 else "image"


def medium_of_bytes(name: str, head: bytes) -> str:
    """Return the medium of an uploaded file; its name is not used as a path.

    The first bytes decide; the suffix does where they are of no known kind.
    """
    medium = medium_of_head(head[:_HEAD])
    if medium != "image" or head.startswith(_PICTURES):
        return medium
    return medium_by_name(name) or "image"


def is_dicom(head: bytes) -> bool:
    """Return whether the first 132 bytes of a file are those of DICOM."""
    return head[128:132] == b"DICM"


def split_series(path: str) -> tuple[str, int | None]:
    """Return the folder and the series number of `FOLDER#N`; of other paths the path and None."""
    folder, mark, number = path.rpartition("#")
    if mark and number.isdecimal() and not os.path.lexists(path) and os.path.isdir(folder):
        return folder, int(number)
    return path, None


def is_there(path: str) -> bool:
    """Return whether a file or folder exists; for `FOLDER#N`, whether the folder does."""
    return os.path.exists(split_series(path)[0])


def read_start(path: str | Path, name: str, count: int) -> bytes:
    """Return the first bytes of a file, or all of a shorter one.

    Args:
        path: a file or a pipe.
        name: used in error messages.
        count: bytes to read at most.

    Raises:
        MediaError: the file cannot be opened or read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError as error:
        raise MediaError(f"{name} cannot be opened: {error.strerror}.") from error
    except (ValueError, MemoryError) as error:  # a null byte in the path; not enough memory
        raise MediaError(f"{name!r} cannot be read: {error or 'out of memory'}.") from error


def refuse_empty(size: int, name: str) -> None:
    """Raise `MediaError` if a file has no bytes."""
    if not size:
        raise MediaError(f"{name} is empty (0 bytes). Copy or download the file again.")


def refuse_size(
    height: int, width: int, name: str, max_pixels: int, *, least: int = 0, what: str = ""
) -> None:
    """Raise `MediaTooLarge` unless a picture has from `least` to `max_pixels` pixels."""
    if not least <= height * width <= max_pixels:
        raise MediaTooLarge(
            f"{name} has {what}{width}×{height} pixels; expected at least {max(1, least)} and at "
            f"most {max_pixels} pixels. Scale it down, or set max_pixels."
        )


def _unzipped(head: bytes) -> bytes:
    """Return the first bytes of what a gzip file holds; other bytes as they are."""
    if not head.startswith(b"\x1f\x8b"):
        return head
    try:
        return zlib.decompressobj(wbits=31).decompress(head, _HEAD)
    except zlib.error:
        return head


def _medium_by_content(path: str) -> str:
    if not os.path.isfile(path):
        return "image"  # bytes that are read from a pipe would be lost
    try:
        return medium_of_head(read_start(path, path, _HEAD))
    except MediaError:
        return "image"  # the picture reader reports what is wrong


class _QuietLibraries:
    """Silences Pillow, nibabel and pydicom while any thread reads.

    Pillow's warning about large pictures is replaced by `max_pixels`, and unusual metadata does
    not matter here. pydicom puts unusual values into its warnings and its log, and a patient's
    name may be such a value. `warnings.catch_warnings` acts on the whole process: two threads
    that enter and leave it crosswise would leave the filter behind. Therefore the first reader
    sets the filter, and the last one restores it.
    """

    _MODULES = r"PIL|pydicom|nibabel|regard\.media"
    _OFF = logging.CRITICAL + 1

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._saved = warnings.catch_warnings()
        self._logger = logging.getLogger("pydicom")  # the loggers below it take its level
        self._level = logging.NOTSET

    def __enter__(self) -> None:
        with self._lock:
            if self._readers == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=self._MODULES)
                self._level = self._logger.level
                self._logger.setLevel(self._OFF)
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._saved.__exit__(None, None, None)
                self._logger.setLevel(self._level)


quiet_libraries = _QuietLibraries()
"""Context in which Pillow, nibabel and pydicom neither warn nor log; any thread may enter it."""
