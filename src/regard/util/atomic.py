"""Folders and files that are written whole or not at all.

A folder is written to a temporary one beside its place (`.NAME.new`) and renamed, so that a
kill or a full disk leaves the old one whole: in its place, or, where the kill fell between
the two renames, as `.NAME.old`, which `recovered` finds. A file is written beside its place, too.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replaced_whole(folder: Path, *, marker: str) -> Generator[Path]:
    """Yield an empty folder to write into; it takes the place of `folder` once all is written.

    Args:
        folder: absolute.
        marker: a file that every folder of the kind holds. What lacks it is something else
            and is not replaced: a slip in a path must not cost somebody a folder of pictures.

    Raises:
        FileExistsError: something else lies there.
        OSError: it cannot be written; what was there before is untouched.
    """
    if folder.exists() and not (folder / marker).is_file():
        if not folder.is_dir() or any(folder.iterdir()):
            raise FileExistsError(f"{folder} is something else")
    # Always the same name, so that what a kill left behind is cleared by the next save.
    temporary = folder.with_name(f".{folder.name}.new")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        _sync(temporary, mode=(temporary / marker).stat().st_mode)
        _swap(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Generator[Path]:
    """Yield a path to write to; the file takes the place of `path` once all is written.

    The path that is yielded ends as `path` does. What is no ordinary file (a pipe, a device) is
    written as it is.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    if path.is_symlink():
        path = path.resolve()
    if path.exists() and not path.is_file():
        yield path
        return
    # A name of its own, also where two processes write one file, and no longer than file systems
    # take.
    mark = f"{zlib.crc32(os.fsencode(path.name)):08x}-{os.getpid()}"
    temporary = path.with_name(f".new-{mark}-{path.name[-12:]}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def recovered(folder: Path) -> Path:
    """Return the folder, or the old one that a kill between two renames left beside it."""
    old = _kept(folder.resolve())
    return old if not folder.exists() and old.exists() else folder


def _sync(folder: Path, mode: int) -> None:
    """Have the bytes on the disk before the names change.

    Args:
        folder: its files are synced.
        mode: of all files; safetensors writes files that only their owner may read.
    """
    for path in folder.iterdir():
        path.chmod(mode)
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    _sync_names(folder)


def _sync_names(folder: Path) -> None:
    if os.name != "posix":
        return  # elsewhere a folder cannot be opened
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(temporary: Path, folder: Path) -> None:
    """Put the new folder in the old one's place; the old is kept until the new is there."""
    old = _kept(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    try:
        temporary.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise
    _sync_names(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _kept(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")
