"""Reports of benchmarks, rounds timed in turn, and the machine's best matrix products."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

SQUARE = 2048
"""Rows and columns of the product that stands for the machine's best."""


@dataclass(frozen=True)
class Report:
    """The figures of one benchmark; None where a figure does not apply to it.

    Attributes:
        benchmark: its name.
        captions_per_s: median of the rounds.
        share_of_gemm_peak: useful floating-point operations per second, as a fraction of those
            of the best square matrix product of the same run.
        peak_rss_mb: most memory of a process that does only this, in MB of 10^6 bytes, less what
            it held after `import torch`; of `start` the whole process.
        ratio_to_textbook: captions per second over the textbook implementation's.
        ratio_to_plain: the same over plain PyTorch's.
        seconds: seconds of one unit of work (`unit`), median of the rounds.
        settings: what was measured.
        details: spreads and everything else that was measured.
    """

    benchmark: str
    captions_per_s: float | None = None
    share_of_gemm_peak: float | None = None
    peak_rss_mb: float | None = None
    ratio_to_textbook: float | None = None
    ratio_to_plain: float | None = None
    seconds: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the record that `--json` writes; keys are only ever added."""
        names = ("captions_per_s", "share_of_gemm_peak", "peak_rss_mb", "ratio_to_textbook",
                 "ratio_to_plain", "seconds")  # fmt: skip
        figures = {name: _rounded(getattr(self, name)) for name in names}
        details = {name: _rounded(value) for name, value in self.details.items()}
        return {"benchmark": self.benchmark} | figures | {"settings": self.settings} | details


def _rounded(value: Any) -> Any:
    """Round numbers to five significant digits; the rest is noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return value


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

    def ratio(self, name: str, to: str) -> float:
        """Return the median of the ratios of `name`'s seconds to those of `to`, round by round."""
        pairs = zip(self.seconds[name], self.seconds[to], strict=True)
        return statistics.median(one / other for one, other in pairs)


def take_turns(
    work: Mapping[str, Callable[[int], object]],
    *,
    rounds: int,
    seconds: float = 60.0,
    warm: bool = True,
) -> Timed:
    """Time several functions alternately, so that a slow minute of the machine affects all equally.

    Args:
        work: functions of the round's number, by name.
        rounds: number of rounds.
        seconds: time after which no further round starts; at least two are made.
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
        """Multiply a few times and keep the shortest time."""
        for _ in range(times):
            start = time.perf_counter()
            torch.mm(self._a, self._b, out=self._out)
            self.seconds = min(self.seconds, time.perf_counter() - start)

    @property
    def rate(self) -> float:
        """Operations per second."""
        return 2 * len(self._a) ** 3 / self.seconds


def best_seconds(shapes: Sequence[tuple[int, int, int, int]], *, tries: int = 3) -> float:
    """Return the total seconds of matrix products of these shapes, each at its best.

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
