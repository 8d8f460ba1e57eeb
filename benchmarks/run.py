"""Runs all measurements of benchmarks/README.md, and rewrites its tables and plots.

    python -m benchmarks.run                # everything, about 25 minutes on two idle cores
    python -m benchmarks.run decode start   # some groups; the others keep what they had
    python -m benchmarks.run --plots        # measure nothing

Groups: train, train-sweep, decode, decode-sweep, caption, store, start. Each measurement is one
`python -m benchmarks ... --json` in a process of its own; results.json keeps what it wrote, with
date, machine and versions.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.plots import draw_all
from regard.util.child_python import python_command, python_environment

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
README = HERE / "README.md"
PEERS = HERE / "peers.json"
BEGIN, END = "<!-- results: written by run.py -->", "<!-- end of results -->"

SHORT = ("--no-memory", "--rounds", "3", "--seconds", "5")
FEW = (*SHORT, "--against", "plain")

GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "train D=512": ("train", "--rounds", "7", "--seconds", "25"),
        "train D=2048": ("train", "--annotation-dim", "2048", "--seconds", "25", "--no-memory"),
        "train five captions a picture": (
            "train", "--captions-per-image", "5", "--batch", "65", *FEW,
        ),
        "train bf16": ("train", "--precision", "bf16", *FEW),
    },
    "train-sweep": {
        **{f"train batch={n}": ("train", "--batch", n, *FEW) for n in ("8", "16", "32", "128")},
        **{f"train cells={n}": ("train", "--cells", n, *FEW) for n in ("49", "98", "392", "784")},
        "train threads=1": ("train", "--threads", "1", *FEW),
        "train clip of 5096 cells": (
            "train", "--cells", "5096", "--batch", "16", "--against", "none", "--rounds", "2",
            "--seconds", "10",
        ),
    },
    "decode": {
        "decode beam=3": ("decode", "--seconds", "20"),
        "decode beam=5": ("decode", "--beam", "5", *FEW),
        "decode greedy": ("decode", "--beam", "1", *FEW),
        **{
            f"decode {name} batch=128": (
                "decode", "--beam", beam, "--batch", "128", "--pictures", "512", *FEW,
            )
            for name, beam in (("beam=3", "3"), ("beam=5", "5"), ("greedy", "1"))
        },
        "decode one picture": ("decode", "--pictures", "1", "--batch", "1", *FEW),
    },
    "decode-sweep": {
        "decode beam=10": ("decode", "--beam", "10", *FEW),
        **{
            f"decode batch={n}": ("decode", "--batch", n, "--pictures", "256", *FEW)
            for n in ("4", "16", "32", "128")
        },
        **{
            f"decode cells={n}": ("decode", "--cells", n, "--pictures", "128", *FEW)
            for n in ("49", "784")
        },
        "decode threads=1": ("decode", "--threads", "1", *FEW),
    },
    "caption": {"caption": ("caption", "--seconds", "40")},
    "store": {"store": ("store",)},
    "start": {"start": ("start",)},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(GROUPS)}; all unless given")
    parser.add_argument("--plots", action="store_true", help="measure nothing")
    given = parser.parse_args()
    wrong = set(given.groups) - set(GROUPS)
    if wrong:
        parser.error(f"no group {min(wrong)!r}; there are {', '.join(GROUPS)}")
    kept: dict[str, Any] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    for group in () if given.plots else given.groups or GROUPS:
        for name, arguments in GROUPS[group].items():
            if "bf16" in name and "bf16" not in processor():
                print(f"{name}: left out, this processor has no such products")
                continue
            print(f"{name} ...", end=" ", flush=True)
            record = measure(arguments)
            print(f"{record['seconds']} s a {record['settings']['unit']}", flush=True)
            kept[name] = record | {"measured": now(), "machine": machine()}
            RESULTS.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", "utf-8")
            write_readme(kept)  # at once: a run that is broken off loses nothing
    write_readme(kept)
    draw_all(kept, HERE)


def measure(arguments: tuple[str, ...]) -> dict[str, Any]:
    """Return the record of one benchmark."""
    command = python_command("-m", "benchmarks", *arguments, "--json")
    environment = python_environment(None, HERE.resolve().parent)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def machine() -> dict[str, Any]:
    """Return the properties of this machine."""
    names = ("torch", "numpy", "onnxruntime", "pillow")
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def processor() -> str:
    """Return the processor's name and whether it has bf16 products."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
    values = {key.strip(): value.strip() for key, value in lines.items()}
    flags = values.get("flags", "").split()
    widest = next((f for f in ("avx512_bf16", "avx512f", "avx2") if f in flags), "no AVX2")
    return f"{values.get('model name', '?')} ({widest})"


COLUMNS = {
    "captions/s": lambda r: number(r["captions_per_s"]),
    "spread": lambda r: spread(r),
    "of the GEMM peak": lambda r: share(r["share_of_gemm_peak"]),
    "GEMM peak, GFLOP/s": lambda r: number(r.get("gemm_gflops")),
    "times textbook": lambda r: number(r["ratio_to_textbook"]),
    "times plain": lambda r: number(r["ratio_to_plain"]),
    "memory, MB": lambda r: number(r["peak_rss_mb"]),
}


def write_readme(kept: dict[str, Any]) -> None:
    """Replace the tables between the two marks."""
    text = README.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = [f"| what | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name in (n for group in GROUPS.values() for n in group):
        record = kept.get(name)
        if record is not None and record["captions_per_s"] is not None:
            cells = " | ".join(read(record) for read in COLUMNS.values())
            lines.append(f"| {name} | {cells} |")
    lines += ["", *others(kept), "", *measured(kept), *peers()]
    README.write_text(f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{after}", "utf-8")


def others(kept: dict[str, Any]) -> list[str]:
    """Return the figures that do not fit a column."""
    found: list[str] = []
    for name, record in kept.items():
        if "ceiling_share" in record and name in GROUPS["train"]:
            found.append(
                f"- {name}: the step's own matrix products, each alone and at its best, run at "
                f"{share(record['ceiling_share'])} of the peak; the step at "
                f"{share(record['share_of_gemm_peak'])}; {record['gflop_per_caption']:.3g} useful "
                "GFLOP a caption."
            )
    if (caption := kept.get("caption")) is not None:
        found.append(f"- caption: the CPU is busy {share(caption['cpu_busy'])} of the time.")
    if (store := kept.get("store")) is not None:
        found.append(
            f"- store: {store['rows_per_s']:,.0f} random rows a second of "
            f"{store['row_bytes'] / 1e3:.0f} kB; training waits for data "
            f"{100 * store['waiting_share']:.2g} % of the time."
        )
    if (start := kept.get("start")) is not None:
        low, high = start["seconds_spread"]
        found.append(
            f"- start: `regard caption one.jpg` takes {start['seconds']:.2g} s ({low:.2g} to "
            f"{high:.2g}) and {start['peak_rss_mb']:.0f} MB."
        )
    return found


def peers() -> list[str]:
    """Return the table of peers.json, which peers.py writes."""
    if not PEERS.exists():
        return []
    found = json.loads(PEERS.read_text("utf-8"))
    lines = [
        "",
        "| model | greedy, pictures/s | beam 3, pictures/s | memory, MB |",
        "|---|---|---|---|",
    ]
    for name, record in found.items():
        cells = (record["beam 1"], record["beam 3"], record["peak_rss_mb"])
        lines.append(f"| {name} | {' | '.join(number(c) for c in cells)} |")
    return lines


def measured(kept: dict[str, Any]) -> list[str]:
    """Return the date and the machine of the measurement."""
    last = max((r["measured"] for r in kept.values()), default="never")
    first = min((r["measured"] for r in kept.values()), default="never")
    about = next((r["machine"] for r in kept.values() if r["measured"] == last), {})
    described = ", ".join(f"{key} {value}" for key, value in about.items())
    return [f"Measured from {first} to {last}. {described}."]


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def spread(record: dict[str, Any]) -> str:
    if "captions_per_s_spread" in record:
        low, high = record["captions_per_s_spread"]
    else:
        low, high = (record["settings"]["batch"] / s for s in reversed(record["seconds_spread"]))
    return f"{number(low)} to {number(high)}"


if __name__ == "__main__":
    main()
