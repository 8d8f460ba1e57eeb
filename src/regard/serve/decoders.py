"""A pool of processes that decode untrusted files; crashes and hangs are isolated.

Each process has its own pipes and runs `regard.media.isolate`. A process that ended is restarted
for the next file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, cast

from regard.media.isolate import read_result, task, write_message
from regard.media.preprocess import ClipSpec, ScanSpec, Spec
from regard.serve.requests import RequestError, Upload
from regard.serve.settings import Settings
from regard.types import Media
from regard.util.child_python import python_command, python_environment, without_secrets

_GRACE = 2.0  # seconds after which a process ends itself if its owner did not end it
_KEPT_PIXELS = 640 * 640  # of a frame; larger ones are scaled down
_LIMITS = ("max_pixels", "max_frames", "max_voxels")


class Decoders:
    """A pool of processes, started when they are needed."""

    def __init__(
        self, count: int, memory: int, watch: Callable[[str], None] = lambda why: None
    ) -> None:
        """Start no process yet.

        Args:
            count: processes at most.
            memory: address space of each in bytes; 0: unlimited.
            watch: called when a process ended, with "crashed", or "late" after a timeout.
        """
        self._memory, self._watch = memory, watch
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="regard-decoder")
        self._own = threading.local()  # each thread has one process
        self._all: set[_Process] = set()
        self._lock = threading.Lock()

    async def read(self, upload: Upload, spec: Spec, settings: Settings) -> Media:
        """Decode a file.

        Args:
            upload: the file.
            spec: the encoder's; its type determines the medium.
            settings: limits.

        Raises:
            MediaError: it cannot be read, or is too large.
            RequestError: the process ended (500), or took too long (504).
        """
        loop, task = asyncio.get_running_loop(), _Task()
        try:
            return await loop.run_in_executor(
                self._threads, self._read, upload, spec, settings, task
            )
        finally:
            task.leave()  # a process still at work on it is killed

    def warm(self) -> None:
        """Start a process now, so that the first file does not wait for it."""
        self._threads.submit(self._process)

    def processes(self) -> list[int]:
        """Return the ids of the processes that are alive."""
        with self._lock:
            return sorted(one.pid for one in self._all if one.alive)

    def close(self) -> None:
        """End the processes after their current work."""
        self._threads.shutdown(cancel_futures=True)
        with self._lock:
            for one in self._all:
                one.end()
            self._all.clear()

    def _read(self, upload: Upload, spec: Spec, settings: Settings, task: _Task) -> Media:
        task.check()
        process = self._process()
        try:
            with task.given_to(process):
                media = process.read(upload, spec, settings)
        except TimeoutError as error:
            self._watch("late")
            message = f"{upload.name} took more than {settings.decode_seconds:g} s to decode."
            raise RequestError(504, message) from error
        except (OSError, ValueError):
            media = None
        if media is None:
            process.kill()
            if not task.left:
                self._watch("crashed")
            raise RequestError(
                500, f"the process that decoded {upload.name} ended. Its file may be damaged."
            )
        return media

    def _process(self) -> _Process:
        process: _Process | None = getattr(self._own, "process", None)
        if process is None or not process.alive:
            with self._lock:
                if process is not None:
                    self._all.discard(process)
                    process.end()
                process = self._own.process = _Process(self._memory)
                self._all.add(process)
        return process


class _Task:
    """A file to decode, and whether its client has left."""

    def __init__(self) -> None:
        self.left = False
        self._process: _Process | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise `RequestError` if the client has left."""
        if self.left:
            raise RequestError(503, "the client has left.")

    @contextlib.contextmanager
    def given_to(self, process: _Process) -> Generator[None]:
        """Name the process that works on it.

        Raises:
            RequestError: the client has left.
        """
        with self._lock:
            self.check()
            self._process = process
        try:
            yield
        finally:
            with self._lock:
                self._process = None

    def leave(self) -> None:
        """Kill the process that works on it, if one does."""
        with self._lock:
            self.left = True
            if self._process is not None:
                self._process.stop()


class _Process:
    """One process, used by one thread."""

    def __init__(self, memory: int) -> None:
        self._process = subprocess.Popen(
            python_command("-m", "regard.media.isolate", str(memory)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries may print file contents there
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for the service, which still has to answer
        )
        self._killed = False
        self._tasks = cast("BinaryIO", self._process.stdin)
        self._results = cast("BinaryIO", self._process.stdout)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        # `poll` returns None, too, while another thread waits for its end.
        return not self._killed and self._process.poll() is None

    def read(self, upload: Upload, spec: Spec, settings: Settings) -> Media | None:
        """Return the decoded media; None if the process ended.

        Raises:
            TimeoutError: it took too long, and was killed.
        """
        late = threading.Event()

        def end() -> None:
            late.set()
            self.kill()

        limits = {name: getattr(settings, name) for name in _LIMITS}
        seconds = settings.decode_seconds
        header = task(upload.name, len(upload.content), spec, limits, seconds + _GRACE)
        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            write_message(self._tasks, header, upload.content)
            media = read_result(self._results, _most_bytes(spec, settings))
        except OSError:
            media = None
        finally:
            timer.cancel()
        if media is None and late.is_set():
            raise TimeoutError
        return media

    def stop(self) -> None:
        """Kill it; its thread waits for its end."""
        self._killed = True
        self._process.kill()

    def kill(self) -> None:
        self.stop()
        self._process.wait()

    def end(self) -> None:
        """Close its input and wait until it ends."""
        for pipe in (self._tasks, self._results):
            with contextlib.suppress(OSError):  # the process no longer reads what is unsent
                pipe.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self.kill()


def _most_bytes(spec: Spec, settings: Settings) -> int:
    """Return the largest size that a result can have."""
    if isinstance(spec, ScanSpec):
        return 4 * settings.max_voxels
    return 3 * (spec.frames * _KEPT_PIXELS if isinstance(spec, ClipSpec) else settings.max_pixels)


def _environment() -> dict[str, str]:
    """Return the environment of a process: nothing secret, which a file could make it reveal."""
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return python_environment(without_secrets(os.environ) | threads)
