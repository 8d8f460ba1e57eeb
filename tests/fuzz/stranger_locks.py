"""Two commands at once in one folder: exactly one works, and locks of the dead are taken over."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import fsspec

from regard.bulk import open_run, run
from regard.bulk.filesystem import Places, _LockPlace, locked_place
from regard.data.dataset import CaptionDataset, CaptionedItem
from regard.data.shards import _LockFolder, write_shards
from regard.data.store import AnnotationStore, StoreKey
from regard.errors import ConfigError, RegardError
from regard.util import folder_lock
from regard.util.atomic import replaced_whole
from regard.util.folder_lock import LOCK, LockOwner, beside, locked, locked_remotely
from tests.helpers.bulk_jobs import job, pictures, rows


def _refused(act: Callable[[], object]) -> str:
    """Return the error of an act that must fail."""
    try:
        act()
    except RegardError as error:
        return str(error)
    raise AssertionError("it should have been refused")


def _dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        return child.pid


def two_bulk_jobs(folder: Path) -> None:
    """Started together, planned together, of other settings: the rows are of one job."""
    source, out = pictures(folder / "in", 4), folder / "out"
    one, other = open_run(job(source, out, unit=2)), open_run(job(source, out, unit=2))
    working = run(one, engine="local")
    next(working)
    for act in (
        lambda: open_run(job(source, out)),
        lambda: open_run(job(source, out, form="parquet")),
        lambda: list(run(other, engine="local")),
    ):
        said = _refused(act)
        assert f"regard bulk (process {os.getpid()} on" in said, said
    list(working)
    assert len(rows(out)) == 4
    assert not (out / LOCK).exists()
    planned = folder / "planned"
    first = open_run(job(source, planned, unit=2))
    later = open_run(job(source, planned, unit=1))  # no rows depend on the first plan yet
    assert "another job" in _refused(lambda: list(run(first, engine="local")))
    list(run(later, engine="local"))
    assert len(rows(planned)) == 4


def folders_of_every_command(folder: Path) -> None:
    """A run, a store, an export, a checkpoint, shards: while one is filled, no other process is."""
    store = AnnotationStore(folder / "store", StoreKey("e", (3,), 2))
    again = AnnotationStore(folder / "store", StoreKey("e", (3,), 2))

    def fill(place: Path) -> None:
        with replaced_whole(place, marker="config.json") as new:
            (new / "config.json").touch()

    fill(folder / "model")
    data = CaptionDataset((CaptionedItem(str(Path(__file__)), ("a",), "", "x", "d"),), "s")
    model = replaced_whole(folder / "model", marker="config.json")
    with store.locked(), locked(folder / "shards", "regard data shard"), model as new:
        (new / "config.json").touch()
        for act in (
            lambda: fill(folder / "model"),
            lambda: again.locked().__enter__(),
            lambda: write_shards(data, str(folder / "shards")),
        ):
            assert "is in use by" in _refused(act)
    fill(folder / "model")
    assert sorted(p.name for p in folder.iterdir()) == ["model", "store"]


def two_trainings(folder: Path) -> None:
    """A run is refused before anything is read or written, and so is one that is resumed."""
    from regard.config import Recipe
    from regard.training import train

    with locked(folder / "run", "regard train"):
        (folder / "run" / "last").mkdir()
        for resume in (False, True):
            said = _refused(lambda r=resume: train(Recipe(), folder / "run", resume=r))
            assert "is in use by regard train" in said, said
    (folder / "file").touch()
    assert "cannot be written" in _refused(lambda: train(Recipe(), folder / "file" / "run"))


def locks_of_the_dead(folder: Path) -> None:
    """Taken over with a line: a killed process, one that wrote rubbish, an old one elsewhere."""
    for number, content in enumerate((
        LockOwner("regard bulk", "h", 7, time.time() - 7300, 0).to_bytes(), b"\xff{", b"[1]",
        b"[" * 4000, b'{"command": 1}',
    )):  # fmt: skip
        said: list[str] = []
        (folder / LOCK).write_bytes(content)
        with locked(folder, "regard bulk", said.append):
            pass
        assert len(said) == 1, said
        assert "took over the lock of" in said[0]
        assert number or "regard bulk (process 7 on h, for 2 hours)" in said[0], said
        assert not (folder / LOCK).exists()


def odd_things_in_place_of_a_lock(folder: Path) -> None:
    """Links, pipes and folders are neither followed nor waited for, nor deleted."""
    (folder / "target").write_text("kept")
    for number, put in enumerate((
        lambda p: p.symlink_to(folder / "target"), os.mkfifo, Path.mkdir,
        lambda p: p.symlink_to(folder / "nowhere"),
    )):  # fmt: skip
        place = folder / str(number)
        place.mkdir()
        put(place / LOCK)
        assert "not a file" in _refused(lambda p=place: locked(p, "x").__enter__())
    assert (folder / "target").read_text() == "kept"
    assert not (folder / "nowhere").exists()


class _Memory:
    """A folder on a remote file system, with what happens between two calls of one process."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.before_names: Callable[[], None] = lambda: None

    def names(self) -> list[str]:
        self.before_names()
        return list(self.files)

    def read(self, name: str) -> bytes:
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.files[name]

    def write(self, name: str, content: bytes) -> None:
        self.files[name] = content

    def delete(self, name: str) -> None:
        self.files.pop(name, None)


def locks_elsewhere(folder: Path) -> None:
    """Held, claimed, stale, lost: on stores that know no exclusive writing."""
    files, here = _Memory(), LockOwner.of("regard bulk")
    with locked_remotely(files, "s3://x", "regard bulk"):
        assert "s3://x is in use by regard bulk" in _refused(
            lambda: locked_remotely(files, "s3://x", "y").__enter__()
        )
        assert len(files.files) == 1
    assert not files.files
    for owner in (
        replace(here, pid=_dead_pid()),
        replace(here, host="elsewhere", seen=time.time() - 1000),
    ):
        for suffix in (".held", ".claim"):
            said: list[str] = []
            files.files = {"_lock-0" + suffix: owner.to_bytes(), "_lock-1" + suffix: b"{"}
            with locked_remotely(files, "s3://x", "y", said.append):
                assert len(files.files) == 1
            assert len(said) == 2, said
    elsewhere = replace(here, host="elsewhere")
    files.files = {"_lock-0.claim": elsewhere.to_bytes()}  # it is ahead
    assert "in use" in _refused(lambda: locked_remotely(files, "s3://x", "y").__enter__())
    files.files = {"_lock-z.claim": elsewhere.to_bytes()}  # gives way, or has listed before
    for after in ("_lock-z.held", ""):
        files.files = {"_lock-z.claim": elsewhere.to_bytes()}

        def act(_: float, after: str = after) -> None:
            files.files.pop("_lock-z.claim")
            files.files |= {after: elsewhere.to_bytes()} if after else {}

        with mock.patch.object(folder_lock.time, "sleep", act), ExitStack() as stack:
            try:
                stack.enter_context(locked_remotely(files, "s3://x", "y"))
            except ConfigError:
                assert after
            else:
                assert not after
    files.files = {}
    beats = mock.patch.object(folder_lock, "_BEAT", 0.001)
    with beats, suppress(folder_lock.LockLost), locked_remotely(files, "s3://x", "y") as check:
        (held,) = files.files
        first = files.files[held]
        while files.files[held] == first:
            time.sleep(0.001)
        files.files.clear()
        while True:
            check()
            time.sleep(0.001)


def _count_of_winners(way: Callable[[], Any]) -> int:
    """Return how many of eight threads that start together get a lock."""
    inside: list[int] = []
    done, gate = threading.Event(), threading.Barrier(8)

    def work() -> None:
        gate.wait()
        with suppress(ConfigError), way():
            inside.append(1)
            done.wait(20)

    threads = [threading.Thread(target=work) for _ in range(8)]
    with mock.patch.object(folder_lock, "_PAUSE", 0.005):
        for thread in threads:
            thread.start()
        while sum(thread.is_alive() for thread in threads) > 1:
            time.sleep(0.002)
        done.set()
        for thread in threads:
            thread.join()
    return len(inside)


def many_at_once(folder: Path) -> None:
    """Eight threads start together, on a disk, without flock, and elsewhere: one works."""
    memory: Any = fsspec.filesystem("memory")
    place, path = Places().find("mock://x/out")
    ways: list[Callable[[], Any]] = [
        lambda: locked(folder / "a", "x"),
        lambda: locked_remotely(folder_lock._Disk(folder), "b", "x"),
        lambda: locked_remotely(_LockFolder(memory, f"/{folder.name}"), "c", "x"),
        lambda: locked_remotely(_LockPlace(place, path), "d", "x"),
        lambda: locked_place(str(folder / "e"), Places().find("x")[0], str(folder / "e"), print),
    ]
    for number, way in enumerate(ways):
        assert _count_of_winners(way) == 1, number
    assert not [p for p in folder.iterdir() if "lock" in p.name]


def exports_beside_each_other(folder: Path) -> None:
    """The lock of a folder that is replaced lies beside it, and within where that is forbidden."""
    (folder / "model").mkdir()
    assert beside(folder / "model").parent == folder
    with mock.patch.object(os, "access", return_value=False):
        assert beside(folder / "model").parent == folder / "model"


CASES = [
    two_bulk_jobs,
    folders_of_every_command,
    two_trainings,
    locks_of_the_dead,
    odd_things_in_place_of_a_lock,
    locks_elsewhere,
    many_at_once,
    exports_beside_each_other,
]
