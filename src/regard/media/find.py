"""From command-line arguments to files."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

IMAGE_SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".jp2")
    + (".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
"""What is taken from a folder; a file named by itself is tried whatever its name."""


def find_files(arguments: Sequence[str], *, stdin: TextIO | None = None) -> Iterator[str]:
    """Expand globs, folders and `-` to paths.

    A folder gives its pictures, recursively and sorted; a pattern what it matches, sorted; a
    path that does not exist is given as it is, so that it becomes that item's error.

    Args:
        arguments: as the user wrote them.
        stdin: where `-` reads one path per line from.
    """
    for argument in arguments:
        path = Path(argument)
        if argument == "-" and stdin is not None:
            yield from (line.rstrip("\r\n") for line in stdin if line.strip())
        elif path.is_dir():
            yield from (str(p) for p in sorted(path.rglob("*")) if _is_picture(p))
        elif not path.exists() and glob.has_magic(argument):
            found = sorted(glob.glob(argument, recursive=True))
            yield from (f for f in found or [argument] if not Path(f).is_dir())
        else:
            yield argument


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
