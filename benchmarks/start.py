"""`python -m benchmarks start`: the whole process of `regard caption one.jpg`."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from importlib.resources import files
from pathlib import Path

from benchmarks.measure import Report
from regard.errors import RegardError
from regard.util.child_python import python_command, python_environment

_ROOT = Path(__file__).resolve().parents[1]
_CHILD = """
import atexit, os, sys
pipe = int(sys.argv.pop(1))
def tell():
    from benchmarks.memory import peak
    os.write(pipe, str(peak()).encode())
atexit.register(tell)
from regard.cli.main import main
main()
"""


def measure_start(
    *, model: str | None = None, picture: Path | None = None, rounds: int = 5
) -> Report:
    """Time a process that captions one photograph, from start to exit.

    Args:
        model: folder or name; None: the shipped one.
        picture: the photograph; None: a sample.
        rounds: processes, one after another; the files that they read are in the system's cache
            from the second on.
    """
    sample = files("regard") / "samples" / "astronaut.jpg"
    arguments = ["caption", str(picture or sample), *(["--model", model] if model else [])]
    found = [_run(arguments) for _ in range(rounds)]
    walls, peaks = [wall for wall, _ in found], [peak for _, peak in found]
    return Report(
        "start",
        peak_rss_mb=statistics.median(peaks) / 1e6,
        seconds=statistics.median(walls),
        settings={"model": model, "cores": os.cpu_count(), "unit": "process"},
        details={
            "seconds_spread": [min(walls), max(walls)],
            "seconds_first": walls[0],
            "rounds": rounds,
        },
    )


def _run(arguments: list[str]) -> tuple[float, int]:
    """Return a process's seconds and largest resident memory in bytes."""
    ours, theirs = os.pipe()
    began = time.perf_counter()
    done = subprocess.run(
        python_command("-c", _CHILD, str(theirs), *arguments), env=python_environment(None, _ROOT),
        pass_fds=(theirs,), capture_output=True, text=True, check=False,
    )  # fmt: skip
    wall = time.perf_counter() - began
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        written = pipe.read()
    if done.returncode or not written:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RegardError(f"`regard {' '.join(arguments)}` failed: {last}")
    return wall, int(written)
