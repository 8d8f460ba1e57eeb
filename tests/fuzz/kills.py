"""SIGKILL at random moments of filling a store, saving a checkpoint and writing shards."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from regard.data import AnnotationStore, CaptionDataset, StoreKey, load_dataset
from regard.data.shards import MANIFEST, load_shards, write_shards
from regard.util.atomic import recovered
from tests.fuzz.processes import KILLED, ended, start
from tests.fuzz.tally import Tally

_TRIES = 8  # to hit a process before it ends by itself
_KEY = StoreKey("fuzz", (7, 7), 8)
_ROWS = 6000


@dataclass(frozen=True)
class _Work:
    """A task to kill.

    Attributes:
        name: its name.
        do: the task; takes the folder.
        fault: returns an error in the folder after a kill, or "".
        fault_in_the_end: the same after the task is complete.
    """

    name: str
    do: Callable[[Path], None]
    fault: Callable[[Path], str]
    fault_in_the_end: Callable[[Path], str]


def _kill(tally: Tally, kills: int, work: _Work, folder: Path, moments: random.Random) -> None:
    began = time.monotonic()
    if ended([start(work.do, folder / "whole")]) != [0]:
        tally.miss(f"{work.name}, undisturbed, failed")
        return
    seconds = time.monotonic() - began
    hit = 0
    for number in range(kills * _TRIES):
        if hit == kills:
            break
        out = folder / f"{number}"
        moment = moments.uniform(0, seconds)
        process = start(work.do, out)
        began = time.monotonic()
        process.join(moment)
        process.kill()
        if ended([process]) != [KILLED]:
            seconds = min(seconds, time.monotonic() - began)
        else:
            hit += 1
            _look(tally, work, out, f"{work.name}, killed {moment:.2f} s after its beginning")
        shutil.rmtree(out, ignore_errors=True)
    tally.figures.append(f"{work.name}: {hit} kills in {seconds:.1f} s of work")


def _look(tally: Tally, work: _Work, out: Path, what: str) -> None:
    """Check the folder after a kill, repeat the task, and check the folder again."""
    try:
        fault = work.fault(out)
        if not fault:
            if ended([start(work.do, out)]) != [0]:
                fault = "the same work again failed"
            fault = fault or work.fault_in_the_end(out)
    except Exception as error:
        tally.miss(f"{what}: {error!r}")
        return
    if fault:
        tally.lose(f"{what}: {fault}")
    else:
        tally.handle()


def kill_store(tally: Tally, kills: int, folder: Path, moments: random.Random) -> None:
    work = _Work(
        "store building",
        _fill_store,
        fault=lambda out: _fault_of_store(out, least=0),
        fault_in_the_end=lambda out: _fault_of_store(out, least=_ROWS),
    )
    _kill(tally, kills, work, folder, moments)


def _fill_store(folder: Path) -> None:
    wanted = [(f"{row:064d}", "plain", str(row)) for row in range(_ROWS)]
    for _ in AnnotationStore(folder, _KEY).fill(wanted, _vectors):
        pass


def _vectors(batch: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    rows = np.array([int(file) for file, _ in batch])
    made = np.repeat(rows % 2048, 49 * 8).reshape(len(rows), 49, 8)  # float16 holds them exactly
    return made, np.arange(49) < 40 + rows[:, None] % 10


def _fault_of_store(folder: Path, least: int) -> str:
    store = AnnotationStore(folder, _KEY)
    held = [row for row in range(_ROWS) if (f"{row:064d}", "plain") in store]
    if len(held) < least or len(held) != len(store):
        return f"the store holds {len(store)} rows, {len(held)} of them wanted, of {_ROWS}"
    if held:
        vectors, mask = store.read([(f"{row:064d}", "plain") for row in held])
        wanted = _vectors([(str(row), "plain") for row in held])
        if not np.array_equal(vectors, wanted[0]) or not np.array_equal(mask, wanted[1]):
            return "the store gives vectors of another picture"
    return ""


def kill_checkpoint(tally: Tally, kills: int, folder: Path, moments: random.Random) -> None:
    work = _Work("checkpoint saving", _save, _fault_of_saved, _fault_of_saved)
    _kill(tally, kills, work, folder, moments)


def _save(folder: Path) -> None:
    """Save one version after the other, and record each completed save."""
    import torch

    from regard.checkpoint.build import save_checkpoint
    from regard.checkpoint.folder import SPECIAL_IDS
    from regard.text.vocabulary import SPECIALS, Vocabulary

    folder.mkdir(parents=True, exist_ok=True)
    words = Vocabulary((*SPECIALS, *(f"word{i}" for i in range(400))))
    for version in range(1, 40):
        weights = {"decoder.embedding.weight": torch.full((len(words), 300), float(version))}
        save_checkpoint(
            folder / "saved",
            config={
                "name": "fuzz",
                "medium": "image",
                "recipe": {},
                "preprocessing": {},
                "encoder": {"name": "-", "digest": "-", "annotation_dim": 1, "grid_shape": [1]},
                "special_ids": SPECIAL_IDS,
            },
            vocabulary=words,
            weights=weights,
            metrics={"version": version},
            card="",
            training_state={"version": version, "state": torch.full((100_000,), float(version))},
        )
        with (folder / "noted").open("a") as file:
            file.write(f"{version}\n")


def _fault_of_saved(folder: Path) -> str:
    from regard.checkpoint.folder import load_checkpoint

    noted = folder / "noted"
    versions = [int(line) for line in noted.read_text().split()] if noted.exists() else []
    if not recovered(folder / "saved").exists():
        return f"version {versions[-1]} was saved, and nothing is there" if versions else ""
    found = load_checkpoint(folder / "saved", training=True)
    state = found.training_state or {}
    version = found.metrics["version"]
    held = {float(x) for x in found.weights["decoder.embedding.weight"].unique()}
    held |= {float(x) for x in state["state"].unique()} | {float(state["version"])}
    if held != {float(version)}:
        return f"the checkpoint mixes versions {sorted(held)}"
    if versions and version < versions[-1]:
        return f"version {versions[-1]} was saved, and {version} is there"
    return ""


def kill_shards(tally: Tally, kills: int, data: Path, folder: Path, moments: random.Random) -> None:
    wanted = load_dataset(data / "captions.csv", data / "images")

    def fault(out: Path) -> str:
        return _fault_of_shards(out, wanted) if (out / MANIFEST).exists() else ""

    work = _Work("shard writing", _Sharding(wanted), fault, lambda f: _fault_of_shards(f, wanted))
    _kill(tally, kills, work, folder, moments)


@dataclass(frozen=True)
class _Sharding:
    """Writes many small shards, unless they exist."""

    dataset: CaptionDataset

    def __call__(self, out: Path) -> None:
        many = tuple(
            replace(item, key=f"{copy} {item.key}") for copy in range(6) for item in self.dataset
        )
        if not (out / MANIFEST).exists():
            write_shards(replace(self.dataset, items=many), str(out), size=6000)


def _fault_of_shards(out: Path, wanted: CaptionDataset) -> str:
    found = load_shards(str(out))
    if len(found) != 6 * len(wanted):
        return f"the shards hold {len(found)} pictures of {6 * len(wanted)}"
    by_key = {item.key: item for item in wanted}
    for item in found:
        tar, _, place = item.file.partition("#")
        offset, _, size = place.partition("!")[0].partition("+")
        with open(tar, "rb") as file:
            file.seek(int(offset))
            content = file.read(int(size))
        original = by_key[item.key.partition(" ")[2]]
        if content != Path(original.file).read_bytes() or item.captions != original.captions:
            return f"the shards hold another picture or captions of {item.key}"
    return ""
