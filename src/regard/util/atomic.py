"""Atomic writes: folders and files are written whole or not at all.

A folder is written to a temporary one beside its place (`.NAME.new`) and renamed. A kill or a full
disk leaves the old folder whole: in its place, or, after a kill between the two renames, as
`.NAME.old`, which `recovered` finds. A file is also written beside its place and renamed.
"""

import os
import shutil
import zlib
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from regard.util.folder_lock import Report, beside, ignore, locked


@contextmanager
def replaced_whole(
    folder: Path, *, marker: str, command: str = "regard", report: Report = ignore
) -> Generator[Path]:
    """Yield an empty folder to write into; it takes the place of `folder` once all is written.

    Args:
        folder: absolute.
        marker: a file that every folder of the kind holds. A folder without it is not replaced:
            a mistake in a path must not cost a user a folder of pictures.
        command: what other processes that write the same folder say of this one.
        report: receives a line if a stale lock is taken over.

    Raises:
        ConfigError: another process is writing the same folder.
        FileExistsError: something else is in its place.
        OSError: it cannot be written; existing data are unchanged.
    """
    if folder.exists() and not (folder / marker).is_file():
        if not folder.is_dir() or any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not a folder of this kind")
    # Always the same name, so that the next save clears what a kill left behind.
    temporary = folder.with_name(f".{folder.name}.new")
    with locked(folder, command, report, lock=beside(folder)):
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

    The yielded path has the suffix of `path`. A pipe or a device is written directly.

    Raises:
        OSError: it cannot be written; existing data are unchanged.
    """
    if path.is_symlink():
        path = path.resolve()
    if path.exists() and not path.is_file():
        yield path
        return
    # The name differs between processes that write the same file, and is short enough for all
    # file systems.
    mark = f"{zlib.crc32(os.fsencode(path.name)):08x}-{os.getpid()}"
    temporary = path.with_name(f".new-{mark}-{path.name[-12:]}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, text: str, errors: str = "strict") -> None:
    """Write a text as UTF-8, as `whole_file` does."""
    with whole_file(path) as new:
        new.write_text(text, "utf-8", errors=errors)


def recovered(folder: Path) -> Path:
    """Return the folder, or the old copy that remains if replacing it was interrupted."""
    old = _kept(folder.resolve())
    return old if not folder.exists() and old.exists() else folder


def _sync(folder: Path, mode: int) -> None:
    """Write the bytes to the disk before the names change.

    Args:
        folder: its files are synced.
        mode: set for all files; safetensors writes files that only their owner may read.
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
    """Replace the old folder by the new; the old one is kept until the new one is in place."""
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
