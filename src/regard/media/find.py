"""Finds media files: expands globs, folders and `-`, and identifies files by their digest."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import TextIO

from regard.errors import RegardError
from regard.media.source_file import DICOM_SUFFIXES, medium_by_name, split_series, suffix_of


def find_files(arguments: Sequence[str], *, stdin: TextIO | None = None) -> Iterator[str]:
    """Expand globs, folders and `-` to paths.

    A folder gives the pictures, clips and scans in it, recursively and sorted, without hidden
    files. DICOM files of one folder are one scan, or `FOLDER#1`, `FOLDER#2` ... with one for each
    series. A pattern gives its matches, sorted. An argument that gives nothing (a missing path, a
    pattern without a match, a folder without media) is returned as it is, so that reading it
    reports the error.

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
        count = 1  # its reader reports what is wrong
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
    hidden, dicom = name.startswith("."), suffix_of(name) in DICOM_SUFFIXES
    return not hidden and not dicom and medium_by_name(name) is not None
