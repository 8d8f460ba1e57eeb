"""From command-line arguments to files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from typing import TextIO

IMAGE_SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".jp2")
    + (".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
"""What is taken from a folder; a file named by itself is tried whatever its name."""


def find_files(arguments: Sequence[str], *, stdin: TextIO | None = None) -> Iterator[str]:
    """Expand globs, folders and `-` to paths.

    A folder gives its pictures, recursively and sorted, hidden ones left out; a pattern gives
    what it matches, sorted. What gives nothing (a missing path, a pattern without a match, a
    folder without pictures) is given as it is, so that it becomes that item's error.

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
            yield from _pictures(argument) or [argument]
        elif not os.path.lexists(argument) and glob.has_magic(argument):
            yield from _matches(argument) or [argument]
        else:
            yield argument


def _pictures(folder: str) -> list[str]:
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".")]
        found += [os.path.join(place, f) for f in files if _is_picture(f)]
    return sorted(found)


def _matches(pattern: str) -> list[str]:
    return sorted(f for f in glob.glob(pattern, recursive=True) if not os.path.isdir(f))


def _is_picture(name: str) -> bool:
    # macOS leaves `._photo.jpg` beside `photo.jpg`: no picture, whatever its suffix.
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
