"""Comparison of the speed of two commits, measured alternately on one machine.

    python -m benchmarks.ab main HEAD                    # all figures, about six minutes
    python -m benchmarks.ab main . --what decode,start   # "." is the working tree as it is
    python -m benchmarks.ab main HEAD --quick --json ab.json

A and B are commits, which are checked out into temporary git worktrees, or paths of existing
checkouts. Their benchmarks run alternately (A B A B ...), each in a process of its own with this
interpreter and the checkout's `src` first on the import path. B/A is the median of the ratios of
adjacent runs: a slow minute of the machine falls on both runs of a pair.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLAIN = ("--against", "none", "--no-memory")
MODEL = ("--model", "flickr8k-soft")  # by name: the default may be another model in A than in B
START = ("start", *MODEL, "--rounds", "1")
WARM_UP = ("decode", *PLAIN, "--pictures", "1", "--batch", "1", "--rounds", "1")

Record = dict[str, Any]
Runner = Callable[[Path, Sequence[str]], Record]


@dataclass(frozen=True)
class Figure:
    """A number that is compared: `key` of a record, better if "higher" or "lower"."""

    name: str
    key: str = "captions_per_s"
    better: str = "higher"


@dataclass(frozen=True)
class Benchmark:
    """One command whose record gives one or more figures.

    Attributes:
        what: the group that `--what` selects it by.
        figures: read from its record.
        arguments: arguments of a run.
        quick: appended with `--quick`; the last value of an option counts.
        pairs: pairs of runs; None: as many as `--rounds` says.
    """

    what: str
    figures: tuple[Figure, ...]
    arguments: tuple[str, ...]
    quick: tuple[str, ...] = ()
    pairs: int | None = None


SHORTER = ("--rounds", "2", "--pictures")
BENCHMARKS = (
    Benchmark(
        "train", (Figure("training D=512, captions/s"),),
        ("train", *PLAIN, "--rounds", "8", "--seconds", "20"),
        ("--rounds", "4", "--seconds", "10"),
    ),
    Benchmark(
        "decode", (Figure("beam 3, captions/s"),),
        ("decode", *PLAIN, "--rounds", "3", "--pictures", "256"), (*SHORTER, "128"),
    ),
    Benchmark(
        "decode", (Figure("greedy, captions/s"),),
        ("decode", *PLAIN, "--beam", "1", "--rounds", "3", "--pictures", "512"), (*SHORTER, "256"),
    ),
    Benchmark(  # below 150 pictures the cores do not decode batches of their own
        "caption", (Figure("files to captions, pictures/s"),),
        ("caption", *MODEL, "--no-memory", "--rounds", "2", "--pictures", "256"),
        (*SHORTER, "160"),
    ),
    Benchmark(  # short and noisy, so A and B alternate process by process
        "start",
        (
            Figure("cold start, s", "seconds", "lower"),
            Figure("cold start, peak MB", "peak_rss_mb", "lower"),
        ),
        START, pairs=7,
    ),
)  # fmt: skip
WHAT = tuple(dict.fromkeys(b.what for b in BENCHMARKS))


@contextmanager
def checked_out(revision: str) -> Generator[Path]:
    """Yield the folder of a commit, in a temporary worktree, or of an existing checkout."""
    if (Path(revision) / "src" / "regard").is_dir():
        yield Path(revision).resolve()
        return
    commit = git(ROOT, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if not commit:
        sys.exit(f"{revision!r} is neither a commit nor a folder that holds src/regard.")
    with TemporaryDirectory(prefix="regard-ab-") as scratch:
        folder = Path(scratch).resolve() / "checkout"
        try:
            git(ROOT, "worktree", "add", "--quiet", "--detach", str(folder), commit, check=True)
            yield folder
        finally:
            git(ROOT, "worktree", "remove", "--force", str(folder))


def git(folder: Path, *arguments: str, check: bool = False) -> str:
    """Return git's output; with `check` a failure ends the program."""
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
    return done.stdout.strip()


def command_of(checkout: Path) -> list[str]:
    """Return the command of a checkout's benchmarks: a package of their own, or `regard bench`."""
    if (checkout / "benchmarks" / "__main__.py").exists():
        return [sys.executable, "-m", "benchmarks"]
    return [sys.executable, "-m", "regard", "bench"]


def python(checkout: Path, command: Sequence[str]) -> str:
    """Return the output of a Python process that imports the checkout's regard."""
    searched = f"{checkout / 'src'}{os.pathsep}{checkout}"
    environment = os.environ | {"PYTHONPATH": searched, "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed in {checkout}:\n{done.stderr.strip()}")
    return done.stdout


def run_benchmark(checkout: Path, arguments: Sequence[str]) -> Record:
    """Return the record of one benchmark of a checkout."""
    command = [*command_of(checkout), *arguments, "--json"]
    try:
        return json.loads(output := python(checkout, command))
    except json.JSONDecodeError:
        sys.exit(f"{' '.join(command)} in {checkout} wrote {output!r}, which is not JSON.")


def prepare(checkouts: Sequence[Path], run: Runner) -> None:
    """Check the imported package, and warm up byte code, compiled loops and disk caches."""
    for checkout in checkouts:
        source = "import regard; print(regard.__file__)"
        found = Path(python(checkout, [sys.executable, "-c", source]).strip())
        if not found.is_relative_to(checkout / "src"):
            sys.exit(f"{checkout} would be measured with {found}, which is not its own package.")
        run(checkout, WARM_UP)
        run(checkout, START)


def measure(
    checkouts: Sequence[Path], benchmarks: Sequence[Benchmark], *,
    rounds: int, quick: bool, run: Runner,
) -> list[tuple[Benchmark, list[list[Record]]]]:  # fmt: skip
    """Run every benchmark of A and B alternately; return the records of A and of B."""
    found = [(benchmark, [[] for _ in checkouts]) for benchmark in benchmarks]
    turns = [pair for _ in range(rounds) for pair in found if pair[0].pairs is None]
    turns += [pair for pair in found for _ in range(pair[0].pairs or 0)]
    for number, (benchmark, records) in enumerate(turns, 1):
        arguments = benchmark.arguments + (benchmark.quick if quick else ())
        for checkout, kept in zip(checkouts, records, strict=True):
            kept.append(run(checkout, arguments))
        figure = benchmark.figures[0]
        last = " and ".join(f"{kept[-1][figure.key]:.4g}" for kept in records)
        print(f"{number}/{len(turns)} {figure.name}: {last}", file=sys.stderr, flush=True)
    return found


def compare(figure: Figure, a: Sequence[Record], b: Sequence[Record]) -> dict[str, Any]:
    """Return medians, the ratio B/A of pairs and of the best runs, and the shares of the peak."""
    values = [[record[figure.key] for record in records] for records in (a, b)]
    ratios = [of_b / of_a for of_a, of_b in zip(*values, strict=True)]
    shares = [[r.get("share_of_gemm_peak") for r in records] for records in (a, b)]
    best = min if figure.better == "lower" else max
    return {
        "figure": figure.name,
        "better": figure.better,
        "medians": [median(side) for side in values],
        "ratio": median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "ratio_of_best": best(values[1]) / best(values[0]),
        "shares": [None if None in side else median(side) for side in shares],
        "values": values,
        "ratios": ratios,
    }


def table(compared: Sequence[dict[str, Any]]) -> str:
    """Return the comparison as a Markdown table with aligned columns."""
    rows = [["figure", "better", "A", "B", "B/A", "of pairs", "of the best", "share of GEMM peak"]]
    for row in compared:
        medians = [f"{value:.4g}" for value in row["medians"]]
        low, high = row["ratio_spread"]
        ratios = [f"{row['ratio']:.3f}", f"{low:.3f} to {high:.3f}", f"{row['ratio_of_best']:.3f}"]
        shares = ", ".join("–" if share is None else f"{share:.2f}" for share in row["shares"])
        rows.append([row["figure"], row["better"], *medians, *ratios, shares])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    lines = (" | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in rows)
    return "\n".join(f"| {line} |" for line in lines)


def main() -> None:
    given = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that worktrees are removed
    chosen = [benchmark for benchmark in BENCHMARKS if benchmark.what in given.what]
    with ExitStack() as stack:
        checkouts = [stack.enter_context(checked_out(r)) for r in (given.a, given.b)]
        commits = [git(checkout, "describe", "--always", "--dirty") for checkout in checkouts]
        prepare(checkouts, run_benchmark)
        how = {"rounds": given.rounds, "quick": given.quick}
        found = measure(checkouts, chosen, **how, run=run_benchmark)
    compared = [compare(figure, a, b) for one, (a, b) in found for figure in one.figures]
    print(f"A: {given.a} ({commits[0]})\nB: {given.b} ({commits[1]})\n\n{table(compared)}")
    if given.json:
        written = {"revisions": [given.a, given.b], "commits": commits, "figures": compared} | how
        given.json.write_text(json.dumps(written, indent=1) + "\n", "utf-8")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options; exit with a message if one is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("a", metavar="REV_A", help="commit, or path of a checkout")
    parser.add_argument("b", metavar="REV_B", help="commit, or path of a checkout")
    parser.add_argument("--what", default=",".join(WHAT), help="comma-separated; %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of runs; %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all values here")
    parser.add_argument("--quick", action="store_true", help="shorter runs, about three minutes")
    given = parser.parse_args(arguments)
    given.what = [name.strip() for name in given.what.split(",")]
    if wrong := set(given.what) - set(WHAT):
        parser.error(f"--what has {min(wrong)!r}; it takes {', '.join(WHAT)}.")
    if given.rounds < 1:
        parser.error(f"--rounds is {given.rounds}; it must be at least 1.")
    return given


if __name__ == "__main__":
    main()
