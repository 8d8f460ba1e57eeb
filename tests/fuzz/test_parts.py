"""The command of the fault injection, and its parts on a few items."""

from __future__ import annotations

import random
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fuzz import __main__ as command
from tests.fuzz import disk, documents, media
from tests.fuzz.document_samples import damaged_json, damaged_toml
from tests.fuzz.environments import ChildResult
from tests.fuzz.media import content_of
from tests.fuzz.media_samples import write_media_samples
from tests.fuzz.mutators import KINDS, damaged_of_kind
from tests.fuzz.tally import Tally

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("happens", "status"),
    [("handle", 0), ("lose", 1), ("miss", 1)],
    ids=["handled", "lost", "missed"],
)
def test_a_loss_fails_the_command_and_its_last_line_counts(
    happens: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(scale: float, seed: int, folder: Path) -> Tally:
        tally = Tally()
        tally.handle()
        getattr(tally, happens)(*([] if happens == "handle" else ["what it was"]))
        return tally

    monkeypatch.setattr(command.importlib, "import_module", lambda name: SimpleNamespace(run=run))
    assert command.main(["media", "disk"]) == status
    said = capsys.readouterr().out.splitlines()
    counts = {"handle": "4 handled, 0 lost, 0 uncaught", "lose": "2 handled, 2 lost, 0 uncaught",
              "miss": "2 handled, 0 lost, 2 uncaught"}[happens]  # fmt: skip
    assert said[-1] == f"4 tried, {counts}"
    assert ("what it was" in "\n".join(said)) == bool(status)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, which also keeps failing items."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_damaged_media_are_handled(here: Path) -> None:
    tally = media.run(0.012, 7, here)
    assert (tally.tried, tally.lost, tally.uncaught) == (60, 0, 0), tally.troubles
    assert any("captioned" in figure for figure in tally.figures)


def test_damaged_documents_are_handled(here: Path) -> None:
    tally = documents.run(0.04, 7, here)
    assert (tally.tried, tally.lost, tally.uncaught) == (40, 0, 0), tally.troubles


def test_disks_and_missing_files_are_handled(here: Path) -> None:
    tally = disk.run(0.01, 7, here)
    assert tally.tried == tally.handled == 6, tally.troubles


def test_items_come_from_the_seed_and_are_damaged(tmp_path: Path) -> None:
    write_media_samples(tmp_path / "seeds")
    whole = {path.read_bytes() for path in (tmp_path / "seeds").iterdir()}
    items = [content_of(tmp_path, 0, number) for number in range(90)]
    assert items == [content_of(tmp_path, 0, number) for number in range(90)]
    assert items != [content_of(tmp_path, 1, number) for number in range(90)]
    assert sum(content in whole for _, content in items) < 9
    assert {name.split("-")[0] for name, _ in items} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_what_knows_a_format_damages_every_seed_of_it(kind: str, tmp_path: Path) -> None:
    write_media_samples(tmp_path)
    seeds = [path.read_bytes() for path in tmp_path.glob(f"{kind}-*")]
    draw = random.Random(0)
    made = [damaged_of_kind(kind, seed, seeds[0], draw) for seed in seeds for _ in range(30)]
    assert len(set(made)) > len(made) / 2


def test_damaged_json_and_toml_differ(tmp_path: Path) -> None:
    draw = random.Random(0)
    text = '{"a": [1, 2.5, "x"], "b": {"c": null}}'
    assert len({damaged_json(text, tmp_path, draw) for _ in range(60)}) > 30
    assert len({damaged_toml("[a]\nb = 1\nc = [2]", tmp_path, draw) for _ in range(60)}) > 30


@pytest.mark.parametrize(
    ("ended", "lost", "counts"),
    [
        (ChildResult(2, "regard: the disk is full; free some space.\n", True), "", (1, 0, 0)),
        (ChildResult(0, "", True), "", (1, 0, 0)),
        (ChildResult(0, "", True), "row 1 is gone", (0, 1, 0)),
        (ChildResult(2, "it failed\n", True), "", (0, 0, 1)),
        (ChildResult(1, "Traceback (most recent call last)\n", False), "", (0, 0, 1)),
        (ChildResult(-11, "it died of SIGSEGV", False), "", (0, 0, 1)),
        (ChildResult(7, "regard: the disk is full; free some space.\n", True), "", (0, 0, 1)),
    ],
)
def test_what_a_trial_on_a_disk_counts_as(
    ended: ChildResult, lost: str, counts: tuple[int, int, int]
) -> None:
    tally = Tally()
    disk.judge("trial", ended, lost, tally, must_say=False)
    assert (tally.handled, tally.lost, tally.uncaught) == counts
    assert all(re.match("(lost|uncaught): trial", line) for line in tally.troubles)


def test_silence_where_an_error_was_due_is_missed() -> None:
    tally = Tally()
    disk.judge("trial", ChildResult(0, "", True), "", tally, must_say=True)
    assert tally.uncaught == 1
