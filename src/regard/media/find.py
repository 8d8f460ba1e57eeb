"""Media files: detection of the medium, expansion of globs and folders, and digests.

What is a picture, clip or scan is decided here alone, for files, folders, patterns, lists, uploads
and bulk work: the first bytes decide, and the suffix does where they are of no known kind. In a
folder a file whose name says nothing is opened; what is left out is counted.
"""

import glob
import hashlib
import os
import re
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TextIO

from regard.errors import MediaError, RegardError
from regard.media.source_file import is_dicom, read_start
from regard.types.media import DICOM_SUFFIXES, MEDIA

_HEAD = 348 + 4  # bytes that decide the medium: a NIfTI-1 header, which ends with its magic
_NIFTI = (b"n+1\0", b"ni1\0", b"n+2\0", b"ni2\0")  # version 1 at byte 344, version 2 at byte 4
_PICTURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG|GIF8|RIFF....WEBP|II\*\0|MM\0\*|BM....\0\0\0\0|P[1-7Ff]\s+[\d#]"
    rb"|\0\0..ftyp(?:avi[fs]|hei|mif1)|....jP  |\xff\x4f\xff\x51"
    rb"|\x01\xda[\0\x01][\x01\x02]|\0\0\x01\0[^\0]\0...\0",  # SGI, ICO
    re.S,
)
_CLIPS = re.compile(
    rb"\x1a\x45\xdf\xa3|FLV\x01|RIFF....AVI |\0\0..ftyp(?!M4[AB] )|\0\0\0\x08wide|\0...moov"
    rb"|[\0-\x1f]...mdat|\0\0\x01\xba|\x30\x26\xb2\x75\x8e\x66\xcf\x11|YUV4MPEG2 |DKIF|\.RMF"
    rb"|OggS.{24,40}(?:\x80theora|OVP80|BBCD|fishead)|\x06\x0e\x2b\x34"
    rb"|\x47[^\x80-\xff].[\x10-\x3f].{184}\x47|.{4}\x47[^\x80-\xff].[\x10-\x3f].{188}\x47",
    re.S,
)
_OTHER_SUFFIXES = frozenset(
    # Sound in the containers of clips; a camera's raw data, of which a small preview could be read.
    (".aac", ".m4a", ".m4b", ".m4p", ".mka", ".oga", ".ogg", ".opus", ".ra", ".wav", ".weba")
    + (".wma", ".arw", ".cr2", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw")
)
_NAMED = 6  # suffixes in a message
Report = Callable[[str], None]
"""Receives a line about what a search left out."""


def medium_of(path: str) -> str:
    """Return the medium of a path: "image", "video" or "volume".

    The first bytes decide; the suffix does where they are of no known kind. A folder is a volume:
    the slices in it, or those of its N-th series (`FOLDER#N`). Everything else is tried as a
    picture.
    """
    if os.path.isdir(split_series(path)[0]):
        return "volume"
    return medium_of_bytes(path, _head_of(path))


def medium_by_name(name: str) -> str | None:
    """Return the medium for the suffix of a name, or None if it is unknown."""
    suffix = _suffix(name)
    return next((medium for medium, its in MEDIA.items() if suffix in its.suffixes), None)


def _suffix(name: str) -> str:
    """Return the suffix of a name in lower case; that of "x.nii.gz" is ".nii"."""
    return os.path.splitext(name.lower().removesuffix(".gz"))[1]


def medium_of_bytes(name: str, head: bytes) -> str:
    """Return the medium of a file from its first 352 bytes, or from its name.

    The name, such as that of an upload, is not used as a path.
    """
    return _medium_by_content(head[:_HEAD]) or medium_by_name(name) or "image"


def _medium_by_content(head: bytes) -> str | None:
    head = _unzipped(head)
    if is_dicom(head) or head[344:348] in _NIFTI or head[4:8] in _NIFTI:
        return "volume"
    if _PICTURES.match(head):
        return "image"
    return "video" if _CLIPS.match(head) else None


def special_kind(path: str) -> str:
    """Return "pipe", "socket" or "device" for a file that is one, else ""."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return ""
    if stat.S_ISFIFO(mode):
        return "pipe"
    if stat.S_ISSOCK(mode):
        return "socket"
    return "device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else ""


def split_series(path: str) -> tuple[str, int | None]:
    """Return the folder and the series number of `FOLDER#N`; of other paths the path and None."""
    folder, mark, number = path.rpartition("#")
    if mark and number.isdecimal() and not os.path.lexists(path) and os.path.isdir(folder):
        return folder, int(number)
    return path, None


def why_missing(path: str) -> str:
    """Return why a file that a data set names cannot be read, or "" if it is there."""
    kind = special_kind(path)
    return (
        f"{path} is a {kind}, not a file" if kind else "" if is_there(path) else f"no file {path}"
    )


def is_there(path: str) -> bool:
    """Return whether a file or folder exists; for `FOLDER#N`, whether the folder does.

    Pipes, sockets and devices are not there: reading one may never end.
    """
    return os.path.exists(split_series(path)[0]) and not special_kind(path)


def _unzipped(head: bytes) -> bytes:
    """Return the first decompressed bytes of a gzip file; other bytes unchanged."""
    if not head.startswith(b"\x1f\x8b"):
        return head
    try:
        return zlib.decompressobj(wbits=31).decompress(head, _HEAD)
    except zlib.error:
        return head


def _head_of(path: str) -> bytes:
    """Return the first bytes of a regular file, else none: those read from a pipe are lost."""
    try:
        return read_start(path, path, _HEAD) if os.path.isfile(path) else b""
    except MediaError:
        return b""  # its reader reports the error


class FolderSearch:
    """Decides which files of a folder are taken, and tells what is left out."""

    def __init__(self, root: str, report: Report | None = None, *, is_local: bool = True) -> None:
        """Store the arguments.

        Args:
            root: the folder; those in it are searched, too.
            report: receives a line for each special file, and one with the counts of the others.
            is_local: whether files may be opened to find out their kind.
        """
        self._root, self._report, self._is_local = root, report, is_local
        self._left: Counter[str] = Counter()
        self._linked: list[str] = [os.path.realpath(root)] if is_local else []

    def takes(self, path: str) -> bool:
        """Return whether a file is a picture, clip or scan by itself; count it if it is not."""
        suffix = _suffix(path)
        if self._is_local and (kind := special_kind(path)):
            if self._report is not None:
                self._report(f"{path} is a {kind}, not a file: left out.")
            return False
        if medium_by_name(path) is not None:
            # A local folder of DICOM files is a scan as a whole.
            return not (self._is_local and suffix in DICOM_SUFFIXES)
        head = b"" if not self._is_local or suffix in _OTHER_SUFFIXES else _head_of(path)
        if is_dicom(head):
            return False
        if _medium_by_content(head) is None:
            self._left[suffix or "without a suffix"] += 1
            return False
        return True

    def enters(self, link: str) -> bool:
        """Return whether a linked folder is searched: each is once, and the root is not again."""
        real = os.path.realpath(link)
        if any(_holds(known, real) for known in self._linked) or _holds(real, self._linked[0]):
            return False
        self._linked.append(real)
        return True

    def finish(self) -> None:
        """Report how many files were left out."""
        if self._left and self._report is not None:
            kinds = [f"{count} {kind}" for kind, count in self._left.most_common(_NAMED)]
            more = ["..."] if len(self._left) > _NAMED else []
            files = "1 file" if self._left.total() == 1 else f"{self._left.total()} files"
            self._report(
                f"{self._root}: left out {files}, neither picture, clip nor scan "
                f"({', '.join(kinds + more)})."
            )


def _holds(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def find_files(
    arguments: Sequence[str], *, stdin: TextIO | None = None, report: Report | None = None
) -> Iterator[str]:
    """Expand globs, folders and `-` to paths.

    A folder yields the pictures, clips and scans in it, recursively and sorted, without hidden
    files; linked folders are searched as well. DICOM files of one folder are one scan, or
    `FOLDER#1`, `FOLDER#2` ... with one for each series. A pattern yields its matches, sorted.
    Pipes, sockets and devices in a folder, list or pattern are left out; one that is named by
    itself is not. An argument without a match (a missing path, a pattern or folder without media)
    is returned unchanged, so that reading it reports the error.

    Args:
        arguments: as the user wrote them.
        stdin: the stream from which `-` reads one path per line.
        report: receives a line about special files, and one about other files left out.

    Returns:
        The paths, in the order of the arguments; not all of them need to exist.
    """
    for argument in arguments:
        if argument == "-" and stdin is not None:
            listed = (line.rstrip("\r\n") for line in stdin if line.strip())
            yield from regular(listed, report)
        elif os.path.isdir(argument):
            yield from _media_in(argument, report) or [argument]
        elif not os.path.lexists(argument) and glob.has_magic(argument):
            yield from regular(_matches(argument) or [argument], report)
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


def regular(paths: Iterable[str], report: Report | None) -> Iterator[str]:
    """Yield paths but those of pipes, sockets and devices, which are reported."""
    for path in paths:
        if kind := special_kind(path):
            if report is not None:
                report(f"{path} is a {kind}, not a file: left out.")
        else:
            yield path


def _media_in(folder: str, report: Report | None = None) -> list[str]:
    found: list[tuple[str, int]] = []  # (path, number of the series, or 0)
    search, roots = FolderSearch(folder, report), [folder]

    def add_unreadable(error: OSError) -> None:
        found.append((os.fsdecode(error.filename), 0))  # reading it reports the error

    for root in roots:
        for place, folders, files in os.walk(root, onerror=add_unreadable):
            folders[:] = [f for f in folders if not f.startswith(".")]
            paths = [os.path.join(place, f) for f in sorted(files) if not f.startswith(".")]
            found += [(path, 0) for path in paths if search.takes(path)]
            found += [(place, number) for number in series_in(place)]
            links = [
                path for f in sorted(folders) if os.path.islink(path := os.path.join(place, f))
            ]
            roots += filter(search.enters, links)  # after the folders that are really there
    search.finish()
    return [f"{path}#{number}" if number else path for path, number in sorted(found)]


def _matches(pattern: str) -> list[str]:
    return sorted(f for f in glob.glob(pattern, recursive=True) if not os.path.isdir(f))
