"""Clocks: rounds that take turns, and the machine's best at matrix products in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

SQUARE = 2048
"""Rows and columns of the product that stands for the machine's best."""


@dataclass
class Timed:
    """Seconds of each round, by what was timed."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """Return the median of its rounds in seconds."""
        return statistics.median(self.seconds[name])

    def spread(self, name: str) -> list[float]:
        """Return the shortest and the longest of its rounds in seconds."""
        return [min(self.seconds[name]), max(self.seconds[name])]


def take_turns(
    work: Mapping[str, Callable[[int], object]],
    *,
    rounds: int,
    seconds: float = 60.0,
    warm: bool = True,
) -> Timed:
    """Time several things in turns, so that a slow minute of the machine falls on all alike.

    Args:
        work: functions of the round's number, by name.
        rounds: how often each is timed.
        seconds: after so long no further round begins; two are made in any case.
        warm: run each once before.
    """
    timed = Timed({name: [] for name in work})
    if warm:
        for run in work.values():
            run(0)
    began = time.perf_counter()
    for number in range(rounds):
        if number >= 2 and time.perf_counter() - began > seconds:
            break
        for name, run in work.items():
            start = time.perf_counter()
            run(number)
            timed.seconds[name].append(time.perf_counter() - start)
    return timed


class GemmPeak:
    """Operations per second of the best square product in float32 so far."""

    def __init__(self, size: int = SQUARE) -> None:
        """Draw the matrices, (size, size)."""
        generator = torch.Generator().manual_seed(0)
        self._a, self._b = (torch.randn(size, size, generator=generator) for _ in range(2))
        self._out = torch.empty(size, size)
        self.seconds = float("inf")

    def __call__(self, _: int = 0, times: int = 2) -> None:
        """Multiply a few times and keep the best."""
        for _ in range(times):
            start = time.perf_counter()
            torch.mm(self._a, self._b, out=self._out)
            self.seconds = min(self.seconds, time.perf_counter() - start)

    @property
    def rate(self) -> float:
        """Operations per second."""
        return 2 * len(self._a) ** 3 / self.seconds


def best_seconds(shapes: Sequence[tuple[int, int, int, int]], *, tries: int = 3) -> float:
    """Return how long matrix products of these shapes take together, each at its best.

    Args:
        shapes: (M, K, N, how many times).
        tries: per shape; the shortest counts.
    """
    total = 0.0
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for m, k, n, times in shapes:
            a, b = torch.randn(m, k, generator=generator), torch.randn(k, n, generator=generator)
            out = torch.empty(m, n)
            best = float("inf")
            for _ in range(tries):
                start = time.perf_counter()
                torch.mm(a, b, out=out)
                best = min(best, time.perf_counter() - start)
            total += best * times
    return total
