"""Bulk captioning with killed processes: every item must still get exactly one correct row.

First the local engine: the whole process is killed at random moments and restarted until it is
done. Then Ray: on a cluster of two nodes a worker is killed at a random moment of every run. The
shards must equal those of an undisturbed run, byte for byte.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from regard.bulk import Job, open_run
from regard.bulk import run as run_job
from tests.fuzz.tally import Tally

_ITEMS = 160
_BAD = 7  # one item in this many is not a picture
_UNIT, _BATCH = 4, 2
_OPTIONS = {"beam": 1, "max_length": 3}
_KILLS = 3  # of one local job at most, before it may end
_LOCAL_TRIES = 6
_CLUSTER_TRIES = 10
_PATIENCE = 240.0  # seconds for a run that takes a few
_WORKER = "_UnitWorker"  # part of the titles of Ray's captioning processes


def run(scale: float, seed: int, folder: Path) -> Tally:
    """Kill bulk jobs; see `tests.fuzz.__main__`."""
    source = make_source(folder / "in", _ITEMS, seed)
    whole = folder / "whole"
    began = time.monotonic()
    _command(source, whole).wait(_PATIENCE)
    span = time.monotonic() - began
    tally = Tally()
    if faults := wrong_rows(source, whole):
        tally.miss(f"an undisturbed local run: {faults}")
        return tally
    chance = random.Random(seed)
    for number in range(max(1, round(_LOCAL_TRIES * scale))):
        kill_local(source, folder / f"local-{number}", whole, span, chance, tally)
    tally += kill_workers(source, folder, whole, max(1, round(_CLUSTER_TRIES * scale)), chance)
    return tally


def make_source(folder: Path, items: int, seed: int) -> Path:
    """Write small pictures, and files that are not pictures."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    for number in range(items):
        path = folder / f"{number:05d}.jpg"
        if number % _BAD == _BAD - 1:
            path.write_bytes(draw.bytes(40))
        else:
            coarse = draw.integers(0, 255, (3, 4, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((48, 32)).save(path, quality=80)
    return folder


def job_of(source: Path, out: Path) -> Job:
    """Return the job to disturb."""
    return Job(str(source), str(out), form="jsonl", unit=_UNIT, batch_size=_BATCH,
               options={**_OPTIONS, "context": "expected"})  # fmt: skip


def _command(source: Path, out: Path) -> subprocess.Popen[bytes]:
    arguments = ["bulk", source, out, "--engine", "local", "--format", "jsonl"]
    arguments += ["--unit", _UNIT, "--batch-size", _BATCH]
    arguments += ["--beam", _OPTIONS["beam"], "--max-length", _OPTIONS["max_length"]]
    command = [sys.executable, "-m", "regard", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_local(
    source: Path, out: Path, whole: Path, span: float, chance: random.Random, tally: Tally
) -> None:
    """Kill the local engine several times, let it finish, and check its rows."""
    kills = chance.randint(1, _KILLS)
    for _ in range(kills):
        process = _command(source, out)
        with suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.0, span))
        process.kill()
        process.wait()
    process = _command(source, out)
    try:
        status = process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        tally.miss(f"{out.name}: resumed after {kills} kills it did not end")
        return
    _judge(f"{out.name}: {kills} kills", status, out, whole, tally)


def kill_workers(
    source: Path, folder: Path, whole: Path, tries: int, chance: random.Random
) -> Tally:
    """Run on a cluster of two nodes, and kill a worker at a random moment of every run."""
    tally = Tally()
    with _cluster() as (address, raylets):
        span = _disturbed(source, folder / "ray-whole", address, raylets, None)[1]
        _judge("ray undisturbed", 1, folder / "ray-whole", whole, tally)
        killed = attempts = 0
        while killed < tries and attempts < 3 * tries:
            attempts += 1
            out = folder / f"ray-{attempts}"
            moment = chance.uniform(0.0, 0.9 * span)
            what = f"{out.name}: a worker killed after {moment:.1f} s of about {span:.1f}"
            try:
                hit, _ = _disturbed(source, out, address, raylets, moment)
            except Exception as error:  # any exception that was not caught
                tally.miss(f"{what}: {type(error).__name__}: {error}")
                continue
            if hit:
                killed += 1
                _judge(what, 1, out, whole, tally)
    if killed < tries:
        tally.miss(f"only {killed} of {tries} workers could be killed before their run ended")
    tally.figures.append(f"{killed} runs on two nodes, in each a worker killed as it worked")
    return tally


def _disturbed(
    source: Path, out: Path, address: str, raylets: set[int], moment: float | None
) -> tuple[bool, float]:
    """Run the job on a cluster and kill a worker a given time after the first one starts.

    Returns:
        Whether one was killed before the run ended, and seconds from the first worker to the end.
    """
    todo = open_run(job_of(source, out))
    over, state = threading.Event(), {"began": 0.0, "killed": 0}

    def killer() -> None:
        while not (found := _workers(raylets)) and not over.wait(0.05):
            pass
        state["began"] = time.monotonic()
        if moment is None or over.wait(moment):
            return
        found = sorted(_workers(raylets))
        if found and not over.is_set():
            os.kill(found[int(moment * 1000) % len(found)], signal.SIGKILL)
            state["killed"] = 1

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        for _ in run_job(todo, engine="ray", address=address):
            pass
    finally:
        over.set()
        thread.join()
    return bool(state["killed"]), time.monotonic() - state["began"]


def _workers(raylets: set[int]) -> set[int]:
    """Return the captioning processes of a cluster: children of its raylets, by their titles."""
    found: set[int] = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            if _WORKER in (folder / "cmdline").read_text("utf-8", "replace"):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent in raylets:
                    found.add(int(folder.name))
    return found


@contextmanager
def _cluster() -> Generator[tuple[str, set[int]]]:
    """Start two nodes of one core each on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 2**27}
    cluster: Any = _in_time(lambda: Cluster(initialize_head=True, head_node_args=node))
    try:
        _in_time(lambda: cluster.add_node(**node))
        raylets = {
            found.process.pid
            for node in cluster.list_all_nodes()
            for found in node.all_processes["raylet"]
        }
        yield cluster.address, raylets
    finally:
        ray.shutdown()
        cluster.shutdown()


def _in_time(start: Callable[[], Any]) -> Any:
    """Retry twice if a busy machine does not start one of Ray's nodes in time."""
    for left in (2, 1, 0):
        try:
            return start()
        except Exception:  # Ray has no narrower one for it
            if not left:
                raise
    raise AssertionError("the last try returns or raises")


def _judge(what: str, status: int, out: Path, whole: Path, tally: Tally) -> None:
    """Count a run as handled where its status and shards are those of the undisturbed one."""
    wanted = {p.name: p.read_bytes() for p in whole.glob("part-*")}
    found = {p.name: p.read_bytes() for p in out.glob("part-*")}
    other = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
    if status != 1:  # some items are not pictures
        tally.miss(f"{what}: status {status}")
    elif other:
        tally.lose(f"{what}: {len(other)} shards differ, {other[0]} the first")
    else:
        tally.handle()


def wrong_rows(source: Path, out: Path) -> str:
    """Return an error if rows are missing or duplicated, or the wrong items failed."""
    rows = [
        json.loads(line)
        for path in sorted(out.glob("part-*"))
        for line in path.read_text("utf-8").splitlines()
    ]
    files = sorted(map(str, source.iterdir()))
    if [row["file"] for row in rows] != files:
        return f"{len(rows)} rows for {len(files)} items"
    wrong = [r["file"] for n, r in enumerate(rows) if ("error" in r) != (n % _BAD == _BAD - 1)]
    return f"{len(wrong)} items failed or not as they should, {wrong[0]} first" if wrong else ""
