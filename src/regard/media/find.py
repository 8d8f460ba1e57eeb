"""Media files: detection of the medium, expansion of globs and folders, and digests."""

import glob
import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import TextIO

from regard.errors import MediaError, RegardError
from regard.media.source_file import is_dicom, read_start
from regard.types.media import DICOM_SUFFIXES, MEDIA

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
    """Return the medium for the suffix of a name, or None if it is unknown."""
    suffix = _suffix(name)
    return next((medium for medium, its in MEDIA.items() if suffix in its.suffixes), None)


def _suffix(name: str) -> str:
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


def split_series(path: str) -> tuple[str, int | None]:
    """Return the folder and the series number of `FOLDER#N`; of other paths the path and None."""
    folder, mark, number = path.rpartition("#")
    if mark and number.isdecimal() and not os.path.lexists(path) and os.path.isdir(folder):
        return folder, int(number)
    return path, None


def is_there(path: str) -> bool:
    """Return whether a file or folder exists; for `FOLDER#N`, whether the folder does."""
    return os.path.exists(split_series(path)[0])


def _unzipped(head: bytes) -> bytes:
    """Return the first decompressed bytes of a gzip file; other bytes unchanged."""
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
        return "image"  # the picture reader reports the error


def find_files(arguments: Sequence[str], *, stdin: TextIO | None = None) -> Iterator[str]:
    """Expand globs, folders and `-` to paths.

    A folder yields the pictures, clips and scans in it, recursively and sorted, without hidden
    files. DICOM files of one folder are one scan, or `FOLDER#1`, `FOLDER#2` ... with one for each
    series. A pattern yields its matches, sorted. An argument without a match (a missing path, a
    pattern or folder without media) is returned unchanged, so that reading it reports the error.

    Args:
        arguments: as the user wrote them.
        stdin: the stream from which `-` reads one path per line.

    Returns:
        The paths, in the order of the arguments; not all of them need to exist.
    """
    for argument in arguments:
        if argument == "-" and stdin is not None:
            yield from (line.rstrip("\r\n") for line in stdin if line.strip())
        elif os.path.isdir(argument):
            yield from _media_in(argument) or [argument]
        elif not os.path.lexists(argument) and glob.has_magic(argument):
            yield from _matches(argument) or [argument]
        else:
            yield argument


def series_in(folder: str) -> list[int]:
    """Return the numbers of a folder's DICOM series from 1; [0] for a single one, [] for none."""
    from regard.media.scan.dicom_series import dicom_files, read_series

    try:
        if not dicom_files(folder):
            return []
        count = len(read_series(folder)[0])
    except (RegardError, OSError):
        count = 1  # its reader reports the error
    return [0] if count == 1 else [*range(1, count + 1)]


def digest_of(path: str) -> str:
    """Return a SHA-256 of the bytes of a file; of a folder, of its DICOM files' names and bytes.

    Raises:
        OSError: it cannot be read.
        MediaError: it is `FOLDER#N`, and the folder has no such series.
    """
    folder, number = split_series(path)
    if number is not None:
        from regard.media.scan.dicom_series import pick_series

        headers, _ = pick_series(folder, number)
        names = [os.path.basename(str(header.source)) for header in headers]
    elif os.path.isdir(path):
        from regard.media.scan.dicom_series import dicom_files

        names = [os.path.basename(file) for file in dicom_files(path)]
    else:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    sha = hashlib.sha256()
    for name in sorted(names):
        inside = os.path.join(folder, name)
        if os.path.isfile(inside):
            sha.update(f"{name} {digest_of(inside)}\n".encode())
    return sha.hexdigest()


def _media_in(folder: str) -> list[str]:
    found: list[tuple[str, int]] = []  # (path, number of the series, or 0)

    def add_unreadable(error: OSError) -> None:
        found.append((os.fsdecode(error.filename), 0))  # reading it reports the error

    for place, folders, files in os.walk(folder, onerror=add_unreadable):
        folders[:] = [f for f in folders if not f.startswith(".")]
        found += [(os.path.join(place, f), 0) for f in files if _is_media(f)]
        found += [(place, number) for number in series_in(place)]
    return [f"{path}#{number}" if number else path for path, number in sorted(found)]


def _matches(pattern: str) -> list[str]:
    return sorted(f for f in glob.glob(pattern, recursive=True) if not os.path.isdir(f))


def _is_media(name: str) -> bool:
    # macOS leaves `._photo.jpg` beside `photo.jpg`, which is not a picture. DICOM files are found
    # as series, by their content.
    hidden, dicom = name.startswith("."), _suffix(name) in DICOM_SUFFIXES
    return not hidden and not dicom and medium_by_name(name) is not None
