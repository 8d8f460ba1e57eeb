"""Exclusive locks on folders that a command fills: of two that start together, one works.

On a disk of this machine the lock is a file that its owner holds with `flock`, which the system
lets go when the process ends, however it ends. A file that nobody holds is stale.

Elsewhere nothing is exclusive, so every process writes a file of its own. It starts as a claim
(`_lock-TOKEN.claim`) and becomes `_lock-TOKEN.held` once no other process is ahead: Lamport's
bakery, whose tickets are the tokens. Owners write their file again each minute; a file that was not
written for 15 minutes is stale.
"""

import json
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from regard.errors import ConfigError

Report = Callable[[str], None]
LOCK = ".lock"
"""Name of the lock within a folder of this machine."""
_PREFIX = "_lock-"
_CLAIM, _HELD = ".claim", ".held"
_BEAT, _STALE = 60.0, 15 * 60.0  # seconds between two writings; after which a lock is stale
_PATIENCE, _PAUSE = 20.0, 0.2  # seconds: how long a claim waits for another, and between looks
_LONGEST = 4096  # bytes of a lock that are read


@dataclass(frozen=True)
class LockOwner:
    """Who holds a lock.

    Attributes:
        command: such as "regard bulk".
        host: name of its machine.
        pid: number of its process there.
        since: when it took the lock, in seconds since 1970.
        seen: when it last wrote so.
    """

    command: str
    host: str
    pid: int
    since: float
    seen: float

    @classmethod
    def of(cls, command: str) -> "LockOwner":
        """Return this process as an owner."""
        return cls(command, socket.gethostname(), os.getpid(), time.time(), time.time())

    @classmethod
    def parse(cls, content: bytes) -> "LockOwner | None":
        """Return the owner that a lock names, or None where it is not readable."""
        try:
            owner = cls(**json.loads(content))
            return replace(
                owner, pid=int(owner.pid), since=float(owner.since), seen=float(owner.seen)
            )
        except (ValueError, TypeError, RecursionError, OverflowError):
            return None

    def to_bytes(self) -> bytes:
        """Return the content of its lock."""
        return json.dumps(asdict(self)).encode()

    def __str__(self) -> str:
        """Return its command, process, machine and age."""
        return f"{self.command} (process {self.pid} on {self.host}, {_age(self.since)})"

    @property
    def is_gone(self) -> bool:
        """Whether it has ended, or wrote nothing for so long that it must have."""
        if self.host == socket.gethostname() and not _runs(self.pid):
            return True
        return time.time() - self.seen > _STALE


class LockFiles(Protocol):
    """The files of a folder on a remote file system, by their names."""

    def names(self) -> list[str]:
        """Return the names of the files."""
        ...

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a file, completely or not at all."""
        ...

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""
        ...


class LockLost(ConfigError):
    """Another process has taken a lock over, for its owner wrote nothing for a long time."""


def ignore(line: str) -> None:
    """Report nothing."""


@contextmanager
def locked(
    folder: Path, command: str, report: Report = ignore, *, lock: Path | None = None
) -> Generator[None]:
    """Hold the lock of a folder on a disk of this machine; the folder is made for it.

    Args:
        folder: the folder that will be filled.
        command: what other processes say of this one, such as "regard bulk".
        report: receives a line if a stale lock is taken over.
        lock: the lock's file; None: within the folder. A folder that is replaced as a whole has
            its lock beside itself (`beside`).

    Raises:
        ConfigError: another process holds the lock, or something that is no lock is in its place.
        OSError: the lock cannot be written.
    """
    path = lock or folder / LOCK
    made = [p for p in (path.parent, *path.parent.parents) if not p.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = _hold(path, folder)
        if handle is None:  # a file system without flock
            with locked_remotely(_Disk(path.parent), str(folder), command, report):
                yield
            return
        try:
            if content := os.pread(handle, _LONGEST, 0):
                report(_taken_over(str(folder), LockOwner.parse(content)))
            os.ftruncate(handle, 0)
            os.pwrite(handle, LockOwner.of(command).to_bytes(), 0)
            yield
        finally:
            with suppress(OSError):  # while it is held: nobody else can have it
                path.unlink()
            os.close(handle)
    finally:
        for empty in made:  # a run that did nothing leaves nothing
            with suppress(OSError):
                empty.rmdir()


def beside(folder: Path) -> Path:
    """Return the file of a lock beside a folder, or within it where that cannot be written."""
    if os.access(folder.parent, os.W_OK) or not folder.is_dir():
        return folder.with_name(f".{folder.name}{LOCK}")
    return folder / LOCK


def _hold(path: Path, folder: Path) -> int | None:
    """Return a handle that holds the lock; None where the file system has none."""
    try:
        import fcntl
    except ImportError:
        return None
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ConfigError(f"{path} is not a file, and a lock was expected there. Remove it.")
    while True:
        # Neither a link nor a pipe that somebody has put there.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, path):
                return handle
        except BlockingIOError:
            owner = LockOwner.parse(os.pread(handle, _LONGEST, 0))
            os.close(handle)
            raise _in_use(str(folder), owner) from None
        except OSError:
            os.close(handle)
            return None
        os.close(handle)  # its last owner has removed it since


def _is_at(handle: int, path: Path) -> bool:
    found = os.fstat(handle)
    try:
        return stat.S_ISREG(found.st_mode) and os.path.samestat(found, os.stat(path))
    except FileNotFoundError:
        return False


class _Disk:
    """A folder of this machine that has no flock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        return os.listdir(self._folder)

    def read(self, name: str) -> bytes:
        with (self._folder / name).open("rb") as file:
            return file.read(_LONGEST)

    def write(self, name: str, content: bytes) -> None:
        new = self._folder / f".{name}"
        new.write_bytes(content)
        new.replace(self._folder / name)

    def delete(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)


@contextmanager
def locked_remotely(
    files: LockFiles, shown: str, command: str, report: Report = ignore
) -> Generator[Callable[[], None]]:
    """Hold the lock of a folder elsewhere; see `locked`.

    Yields:
        A function that raises `LockLost` if another process has taken the lock over.

    Raises:
        ConfigError: another process holds the lock.
    """
    owner, token = LockOwner.of(command), uuid4().hex
    claim, held = f"{_PREFIX}{token}{_CLAIM}", f"{_PREFIX}{token}{_HELD}"
    try:
        files.write(claim, owner.to_bytes())
        _wait_for_turn(files, shown, claim, report)
        files.write(held, owner.to_bytes())
        files.delete(claim)
        ended, lost = threading.Event(), threading.Event()
        beats = threading.Thread(
            target=_beat, args=(files, held, owner, ended, lost), name="lock", daemon=True
        )
        beats.start()

        def check() -> None:
            if lost.is_set():
                raise LockLost(
                    f"{shown} was taken over by another process, since this one wrote nothing for "
                    f"{_STALE / 60:.0f} minutes. What it had written is kept."
                )

        try:
            yield check
        finally:
            ended.set()
            beats.join()
    finally:
        for name in (claim, held):
            with suppress(Exception):  # of any file system
                files.delete(name)


def _wait_for_turn(files: LockFiles, shown: str, claim: str, report: Report) -> None:
    """Return once no other process holds the lock or is ahead.

    Whoever lists the claims after writing its own is seen by all who write theirs later. Of two
    that see each other, the one with the smaller token waits for what the other one does, since it
    may have listed before; the one with the larger token gives way.
    """
    until = time.monotonic() + _PATIENCE
    while True:
        ahead = False
        for name, owner in _others(files, claim):
            if owner is None or owner.is_gone:
                files.delete(name)
                report(_taken_over(shown, owner))
            elif name.endswith(_HELD) or name < claim or time.monotonic() > until:
                raise _in_use(shown, owner)
            else:
                ahead = True
        if not ahead:
            return
        time.sleep(_PAUSE)


def _others(files: LockFiles, claim: str) -> Iterator[tuple[str, LockOwner | None]]:
    for name in files.names():
        if name.startswith(_PREFIX) and name.endswith((_CLAIM, _HELD)) and name != claim:
            with suppress(FileNotFoundError):  # its owner has just ended
                yield name, LockOwner.parse(files.read(name)[:_LONGEST])


def _beat(
    files: LockFiles, held: str, owner: LockOwner, ended: threading.Event, lost: threading.Event
) -> None:
    while not ended.wait(_BEAT):
        with suppress(Exception):  # of any file system; the next one may work
            if held not in files.names():
                lost.set()
                return
            files.write(held, replace(owner, seen=time.time()).to_bytes())


def _in_use(shown: str, owner: LockOwner | None) -> ConfigError:
    return ConfigError(
        f"{shown} is in use by {owner or 'another process'}. Wait until that has ended, or name "
        "another folder."
    )


def _taken_over(shown: str, owner: LockOwner | None) -> str:
    return (
        f"{shown}: took over the lock of {owner or 'an unknown process'}, which ended without "
        "removing it"
    )


def _age(since: float) -> str:
    seconds = max(0.0, time.time() - since)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if (count := int(seconds // length)) >= 1:
            return f"for {count} {unit}{'s' * (count > 1)}"
    return f"for {int(seconds)} second{'s' * (int(seconds) != 1)}"


def _runs(pid: int) -> bool:
    """Return whether a process of this machine runs, as far as can be told."""
    if sys.platform == "win32" or pid <= 0:
        return pid > 0  # there, the signal 0 would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
