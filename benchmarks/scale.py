"""Cost of jobs of any size, extrapolated from measurements; prints the tables of docs/scale.md.

    python -m benchmarks.scale            # the table over sizes
    python -m benchmarks.scale simulate   # the cost of worker deaths and of the last units

Assumptions that were not measured are in `Assumed`.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """Measurements of flickr8k-soft at beam 3 in float32 under onnxruntime; see docs/scale.md."""

    core_seconds: float = 2 / 51.4  # a picture of 640×480, two idle cores (benchmarks/README.md)
    picture_bytes: float = 69_673
    row_bytes: float = 141  # Parquet
    trace_row_bytes: float = 2_095
    plan_bytes_of_file: float = 45
    plan_bytes_of_unit: float = 110
    listing_seconds: float = 17e-6  # of an item in a folder
    requests: float = 2  # of an object store for a file: HEAD and GET


@dataclass(frozen=True)
class Assumed:
    """Assumptions that readers should replace by their own values."""

    cores_of_machine: int = 64
    hours: float = 24.0
    unit: int = 4096
    hours_between_deaths: float = 24.0  # of one worker: machines that may be taken away
    spread: float = 0.1  # of the time that a unit takes, as a share
    restart_seconds: float = 60.0  # until there is another in its place


def table() -> None:
    """Print a row for each factor of ten."""
    m, a = Measured(), Assumed()
    print("| pictures | core-hours | machines for a day | read | Gb/s in | rows | rows, traces |"
          " shards | plan of files | listing |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for power in range(5, 11):
        n = 10**power
        cores = n * m.core_seconds / 3600 / a.hours
        machines = max(1, math.ceil(cores / a.cores_of_machine))
        seconds = min(a.hours * 3600, n * m.core_seconds / (machines * a.cores_of_machine))
        gigabits = n * m.picture_bytes * 8 / seconds / 1e9
        print(
            f"| 10^{power} | {n * m.core_seconds / 3600:,.1f} | {machines} "
            f"| {size(n * m.picture_bytes)} | {gigabits:.2g} | {size(n * m.row_bytes)} "
            f"| {size(n * m.trace_row_bytes)} | {math.ceil(n / a.unit):,} "
            f"| {size(n * m.plan_bytes_of_file)} | {duration(n * m.listing_seconds)} |"
        )


def simulate(pictures: int = 10**9, machines: int = 8, seed: int = 0) -> None:
    """Print the time lost to worker deaths and idle cores, for several unit sizes."""
    measured, assumed = Measured(), Assumed()
    print("| unit | seconds a unit | lost to deaths | lost at the end | together |")
    print("|---|---|---|---|---|")
    for unit in (256, 4096, 65_536, 1_048_576):
        mean = unit * measured.core_seconds
        lost, waited, total = one(
            math.ceil(pictures / unit), mean, machines * assumed.cores_of_machine, assumed,
            random.Random(seed),
        )  # fmt: skip
        shares = [f"{share / total:.2%}" for share in (lost, waited, lost + waited)]
        print(f"| {unit:,} | {mean:,.0f} | {' | '.join(shares)} |")


def one(
    units: int, mean: float, cores: int, assumed: Assumed, chance: random.Random
) -> tuple[float, float, float]:
    """Return core-seconds lost to deaths, spent waiting at the end, and in total.

    Every core takes the next unit when it has finished one. Workers die independently at random
    times; the first free core restarts the unit, and the dead core returns a while later.
    """
    rate, lost, last = 1 / (assumed.hours_between_deaths * 3600), 0.0, 0.0
    deaths = [chance.expovariate(rate) for _ in range(cores)]
    free = [(0.0, core) for core in range(cores)]
    while units:
        now, core = free[0]
        end = now + mean * max(0.1, chance.gauss(1.0, assumed.spread))
        if deaths[core] < end:
            back = max(now, deaths[core]) + assumed.restart_seconds
            lost += back - now
            deaths[core] = back + chance.expovariate(rate)
            heapq.heapreplace(free, (back, core))
            continue
        units -= 1
        last = max(last, end)
        heapq.heapreplace(free, (end, core))
    waited = sum(last - min(last, at) for at, _ in free)
    return lost, waited, last * cores


def size(count: float) -> str:
    """Return bytes in words."""
    for name, unit in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count / 1e3:.3g} kB"


def duration(seconds: float) -> str:
    """Return seconds in words."""
    for name, unit in (("h", 3600.0), ("min", 60.0)):
        if seconds >= unit:
            return f"{seconds / unit:.2g} {name}"
    return f"{seconds:.2g} s"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("table", "simulate"), default="table")
    simulate() if parser.parse_args().what == "simulate" else table()
