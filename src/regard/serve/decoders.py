"""Processes that decode what strangers send: each may die or hang with one file, and with it alone.

Each has a pipe of its own, so nothing that one does reaches the others; one that ended is started
anew for the next file. See `regard.media.isolate` for what runs there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, cast

from regard.media.isolate import read_result, task, write_message
from regard.media.preprocess import ScanSpec, Spec
from regard.serve.requests import Refused, Upload
from regard.serve.settings import PREFIX, Settings
from regard.types import Media

_LATER = 2.0  # seconds after which a process ends itself where its owner did not
_KEPT_PIXELS = 640 * 640  # a frame of a clip is kept no larger


class Decoders:
    """A pool of processes, started as they are needed."""

    def __init__(
        self, count: int, memory: int, watch: Callable[[str], None] = lambda why: None
    ) -> None:
        """Start nothing yet.

        Args:
            count: processes at most.
            memory: address space of each in bytes; 0: unbounded.
            watch: is told when one ended: "crashed", or "late" where it was ended.
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
            spec: the encoder's, which says which medium it reads.
            settings: limits.

        Raises:
            MediaError: it cannot be read, or is too large.
            Refused: the process ended (500), or took too long (504).
        """
        work = asyncio.get_running_loop().run_in_executor(
            self._threads, self._read, upload, spec, settings
        )
        return await work

    def warm(self) -> None:
        """Start a process now, so that the first file need not wait for it."""
        self._threads.submit(self._process)

    def processes(self) -> list[int]:
        """Return the numbers of the processes that live."""
        with self._lock:
            return sorted(one.number for one in self._all if one.lives)

    def close(self) -> None:
        """End the processes once what they do is done."""
        self._threads.shutdown(cancel_futures=True)
        with self._lock:
            for one in self._all:
                one.end()
            self._all.clear()

    def _read(self, upload: Upload, spec: Spec, settings: Settings) -> Media:
        process = self._process()
        try:
            media = process.read(upload, spec, settings)
        except _Late as error:
            self._watch("late")
            limit = settings.decode_seconds
            raise Refused(504, f"{upload.name} took more than {limit:g} s to decode.") from error
        except (OSError, ValueError):
            media = None
        if media is None:
            process.kill()
            self._watch("crashed")
            raise Refused(
                500, f"the process that decoded {upload.name} ended. Its file may be damaged."
            )
        return media

    def _process(self) -> _Process:
        process: _Process | None = getattr(self._own, "process", None)
        if process is None or not process.lives:
            with self._lock:
                if process is not None:
                    self._all.discard(process)
                    process.end()
                process = self._own.process = _Process(self._memory)
                self._all.add(process)
        return process


class _Late(Exception):
    """A process was ended because it took too long."""


class _Process:
    """One process, used by one thread."""

    def __init__(self, memory: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "regard.media.isolate", str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries tell there what a file holds
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for the service, which still has to answer
        )
        self._killed = False
        self._tasks = cast("BinaryIO", self._process.stdin)
        self._results = cast("BinaryIO", self._process.stdout)

    @property
    def number(self) -> int:
        return self._process.pid

    @property
    def lives(self) -> bool:
        # `poll` says yes, too, while another thread waits for its end.
        return not self._killed and self._process.poll() is None

    def read(self, upload: Upload, spec: Spec, settings: Settings) -> Media | None:
        """Return what was decoded; None where the process ended."""
        late = threading.Event()

        def end() -> None:
            late.set()
            self.kill()

        header = task(
            upload.name,
            len(upload.content),
            spec,
            pixels=settings.max_pixels,
            frames=settings.max_frames,
            voxels=settings.max_voxels,
            seconds=settings.decode_seconds + _LATER,
        )
        timer = threading.Timer(settings.decode_seconds, end)
        timer.start()
        try:
            write_message(self._tasks, header, upload.content)
            media = read_result(self._results, _most_bytes(spec, settings))
        except OSError:
            media = None
        finally:
            timer.cancel()
        if media is None and late.is_set():
            raise _Late
        return media

    def kill(self) -> None:
        self._killed = True
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Let it end, and wait for it."""
        for pipe in (self._tasks, self._results):
            with contextlib.suppress(OSError):  # what was to be written has no reader any more
                pipe.close()
        try:
            self._process.wait(_LATER)
        except subprocess.TimeoutExpired:
            self.kill()


def _most_bytes(spec: Spec, settings: Settings) -> int:
    if isinstance(spec, ScanSpec):
        return 4 * settings.max_voxels
    frames = getattr(spec, "frames", 0)
    return 3 * (frames * _KEPT_PIXELS if frames else settings.max_pixels)


def _environment() -> dict[str, str]:
    """Return this process's environment, without the service's settings: keys are among them."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    here = str(Path(__file__).parents[2])
    path = kept.get("PYTHONPATH")
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return kept | threads | {"PYTHONPATH": f"{here}{os.pathsep}{path}" if path else here}


__all__ = ["Decoders"]
