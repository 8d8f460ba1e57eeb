"""`regard bulk`: its lines, its JSON, its statuses, its progress."""

from __future__ import annotations

import io
import json
from array import array
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import regard.cli.progress
from regard.bulk import BulkRun, FinishedUnit
from regard.cli.main import main
from regard.cli.progress import BulkProgress
from tests.helpers import bulk_jobs

Command = Callable[..., tuple[int, str, str]]
OPTIONS = ["--engine", "local", "--format", "jsonl", "--unit", "4", "--batch-size", "2"]
OPTIONS += ["--beam", "1", "--max-length", "3"]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["regard", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        written = capsys.readouterr()
        return int(stopped.value.code or 0), written.out, written.err

    return command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return bulk_jobs.pictures(tmp_path / "in", 6, bad=(2,))


def test_it_captions_says_what_failed_and_goes_on(
    command: Command, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    status, said, errors = command("bulk", folder, out, *OPTIONS)
    assert (status, errors) == (
        1, "regard: 1 of 6 items failed; `error` in their rows says why.\n"
    )  # fmt: skip
    assert said == f"{out}: 6 rows, 6 of them now, 1 of items that failed\n"
    (out / "part-000001.jsonl").unlink()
    status, said, _ = command("bulk", folder, out, *OPTIONS, "--json")
    assert status == 1
    counts = json.loads(said)
    assert counts.pop("seconds") > 0
    assert counts == {
        "out": str(out), "rows": 6, "failed": 1, "units": 2, "units_before": 1, "rows_now": 2
    }  # fmt: skip
    assert len(bulk_jobs.rows(out)) == 6


def test_all_went_well_is_status_0(command: Command, folder: Path, tmp_path: Path) -> None:
    (folder / "002.jpg").unlink()
    status, said, errors = command("bulk", folder, tmp_path / "out", *OPTIONS, "--traces")
    assert (status, errors) == (0, "")
    assert "5 rows, 5 of them now, 0 of items" in said
    assert "alpha" in bulk_jobs.rows(tmp_path / "out")[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bulk", "SOURCE"], "Missing argument"),
        (["bulk", "SOURCE", "OUT", "--engine", "rey"], "unknown engine 'rey'"),
        (["bulk", "SOURCE", "OUT", "--format", "xml"], "the format is 'xml'"),
        (["bulk", "SOURCE", "OUT", "--workers", "0"], "Invalid value for '--workers'"),
        (["bulk", "nowhere", "OUT"], "nowhere is not there"),
        (["bulk", "SOURCE", "OUT", "--model", "nobody"], "no model 'nobody'"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    command: Command, folder: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    places = {"SOURCE": str(folder), "OUT": str(tmp_path / "out")}
    status, out, err = command(*(places.get(a, a) for a in arguments))
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert says in err


def run_of(items: int | None, units: int, there: tuple[int, int, int] = (0, 0, 0)) -> BulkRun:
    plan: Any = SimpleNamespace(items=items, units=units)
    return BulkRun(plan, array("Q"), there, again=False)


def test_progress_has_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(regard.cli.progress.time, "monotonic", lambda: float(next(clock)))
    progress = BulkProgress(run_of(1000, 10, (2, 200, 3)))
    assert progress.line() == "200 of 1,000, 3 failed, 0.0/s, 0:00:00 left"
    monkeypatch.setattr(regard.cli.progress.time, "monotonic", lambda: 20.0)
    list(progress.watch([FinishedUnit(2, 100, 1), FinishedUnit(3, 100, 0)]))
    assert progress.line() == "400 of 1,000, 4 failed, 10.0/s, 0:01:00 left"


def test_progress_of_tars_goes_by_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regard.cli.progress.time, "monotonic", lambda: 0.0)
    progress = BulkProgress(run_of(None, 4))
    monkeypatch.setattr(regard.cli.progress.time, "monotonic", lambda: 3600.0)
    list(progress.watch([FinishedUnit(0, 7200, 0)]))
    assert progress.line() == "7,200 items, unit 1 of 4, 2.0/s, 3:00:00 left"
    progress = BulkProgress(run_of(None, 4, (2, 10, 0)))
    monkeypatch.setattr(regard.cli.progress.time, "monotonic", lambda: 3700.0)
    list(progress.watch([FinishedUnit(2, 10, 0)]))
    assert "0:01:40 left" in progress.line()


def test_without_a_terminal_there_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(regard.cli.progress.time, "monotonic", lambda: now)
    progress = BulkProgress(run_of(1000, 10))
    for number, _ in enumerate(progress.watch(FinishedUnit(n, 100, 0) for n in range(10))):
        now = 10.0 * (number + 1)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "regard: 400 of 1,000, 13.3/s, 0:00:45 left",
        "regard: 700 of 1,000, 11.7/s, 0:00:26 left",
        "regard: 1,000 of 1,000, 11.1/s, 0:00:00 left",
    ]


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100)
    monkeypatch.setattr(regard.cli.progress, "error_console", lambda: console)
    progress = BulkProgress(run_of(1000, 10))
    for _ in progress.watch(FinishedUnit(n, 100, 0) for n in range(3)):
        pass
    assert "300 of 1,000" in shown.getvalue()
