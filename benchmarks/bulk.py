"""Measurements of `regard bulk` for docs/scale.md; prints one JSON object per measurement.

    python -m benchmarks.bulk overhead ../shared/data/flickr8k/images   # beside the plain loop
    python -m benchmarks.bulk memory --model tiny --items 10000 50000 100000
    python -m benchmarks.bulk storage ../shared/data/flickr8k/images

Every engine runs in a process of its own. CPU seconds are those of all processes that it started,
Ray's own among them. On a shared machine they are more reliable than wall time, and `--together`
runs all engines at the same time.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import tarfile
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from regard.util.child_python import python_command, python_environment

MARK = "REGARD_BULK_BENCHMARK"
UNIT = 256  # default number of items
TICK = os.sysconf("SC_CLK_TCK")
PLAIN = """
import sys
import regard
from regard.media.find import find_files
paths = list(find_files([sys.argv[1]]))[: int(sys.argv[2])]
model = regard.load(sys.argv[3] or None).accelerated(len(paths))
print(sum(1 for _ in model.caption_many(paths)))
"""


class Sampler:
    """Samples all processes that inherit a mark: their CPU seconds and total memory."""

    def __init__(self, mark: str) -> None:
        self._mark = f"{MARK}={mark}".encode()
        self._seconds: dict[int, float] = {}
        self._ours: set[int] = set()
        self.history: list[tuple[float, float]] = []  # when, and the MB of all
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def cpu(self) -> float:
        return sum(self._seconds.values())

    def _follow(self) -> None:
        while not self._over.wait(0.2):
            self.sample()

    def sample(self) -> None:
        memory = 0.0
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                pid = int(folder.name)
                if pid not in self._ours:
                    if self._mark not in (folder / "environ").read_bytes():
                        continue
                    self._ours.add(pid)
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                self._seconds[pid] = (int(fields[11]) + int(fields[12])) / TICK
                memory += _private(folder)
            except (OSError, ValueError, IndexError):
                continue
        self.history.append((time.time(), memory))


def _private(folder: Path) -> float:
    """Return a process's resident memory without shared pages, in MB."""
    pages = (folder / "statm").read_text().split()
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE") / 1e6


def timed(command: list[str]) -> tuple[dict[str, Any], list[tuple[float, float]]]:
    """Run a command; return its wall and CPU seconds, its peak memory, and that over time."""
    mark = str(random.getrandbits(60))
    began = time.monotonic()
    with Sampler(mark) as sampler:
        done = subprocess.run(
            command,
            env=python_environment() | {MARK: mark},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    found = {
        "seconds": round(time.monotonic() - began, 2),
        "cpu_seconds": round(sampler.cpu, 2),
        "peak_mb": round(max(memory for _, memory in sampler.history)),
        "said": done.stdout.strip().splitlines()[-1],
    }
    return found, sampler.history


def overhead(source: Path, items: int, model: str, engines: list[str], together: bool) -> None:
    """Compare the engines with the loop over `Captioner.caption_many` that writes nothing."""
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(source.iterdir())[:items]
        names = Path(folder, "list.txt")
        names.write_text("".join(f"{p.resolve()}\n" for p in paths))
        commands = {"plain": python_command("-c", PLAIN, str(source), str(items), model)}
        for engine in engines:
            commands[engine] = python_command(
                "-m", "regard", "bulk", str(names), f"{folder}/{engine}",
                "--engine", engine, "--address", "local", "--json",
                *(["--model", model] if model else []),
            )  # fmt: skip
        with ThreadPoolExecutor(len(commands) if together else 1) as pool:
            found = dict(zip(commands, pool.map(timed, commands.values()), strict=True))
        plain, _ = found["plain"]
        for name, (figures, _) in found.items():
            ratios = {k: round(figures[k] / plain[k], 4) for k in ("seconds", "cpu_seconds")}
            print(json.dumps({"what": name, **figures, "of_plain": ratios}), flush=True)


def memory(model: str, marks: list[int], engine: str) -> None:
    """Caption a tar of different small pictures; report the memory of all processes on the way."""
    with tempfile.TemporaryDirectory() as folder:
        tar, out = Path(folder, "shard.tar"), Path(folder, "out")
        write_tar(tar, max(marks))
        command = python_command("-m", "regard", "bulk", str(tar), str(out), "--engine", engine)
        command += ["--beam", "1", "--max-length", "4", "--json", "--workers", "2"]
        found, history = timed([*command, *(["--model", model] if model else [])])
        written = sorted(p.stat().st_mtime for p in out.glob("part-*"))
        for mark in sorted(marks):
            then = written[min(len(written), -(-mark // UNIT)) - 1]
            until = [memory for when, memory in history if when <= then]
            print(json.dumps({
                "what": f"after {mark} items", "mb": round(until[-1]),
                "peak_mb": round(max(until)),
            }))  # fmt: skip
        print(json.dumps({"what": f"all of {max(marks)} items, {engine}", **found}), flush=True)


def write_tar(path: Path, count: int) -> None:
    """Write a WebDataset shard of small pictures."""
    draw = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            buffer = io.BytesIO()
            Image.fromarray(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(buffer, "JPEG")
            info = tarfile.TarInfo(f"{number:07d}.jpg")
            info.size = buffer.tell()
            buffer.seek(0)
            tar.addfile(info, buffer)


def storage(source: Path, items: int, model: str) -> None:
    """Report bytes per row in every form, and per picture read."""
    paths = sorted(source.iterdir())[:items]
    read = sum(p.stat().st_size for p in paths) / len(paths)
    print(json.dumps({"what": "bytes of a picture", "mean": round(read)}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder, "list.txt")
        names.write_text("".join(f"{p.resolve()}\n" for p in paths))
        for form in ("parquet", "jsonl"):
            for traces in (False, True):
                out = Path(folder, f"{form}-{traces}")
                command = python_command("-m", "regard", "bulk", str(names), str(out))
                command += ["--engine", "local", "--format", form, "--unit", "1024"]
                command += ["--traces"] * traces + (["--model", model] if model else [])
                subprocess.run(command, env=python_environment(), check=False, capture_output=True)
                size = sum(p.stat().st_size for p in out.glob("part-*")) / len(paths)
                what = f"bytes of a row, {form}{', traces' * traces}"
                print(json.dumps({"what": what, "mean": round(size)}), flush=True)


def main() -> None:
    """Run the measurement that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("overhead", "memory", "storage"))
    parser.add_argument("source", type=Path, nargs="?")
    parser.add_argument("--model", default="")
    parser.add_argument("--items", type=int, nargs="+", default=[7000])
    parser.add_argument("--engines", nargs="+", default=["local", "ray"])
    parser.add_argument("--together", action="store_true", help="at once, not one by one")
    given = parser.parse_args()
    if given.what == "overhead":
        overhead(given.source, given.items[0], given.model, given.engines, given.together)
    elif given.what == "memory":
        memory(given.model, given.items, given.engines[0])
    else:
        storage(given.source, given.items[0], given.model)


if __name__ == "__main__":
    main()
