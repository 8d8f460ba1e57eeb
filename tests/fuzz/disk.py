"""Full and read-only disks, folders without permission, clocks that jump, files that disappear.

Every fault is combined with every writer (`tests.fuzz.writers`). Either the work succeeds, or one
line gives the reason, with the status of wrong settings; earlier data stay intact.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.fuzz.environments import (
    FAULTS,
    PRELOAD,
    ChildResult,
    in_child,
    is_root,
    open_folder,
    small_disk,
)
from tests.fuzz.missing_files import MISSING, clock_trials
from tests.fuzz.tally import Tally
from tests.fuzz.writers import WORKS, Work

_ROOMS = (0, 3000, 20_000, 60_000, 200_000, 500_000, 1_500_000)
"""Bytes that a full disk still takes."""
_HOW = {
    True: "a disk in memory",
    False: "limits on the size of files and rights on folders, for no disk could be mounted",
}
_LONGEST = 3000  # characters of a message


def run(scale: float, seed: int, folder: Path) -> Tally:
    """Try every fault on every writer; fewer below a scale of 0.1, more disk sizes above 1."""
    # In a process of its own, which has imported all and started no thread when it forks.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        return alone.submit(_run, scale, seed, folder).result()


def _run(scale: float, seed: int, folder: Path) -> Tally:
    os.environ.pop("XDG_CACHE_HOME", None)
    for name in PRELOAD:
        importlib.import_module(name)
    with open_folder(folder) as place:
        return _all(scale, seed, place)


def _all(scale: float, seed: int, folder: Path) -> Tally:
    tally, draw, how = Tally(), random.Random(f"disk {seed}"), ""
    for number, (work, fault, room) in enumerate(_trials(scale, draw)):
        prepared, place = folder / f"old-{WORKS.index(work)}", folder / f"{number}"
        if not prepared.exists():
            prepared.mkdir()
            made = in_child(_nothing, work.prepare, prepared, limit=600)
            if made.status:
                raise RuntimeError(f"{work.name} cannot be prepared: {made.words}")
        with small_disk(place) as mounted:
            how = _HOW[mounted]
            shutil.copytree(prepared, place, dirs_exist_ok=True)
            _try(work, fault, room, place, mounted, tally)
        shutil.rmtree(place, ignore_errors=True)
    missing = list(MISSING.items()) if scale >= 0.1 else list(MISSING.items())[:2]
    for name, act in (*missing, *clock_trials(scale, seed)):
        place = folder / name.replace(" ", "-")
        place.mkdir()
        judge(f"{name}", in_child(_nothing, act, place), "", tally, must_say=False)
    who = "a child that gave root up" if is_root() else "a user who is not root"
    tally.figures.append(f"full and read-only: {how}; denied: {who}")
    return tally


def _nothing() -> None:
    """Do nothing."""


def _trials(scale: float, draw: random.Random) -> Iterator[tuple[Work, str, int]]:
    if scale < 0.1:  # one work each
        yield WORKS[0], "full disk", 3000
        yield WORKS[1], "read-only disk", 0
        yield WORKS[1], "permission denied", 0
        return
    for work in WORKS:
        for fault in FAULTS:
            rooms = [0]
            if fault == "full disk":
                rooms = list(_ROOMS[:: work.every])
                rooms += [draw.randrange(2_000_000) for _ in range(round(7 * max(0, scale - 1)))]
            for room in rooms:
                yield work, fault, room


def _try(work: Work, fault: str, room: int, place: Path, mounted: bool, tally: Tally) -> None:
    name = f"{work.name}, {fault}" + (f", {room} bytes left" if fault == "full disk" else "")
    with FAULTS[fault](place, room, mounted) as first:
        ended = in_child(first, work.act, place)
    checked = in_child(_nothing, _checking(work), place)
    must_say = work.clashes and (fault != "full disk" or not room)
    judge(name, ended, checked.words.strip(), tally, must_say=must_say)


def _checking(work: Work) -> Callable[[Path], None]:
    def check(place: Path) -> None:
        sys.stderr.write(work.check(place))

    return check


def judge(name: str, ended: ChildResult, lost: str, tally: Tally, *, must_say: bool) -> None:
    """Count the outcome of a trial."""
    lines = [line for line in ended.words.splitlines() if line.strip()]
    if lost:
        tally.lose(f"{name}: {lost[-600:]}; it had said {ended.words[-200:]!r}")
    elif not ended.caught or "Traceback" in ended.words:
        tally.miss(f"{name}: {ended.words[-900:]}")
    elif ended.status not in (0, 1, 2) or (must_say and not ended.status):
        tally.miss(f"{name}: status {ended.status}, {ended.words[-300:]!r}")
    elif ended.status and not any(_is_clear(line) for line in lines):
        tally.miss(f"{name}: status {ended.status} without a clear line: {ended.words[-300:]!r}")
    else:
        tally.handle()


def _is_clear(line: str) -> bool:
    return line.startswith("regard: ") and 20 < len(line) < _LONGEST
