"""Parallel map over batches, and work that ends early.

Threads process whole batches on one core each, in order.

Threads that share every matrix product wait for each other at its end, and while Python runs
between two products. With many batches it is faster if each thread processes its own.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from threading import Barrier
from typing import TypeVar

_stopped: ContextVar[Callable[[], bool] | None] = ContextVar("stopped", default=None)


class Stopped(Exception):
    """Raised within work that nobody waits for any more."""


@contextmanager
def stop_when(stopped: Callable[[], bool]) -> Generator[None]:
    """End the work in the block once `stopped` returns True; it is asked at every step."""
    before = _stopped.set(stopped)
    try:
        yield
    finally:
        _stopped.reset(before)


def check_stopped() -> None:
    """Raise if the work that calls this is to end; long loops call it at every step.

    Raises:
        Stopped: see `stop_when`.
    """
    stopped = _stopped.get()
    if stopped is not None and stopped():
        raise Stopped


T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 1  # batches that wait for a thread, so that none waits for a slow reader of results


def ordered_map(
    work: Callable[[T], R],
    batches: Iterator[T],
    *,
    threads: int,
    start: Callable[[], Callable[[], None]],
) -> Iterator[R]:
    """Yield what `work` returns for each batch, in their order, several batches at a time.

    No more than threads + 1 batches are begun ahead of what was yielded, so memory stays flat.

    Args:
        work: returns a batch's result.
        batches: taken as they are needed.
        threads: number of threads.
        start: called in each thread before its first batch, to limit the thread to one core. Its
            return value is called in the caller's thread once all threads have started, to undo
            side effects.
    """
    with ThreadPoolExecutor(threads) as pool:
        started = Barrier(threads)

        def start_thread(_: int) -> Callable[[], None]:
            restore = start()
            started.wait()  # otherwise one thread could start twice, and another never
            return restore

        for restore in list(pool.map(start_thread, range(threads)))[:1]:
            restore()
        ahead: deque[Future[R]] = deque()
        try:
            while True:
                wanted = threads + _AHEAD - len(ahead)
                ahead.extend(pool.submit(work, batch) for batch in islice(batches, wanted))
                if not ahead:
                    return
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
