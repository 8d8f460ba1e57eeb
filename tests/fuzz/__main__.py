"""Run the parts of the fault injection one after the other and report their figures.

    python -m tests.fuzz [PART ...] [--scale 1.0] [--seed 0] [--folder DIR]

The last line is `N tried, N handled, N lost, N uncaught`; the exit status is 1 unless the last
two are 0. `--scale 1` takes at most 20 minutes on two cores; 10 tries ten times as much.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.tally import Tally

PARTS = ("media", "documents", "disk", "strangers", "training", "bulk", "service")
"""Modules of this package: each has `run(scale, seed, folder) -> Tally`."""


def main(arguments: list[str] | None = None) -> int:
    """Run the parts that are named, or all, and return the exit status."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--scale", type=float, default=1.0, help="how much to try; 1: 20 minutes")
    parser.add_argument("--seed", type=int, default=0, help="of what is tried")
    parser.add_argument("--folder", type=Path, help="to work in; a temporary one by default")
    options = parser.parse_args(arguments)
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"{unknown[0]} is not a part; there are {', '.join(PARTS)}")
    total = Tally()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for part in options.parts or PARTS:
            place = Path(folder, part)
            place.mkdir()
            total += _run(part, options.scale, options.seed, place)
    print(_counts(total))
    return 1 if total.lost or total.uncaught else 0


def _run(part: str, scale: float, seed: int, folder: Path) -> Tally:
    start = time.monotonic()
    tally: Tally = importlib.import_module(f"tests.fuzz.{part}").run(scale, seed, folder)
    print(f"{part}: {_counts(tally)}, {time.monotonic() - start:.0f} s", flush=True)
    for line in (*tally.figures, *tally.troubles):
        print(f"  {line}", flush=True)
    return tally


def _counts(tally: Tally) -> str:
    kinds = "tried", "handled", "lost", "uncaught"
    return ", ".join(f"{getattr(tally, kind)} {kind}" for kind in kinds)


if __name__ == "__main__":
    sys.exit(main())
