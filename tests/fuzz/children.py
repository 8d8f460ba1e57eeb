"""Child processes that try one item after another, supervised by a parent.

A child has an empty home, an empty folder for temporary files and an empty working folder of its
own, a memory limit, and an audit hook that records every file it opens, every program it starts
and every connection it makes. Writes outside its folders and reads of a planted secret are
detected. If it crashes or hangs, the item is counted and another child continues.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeAlias

HANG_SECONDS = 10.0
"""An item that takes longer, twice, hangs; of the cores' own time where others take them."""
MEMORY_BYTES = 3 * 2**30
"""Largest memory of an item, beyond what its child had before: a picture of 178 million pixels, the
largest that is decoded, twice in RGBA and once in RGB."""
_SPACE_BYTES = 4 * 2**30  # of address space, in addition to what a child has mapped at its start
_START_SECONDS = 300.0
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = frozenset(
    ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")
    + ("os.chmod", "os.chown", "shutil.rmtree", "shutil.move", "tempfile.mkstemp")
)
_MADE = frozenset(("os.rename", "os.link", "os.symlink"))  # what is made is named second
_BY_FOLDER = frozenset(("os.remove", "os.rmdir", "os.mkdir"))
_STARTS = frozenset(
    ("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn")
    + ("socket.connect", "socket.bind", "socket.getaddrinfo", "pickle.find_class")
)

Task: TypeAlias = Callable[[int], str]
"""Tries the item of a number; returns its outcome, such as the error's class. Exceptions that it
raises were not handled."""
Maker: TypeAlias = Callable[[Path, int], Task]
"""Called once in every child with its working folder and the seed; returns its task."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of an item.

    Attributes:
        number: number of the item.
        fault: "" if it was handled.
        note: the task's return value.
        peak: its peak memory in bytes, less what its child had before.
    """

    number: int
    fault: str
    note: str = ""
    peak: int = 0


class Fault(Exception):
    """Raised by a task that got a wrong result without an exception."""


def try_items(
    maker: Maker, numbers: Iterator[int], seed: int, folder: Path, children: int = 2
) -> Iterator[Outcome]:
    """Try items in child processes, and yield the outcome of each.

    Args:
        maker: a function at the top level of a module.
        numbers: numbers of the items.
        seed: passed to the maker.
        folder: parent of the children's folders.
        children: number of children.
    """
    crew = [_Child(maker, seed, folder / f"child{i}") for i in range(children)]
    again: list[int] = []
    try:
        while True:
            for child in crew:
                if child.number is None and child.ready:
                    number = again.pop() if again else next(numbers, None)
                    if number is not None:
                        child.give(number)
            if all(child.number is None and child.ready for child in crew):
                return
            wait([child.pipe for child in crew], timeout=0.25)
            for child in crew:
                outcome = child.look()
                if outcome is None:
                    continue
                if outcome.fault.startswith("hang") and outcome.number not in child.late:
                    child.late.add(outcome.number)
                    for other in crew:
                        other.late.add(outcome.number)
                    again.append(outcome.number)
                    continue
                yield outcome
    finally:
        for child in crew:
            child.end()


class _Child:
    """One process, restarted if it dies."""

    def __init__(self, maker: Maker, seed: int, folder: Path) -> None:
        self._arguments = maker, seed, folder
        self.late: set[int] = set()
        self._begin()

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, far = context.Pipe()
        self._process = context.Process(target=_work, args=(far, *self._arguments), daemon=True)
        self._process.start()
        far.close()
        self.ready = False
        self.number: int | None = None
        self._since, self._spent = time.monotonic(), 0.0

    def give(self, number: int) -> None:
        """Send an item to the process."""
        self.pipe.send(number)
        self.number, self._since = number, time.monotonic()
        self._spent = _state(self._process.pid or 0)[1]

    def look(self) -> Outcome | None:
        """Return the outcome of the item, or None if it is not known yet."""
        limit = HANG_SECONDS if self.ready else _START_SECONDS
        try:
            if self.pipe.poll():
                found: Any = self.pipe.recv()
                if not self.ready:
                    if found:
                        raise RuntimeError(f"a child did not start: {found}")
                    self.ready = True
                    return None
                number, self.number = self.number, None
                assert number is not None
                return Outcome(number, *found)
        except (EOFError, ConnectionError):
            return self._fell("")
        idle = self.ready and self.number is None
        if not idle and time.monotonic() - self._since > limit and not self._starved():
            return self._fell(f"hang: more than {limit:.0f} s")
        return None

    def _starved(self) -> bool:
        """Return whether it is runnable but got too little CPU time on a busy machine."""
        if not self.ready or time.monotonic() - self._since > 10 * HANG_SECONDS:
            return False
        state, seconds = _state(self._process.pid or 0)
        return state == "R" and seconds - self._spent < HANG_SECONDS

    def _fell(self, why: str) -> Outcome:
        number, ready = self.number, self.ready
        self.end()
        status = self._process.exitcode or 0
        why = why or f"the process died: {_death(status)}{_traceback(self._arguments[2])}"
        if number is None or not ready:
            raise RuntimeError(f"a child ended without an item: {why}")
        self._begin()
        return Outcome(number, why)

    def end(self) -> None:
        """End the process."""
        self.pipe.close()
        self._process.kill()
        self._process.join()


def _death(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"


def _traceback(folder: Path) -> str:
    """Return where a crash happened, from the child's last output."""
    try:
        lines = (folder / "stderr.txt").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    places = [line.strip() for line in lines if line.strip().startswith("File ")]
    return f" at {places[-1] if len(places) == 1 else places[0]}" if places else ""


class Watcher:
    """Audit hook: records forbidden events."""

    def __init__(self, allowed: Path, secret: str) -> None:
        """Install the hook, which cannot be removed.

        Args:
            allowed: folder in which files may be written.
            secret: part of the names of files that must not be read.
        """
        self.seen: list[str] = []
        self.on = False
        self._allowed, self._secret = f"{allowed}{os.sep}", secret
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int):
                return
            name = os.path.abspath(os.fsdecode(path))
            if self._secret in name:
                self.seen.append(f"read {name}")
            elif flags and flags & _WRITES and not name.startswith((self._allowed, "/dev/null")):
                self.seen.append(f"wrote {name}")
        elif event in _CHANGES:
            place, folder = arguments[event in _MADE], arguments[-1]
            # What is named by an open folder is part of a `shutil.rmtree`, which is an event, too.
            inside = event in _BY_FOLDER and folder != -1
            if inside or not isinstance(place, str | bytes | os.PathLike):
                return
            name = os.path.abspath(os.fsdecode(place))
            if not name.startswith(self._allowed):
                self.seen.append(f"{event} {name}")
        elif event in _STARTS:
            self.seen.append(f"{event} {arguments[:2]!r:.200}")

    def told(self) -> str:
        """Return the events since the last call."""
        seen, self.seen = self.seen, []
        return "; ".join(seen)


def _work(pipe: Connection, maker: Maker, seed: int, folder: Path) -> None:
    """Try items until the pipe closes; the body of a child."""
    own = folder / "work"  # the only place where it may write
    places = {name: folder / name for name in ("home", "tmp", "cwd")}
    for place in (own, *places.values()):
        place.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "HOME": str(places["home"]),
        "XDG_CACHE_HOME": str(places["home"] / "cache"),
        "TMPDIR": str(places["tmp"]),
        "REGARD_KERNELS": "plain",
        "MPLCONFIGDIR": str(folder),
    }
    os.chdir(places["cwd"])
    words = os.open(folder / "stderr.txt", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for stream in (1, 2):  # messages of C libraries about damaged files
        os.dup2(words, stream)
    faulthandler.enable()
    try:
        task = maker(own, seed)
    except BaseException as error:
        pipe.send(repr(error))
        raise
    watcher = Watcher(own, SECRET)
    for place in places.values():  # created during start-up
        for made in place.iterdir():
            made.rename(folder / f"begun-{made.name}-{os.getpid()}")
    _limit_memory()
    pipe.send("")
    while True:
        try:
            number: int = pipe.recv()
        except EOFError:
            return
        before = _forget_peak()
        watcher.on = True
        fault = note = ""
        try:
            note = task(number)
        except BaseException as error:
            fault = f"{type(error).__name__}: {error} {_place_of(error)}"
        watcher.on = False
        done = watcher.told()
        left = [str(made) for place in places.values() for made in place.rglob("*")]
        peak = _peak() - before
        if not fault and (done or left):
            fault = f"outside: {done} {' '.join(left)}"
        if not fault and peak > MEMORY_BYTES:
            fault = f"memory: {peak / 2**30:.1f} GiB"
        pipe.send((fault[:2000], note, peak))


SECRET = "planted-secret"  # nosec B105
"""Part of the names of files that an item must not read."""


def _place_of(error: BaseException) -> str:
    """Return the innermost frame in regard of an exception's traceback."""
    place, at = "", error.__traceback__
    while at is not None:
        code = at.tb_frame.f_code
        if f"{os.sep}regard{os.sep}" in code.co_filename:
            place = f"({Path(code.co_filename).name}:{at.tb_lineno} {code.co_name})"
        at = at.tb_next
    return place


def _limit_memory() -> None:
    """Limit the process's memory, so that excessive use raises `MemoryError`."""
    limit = _status("VmSize") + _SPACE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _state(process: int) -> tuple[str, float]:
    """Return a process's state, such as "R", and its CPU seconds, where Linux provides them."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return "", 0.0
    return fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _status(key: str) -> int:
    """Return a memory figure of this process from Linux in bytes; 0 elsewhere."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(f"{key}:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _forget_peak() -> int:
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:  # then an item is charged with the peak of those before it
        pass
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")
