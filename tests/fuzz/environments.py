"""Faulty environments for child processes: full disks, denied folders, jumping clocks."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_READ_ONLY, _REMOUNT = 1, 32
_NOBODY = 65534
_MAY_READ = 1 << 2  # CAP_DAC_READ_SEARCH
_LONGEST_SECONDS = 120.0
DISK_BYTES = 24 * 2**20
"""Size of a disk that fills up."""
PRELOAD = (
    "torch", "torch.utils.tensorboard", "onnxruntime", "onnxscript", "regard.checkpoint.build",
    "regard.captioner", "regard.cli.caption_command", "regard.cli.explain_command",
    "regard.cli.main", "regard.cli.models_command", "regard.cli.train_command",
    "regard.data.store", "regard.model.encoders.small_cnn",
    "regard.explain.outputs", "regard.export", "regard.reliability.out_of_distribution",
    "regard.pretrained",
    "regard.recipes", "regard.model_pool", "regard.training",
)  # fmt: skip
"""Imported before children are forked: one that gave root up may not be able to."""


@dataclass(frozen=True)
class ChildResult:
    """The result of a child process.

    Attributes:
        status: exit status; 2 after an uncaught `RegardError`.
        words: its standard error, or the error.
        caught: whether no exception other than `RegardError` was uncaught.
    """

    status: int
    words: str
    caught: bool


def is_root() -> bool:
    """Return whether this process can mount disks and drop root rights."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


@contextmanager
def open_folder(folder: Path) -> Generator[Path]:
    """Yield a folder that a child without root rights can reach, unlike a temporary one."""
    if not is_root():
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="regard-fuzz-") as place:
        os.chmod(place, 0o755)  # nosec B103
        yield Path(place)


@contextmanager
def small_disk(folder: Path) -> Generator[bool]:
    """Mount a small disk at a folder, and yield whether that was possible."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={DISK_BYTES},mode=755".encode()
    if not is_root() or not _mounted(folder, 0, options):
        yield False
        return
    try:
        yield True
    finally:
        _LIBC.umount2(os.fsencode(folder), 2)


def _mounted(folder: Path, flags: int, options: bytes) -> bool:
    try:
        found = _LIBC.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, options)
    except AttributeError:  # not Linux
        return False
    return found == 0


@contextmanager
def full(folder: Path, room: int, mounted: bool) -> Generator[Callable[[], None]]:
    """Leave a number of free bytes on a disk; yield the setup function for a child.

    Without a mounted disk, the child's file size is limited to that number instead.
    """
    if not mounted:

        def limited() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

        yield limited
        return
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        os.ftruncate(file.fileno(), max(0, os.fstat(file.fileno()).st_size - room))
    try:
        yield _nothing
    finally:
        filler.unlink()


@contextmanager
def read_only(folder: Path, room: int, mounted: bool) -> Generator[Callable[[], None]]:
    """Make a folder read-only; yield the setup function for a child."""
    if not mounted:
        with denied(folder, room, mounted) as first:
            yield first
        return
    options = f"size={DISK_BYTES},mode=755".encode()
    assert _mounted(folder, _REMOUNT | _READ_ONLY, options), "the disk cannot be made read-only"
    try:
        yield _nothing
    finally:
        _mounted(folder, _REMOUNT, options)


@contextmanager
def denied(folder: Path, room: int, mounted: bool) -> Generator[Callable[[], None]]:
    """Remove write permission of a folder; yield a setup function that drops root."""
    places = [folder, *(path for path in folder.rglob("*") if not path.is_symlink())]
    modes = {path: path.stat().st_mode for path in places}
    for path in places:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield _give_root_up
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def _nothing() -> None:
    """Do nothing."""


def _give_root_up() -> None:
    """Become the user nobody, who may read everything (also root's interpreter) but not write."""
    if is_root():
        os.setgroups([])
        os.setgid(_NOBODY)
        _LIBC.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
        os.setuid(_NOBODY)
        words = ctypes.c_uint32 * 6  # effective, permitted, inheritable; then their upper halves
        _LIBC.capset((ctypes.c_uint32 * 2)(0x20080522, 0), words(_MAY_READ, _MAY_READ, 0, 0, 0, 0))


FAULTS: dict[str, Callable[[Path, int, bool], Any]] = {
    "full disk": full,
    "read-only disk": read_only,
    "permission denied": denied,
}
"""Takes the folder, the free bytes if it is full, and whether it is a separate disk."""


@contextmanager
def jumping_clock(seed: int) -> Generator[None]:
    """Make the wall clock jump by up to ten years either way whenever it is read."""
    draw = random.Random(seed)
    true, true_ns = time.time, time.time_ns

    def jumped() -> float:
        return true() + draw.uniform(-3e8, 3e8)

    time.time, time.time_ns = jumped, lambda: int(jumped() * 1e9)
    try:
        yield
    finally:
        time.time, time.time_ns = true, true_ns


def in_child(
    first: Callable[[], None], act: Callable[..., Any], *arguments: Any, limit: int = 0
) -> ChildResult:
    """Run a function in a child forked from this process, which has done the imports.

    Args:
        first: setup function, called before `act`.
        act: the function; returns a status, or None for 0.
        *arguments: arguments of `act`.
        limit: timeout in seconds; 0: two minutes.
    """
    reader, writer = os.pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_child, args=(writer, first, act, arguments)
    )
    process.start()
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        process.join(limit or _LONGEST_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
            return ChildResult(-1, "it hung", False)
        words = pipe.read().decode("utf-8", "replace")
    code = process.exitcode or 0
    if code < 0:
        return ChildResult(code, f"it died of {signal.Signals(-code).name}; {words[-300:]}", False)
    return ChildResult(code % 100, words, code < 100)


def _child(
    writer: int, first: Callable[[], None], act: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    from regard import RegardError

    os.dup2(writer, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="replace")
    sys.stdout = os.fdopen(1, "w", errors="replace")
    status = 0
    try:
        first()
        status = int(act(*arguments) or 0)
    except RegardError as error:
        sys.stderr.write(f"regard: {error}\n")
        status = 2
    except SystemExit as error:
        status = int(error.code or 0)
    except BaseException:
        sys.stderr.write(traceback.format_exc())
        status = 101
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(status)


def command(*arguments: str) -> int:
    """Run the command line in this process; return its status."""
    from regard.cli.main import main

    sys.argv = ["regard", *arguments]
    try:
        main()
    except SystemExit as error:
        return int(error.code or 0)
    return 0


__all__ = ["FAULTS", "ChildResult", "command", "in_child", "jumping_clock", "small_disk"]
