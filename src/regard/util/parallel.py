"""Several threads that each do whole batches, one core each, in the order of the batches.

Two threads that share every product wait for each other at its end, and both wait while Python
runs between two. Where there are many batches it is faster that each thread does its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Barrier
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 1  # batches that wait for a thread, so that none waits for a slow reader of results


def in_lanes(
    work: Callable[[list[T]], list[R]],
    items: Iterator[T],
    *,
    batch_size: int,
    lanes: int,
    alone: Callable[[], Callable[[], None]],
) -> Iterator[R]:
    """Yield what `work` makes of the items, in their order, several batches at a time.

    No more than lanes + 1 batches are begun ahead of what was yielded, so memory stays flat.

    Args:
        work: makes a batch's results.
        items: all of them, taken as they are needed.
        batch_size: items of a batch.
        lanes: threads.
        alone: is called in each thread before its first batch and sees to it that this thread's
            work takes one core; what it returns is called in the caller's thread once all have
            done so, and takes back what else that changed.
    """
    with ThreadPoolExecutor(lanes) as pool:
        started = Barrier(lanes)

        def start(_: int) -> Callable[[], None]:
            restore = alone()
            started.wait()  # or one thread could start twice, and another never
            return restore

        for restore in list(pool.map(start, range(lanes)))[:1]:
            restore()
        ahead: deque[Future[list[R]]] = deque()
        try:
            while True:
                while len(ahead) < lanes + _AHEAD and (batch := list(islice(items, batch_size))):
                    ahead.append(pool.submit(work, batch))
                if not ahead:
                    return
                yield from ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
