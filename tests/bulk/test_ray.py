"""Bulk work on Ray: the rows of the local engine, whatever happens to the workers."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from regard.bulk import open_run
from regard.bulk.engines import _UnitWorker, _unwrapped
from regard.errors import ConfigError
from tests.fuzz import bulk
from tests.helpers import bulk_jobs
from tests.helpers.bulk_jobs import do, job, shards


def on_ray(source: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    arguments = ["bulk", source, out, "--engine", "ray", "--address", "local", "--workers", "1"]
    arguments += ["--format", "jsonl", "--unit", "4", "--batch-size", "2", "--beam", "1"]
    return subprocess.run(
        [sys.executable, "-m", "regard", *map(str, arguments), "--max-length", "3", *options],
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip


@pytest.mark.slow
def test_a_cluster_of_its_own_writes_the_rows_of_the_local_engine(tmp_path: Path) -> None:
    source = bulk_jobs.pictures(tmp_path / "in", 10, bad=(2,))
    options = bulk_jobs.QUICK | {"context": "expected"}
    named = {"model": "flickr8k-soft", "options": options}
    do(job(source, tmp_path / "local", **named))
    do(job(source, tmp_path / "out", **named), units=1)
    found = on_ray(source, tmp_path / "out", "--json", "--model", "flickr8k-soft")
    assert found.returncode == 1, found.stderr
    counts = json.loads(found.stdout)
    assert (counts["rows"], counts["failed"], counts["rows_now"]) == (10, 1, 6)
    # On a slow machine there are lines of progress, and Ray says that it will say nothing.
    ours = [line for line in found.stderr.splitlines() if not line.startswith("[")]
    assert ours[-1] == "regard: 1 of 10 items failed; `error` in their rows says why."
    assert all(line.startswith("regard: ") for line in ours)
    assert shards(tmp_path / "out") == shards(tmp_path / "local")


@pytest.mark.slow
def test_a_unit_that_kills_worker_after_worker_is_written_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = bulk_jobs.pictures(tmp_path / "in", 6, bad=(1,))
    todo = open_run(job(source, tmp_path / "out"))
    starts = [todo.plan.offsets[n : n + 2] for n in range(2)]
    batches = [
        {"unit": np.array([[n]]), "start": np.array([[a]]), "stop": np.array([[b]])}
        for n, (a, b) in enumerate(starts)
    ]
    after_a_death = SimpleNamespace(was_current_actor_reconstructed=True)
    monkeypatch.setattr("ray.get_runtime_context", lambda: after_a_death)
    monkeypatch.setattr("regard.bulk.worker.Worker.run", lambda *_: (_ for _ in [_die()]))
    for _ in range(3):
        with pytest.raises(SystemError, match="killed"):
            list(_UnitWorker(todo.plan.job, todo.plan.models, False)(batches[0]))
    monkeypatch.undo()
    monkeypatch.setattr("ray.get_runtime_context", lambda: after_a_death)
    worker = _UnitWorker(todo.plan.job, todo.plan.models, False)
    assert [int(d["failed"][0]) for b in batches for d in worker(b)] == [4, 0]
    found = bulk_jobs.rows(tmp_path / "out")
    assert "killed 3 workers or more" in found[0]["error"]
    assert [bool(r.get("caption")) for r in found] == [False] * 4 + [True] * 2
    assert list((tmp_path / "out").glob("_tried-*"))
    (tmp_path / "out" / "part-000001.jsonl").unlink()
    do(job(source, tmp_path / "out"))
    assert not list((tmp_path / "out").glob("_tried-*"))


def _die() -> Any:
    raise SystemError("killed")


def test_a_task_of_several_units_does_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray plans so many tasks at most; a row of lists comes as an array, or as an object."""
    source = bulk_jobs.pictures(tmp_path / "in", 6, bad=(1,))
    todo = open_run(job(source, tmp_path / "out"))
    first_life = SimpleNamespace(was_current_actor_reconstructed=False)
    monkeypatch.setattr("ray.get_runtime_context", lambda: first_life)
    starts, stops = list(todo.plan.offsets[:2]), list(todo.plan.offsets[1:3])
    worker = _UnitWorker(todo.plan.job, todo.plan.models, True)
    columns = {"unit": [0, 1], "start": starts, "stop": stops}
    flat = {name: np.array([values]) for name, values in columns.items()}
    ragged = {name: np.empty(1, object) for name in columns}
    for name, values in columns.items():
        ragged[name][0] = np.array(values)
    for batch in (flat, ragged):
        assert [int(done["rows"][0]) for done in worker(batch)] == [4, 2]


def test_what_a_worker_raised_is_what_is_said() -> None:
    inner = ConfigError("the model here is another one")
    outer: Any = RuntimeError("a task failed")
    outer.cause = RuntimeError("in a worker")
    outer.cause.__cause__ = inner
    assert _unwrapped(outer) is inner
    lost = _unwrapped(RuntimeError("trace\nThe actor died"))
    assert str(lost).startswith("Ray could not continue: The actor died.")


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_ten_workers_killed_on_two_nodes_change_no_row(tmp_path: Path) -> None:
    source = bulk.make_source(tmp_path / "in", 160, seed=1)
    do(bulk.job_of(source, tmp_path / "whole"))
    assert bulk.wrong_rows(source, tmp_path / "whole") == ""
    tally = bulk.kill_workers(source, tmp_path, tmp_path / "whole", 10, random.Random(1))
    assert (tally.handled, tally.lost, tally.uncaught) == (11, 0, 0), tally.troubles


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_killed_process_goes_on_to_the_same_rows(tmp_path: Path) -> None:
    source = bulk.make_source(tmp_path / "in", 160, seed=2)
    do(bulk.job_of(source, tmp_path / "whole"))
    tally = bulk.Tally()
    for number in range(5):
        out = tmp_path / f"out-{number}"
        bulk.kill_local(source, out, tmp_path / "whole", 4.0, random.Random(number), tally)
    assert (tally.handled, tally.lost, tally.uncaught) == (5, 0, 0), tally.troubles
