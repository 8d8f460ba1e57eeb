"""From command-line arguments to files, and which medium a file is of."""

from __future__ import annotations

import glob
import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import TextIO

from regard.errors import RegardError
from regard.types.media import DICOM_SUFFIXES, MEDIA

_HEAD = 348 + 4  # bytes that tell a medium: a NIfTI-1 header ends with its kind
_NIFTI = (b"n+1\0", b"ni1\0", b"n+2\0", b"ni2\0")  # of version 1 at byte 344, of 2 at byte 4
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"BM")


def medium_of(path: str) -> str:
    """Return the medium that a path names: "image", "video" or "volume".

    The suffix says it; where it says nothing, the first bytes do. A folder is taken as a
    volume: its slices, or those of its N-th series (`FOLDER#N`). What is none of these is tried
    as a picture.
    """
    if os.path.isdir(split_series(path)[0]):
        return "volume"
    return medium_by_name(path) or _sniffed(path)


def medium_by_name(name: str) -> str | None:
    """Return the medium that a name's suffix says, or None where it says none."""
    suffix = _suffix(name)
    return next((medium for medium, its in MEDIA.items() if suffix in its.suffixes), None)


def _suffix(name: str) -> str:
    return os.path.splitext(name.lower().removesuffix(".gz"))[1]


def medium_of_head(head: bytes) -> str:
    """Return the medium of a file by its first bytes, 352 of which tell."""
    head = _unzipped(head)
    if head[128:132] == b"DICM" or head[344:348] in _NIFTI or head[4:8] in _NIFTI:
        return "volume"
    boxes = (b"ftypavif", b"ftypheic", b"ftypmif1")  # pictures in a video's container
    is_video = head[:4] in (b"\x1a\x45\xdf\xa3", b"FLV\x01") or head[8:12] == b"AVI "
    return "video" if is_video or (head[4:8] == b"ftyp" and head[4:12] not in boxes) else "image"


def _unzipped(head: bytes) -> bytes:
    """Return the beginning of what a gzipped file holds; of another file what came."""
    if not head.startswith(b"\x1f\x8b"):
        return head
    try:
        return zlib.decompressobj(wbits=31).decompress(head, _HEAD)
    except zlib.error:
        return head


def split_series(path: str) -> tuple[str, int | None]:
    """Return the folder and the number that `FOLDER#N` names; else the path and None."""
    folder, mark, number = path.rpartition("#")
    if mark and number.isdecimal() and not os.path.lexists(path) and os.path.isdir(folder):
        return folder, int(number)
    return path, None


def is_there(path: str) -> bool:
    """Whether a file or folder exists; of `FOLDER#N` the folder."""
    return os.path.exists(split_series(path)[0])


def digest_of(path: str) -> str:
    """Return a SHA-256 of a file's bytes; of a folder's its DICOM files' names and bytes.

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


def _sniffed(path: str) -> str:
    if not os.path.isfile(path):
        return "image"  # what is read of a pipe is gone
    try:
        with open(path, "rb") as file:
            return medium_of_head(file.read(_HEAD))
    except (OSError, ValueError):
        return "image"  # whose reader says what is wrong


def medium_of_bytes(name: str, head: bytes) -> str:
    """Return the medium of a file that came under a name, which is no path here.

    The first bytes say it; where they are of no kind that they tell apart, the suffix does.
    """
    medium = medium_of_head(head[:_HEAD])
    if medium != "image" or head.startswith(_PICTURES):
        return medium
    return medium_by_name(name) or "image"


def find_files(arguments: Sequence[str], *, stdin: TextIO | None = None) -> Iterator[str]:
    """Expand globs, folders and `-` to paths.

    A folder gives its pictures, clips and scans, recursively and sorted, hidden ones left out; a
    folder of DICOM files in it is one scan, or `FOLDER#1`, `FOLDER#2` ... one for each series. A
    pattern gives what it matches, sorted. What gives nothing (a missing path, a pattern without
    a match, a folder with nothing in it) is given as it is, so that it becomes that item's error.

    Args:
        arguments: as the user wrote them.
        stdin: where `-` reads one path per line from.

    Returns:
        The paths, in the order of the arguments; not all of them need exist.
    """
    for argument in arguments:
        if argument == "-" and stdin is not None:
            yield from (line.rstrip("\r\n") for line in stdin if line.strip())
        elif os.path.isdir(argument):
            yield from _media(argument) or [argument]
        elif not os.path.lexists(argument) and glob.has_magic(argument):
            yield from _matches(argument) or [argument]
        else:
            yield argument


def _media(folder: str) -> list[str]:
    found: list[tuple[str, int]] = []  # with the number of the series, 0 where there is none

    def closed(error: OSError) -> None:
        found.append((os.fsdecode(error.filename), 0))  # whose reader says that it is

    for place, folders, files in os.walk(folder, onerror=closed):
        folders[:] = [f for f in folders if not f.startswith(".")]
        found += [(os.path.join(place, f), 0) for f in files if _is_media(f)]
        found += [(place, number) for number in series_in(place)]
    return [f"{path}#{number}" if number else path for path, number in sorted(found)]


def series_in(folder: str) -> list[int]:
    """Return the numbers of a folder's series, 1 and on; [0] where it is one, [] for none."""
    from regard.media.scan.dicom_series import dicom_files, read_series

    try:
        if not dicom_files(folder):
            return []
        count = len(read_series(folder)[0])
    except (RegardError, OSError):
        count = 1  # whose reader says what is wrong
    return [0] if count == 1 else [*range(1, count + 1)]


def _matches(pattern: str) -> list[str]:
    return sorted(f for f in glob.glob(pattern, recursive=True) if not os.path.isdir(f))


def _is_media(name: str) -> bool:
    # macOS leaves `._photo.jpg` beside `photo.jpg`: no picture, whatever its suffix.
    if name.startswith(".") or _suffix(name) in DICOM_SUFFIXES:
        return False
    return medium_by_name(name) is not None
