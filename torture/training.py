"""kill -9 at random moments of training, store building, checkpoint saving and shard writing.

After every kill whatever opens must be whole; gone on with, the work must end with the bits that
it ends with undisturbed.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from regard.config import EncoderConfig, Recipe
from regard.data import AnnotationStore, CaptionDataset, StoreKey, load_dataset
from regard.data.shard_writer import write_shards
from regard.data.shards import MANIFEST, load_shards
from regard.errors import RankLost
from regard.folders import recovered
from regard.settings import override
from torture.processes import KILLED, ended, start, start_ranks
from torture.tally import Tally

_KILLS = {"one": 10, "two": 6, "store": 5, "checkpoint": 5, "shards": 4}  # at scale 1
_GRACE = 3.0  # seconds in which other ranks may notice; then they are killed, as `--devices` does
_TRIES = 8  # to hit a process before it ends by itself
_LOST = 75  # status of a rank that noticed
_KEY = StoreKey("torture", (7, 7), 8)
_ROWS = 6000


def run(scale: float, seed: int, folder: Path) -> Tally:
    """Try about 30 kills at scale 1."""
    random_numbers = random.Random(seed)
    tally = Tally()
    data = _toy_data(folder / "data")

    def kills(kind: str) -> int:
        return max(1, round(_KILLS[kind] * scale))

    _training(tally, kills("one"), _recipe(data, hard=False), 1, folder / "one", random_numbers)
    _training(tally, kills("two"), _recipe(data, hard=True), 2, folder / "two", random_numbers)
    _store(tally, kills("store"), folder / "store", random_numbers)
    _checkpoint(tally, kills("checkpoint"), folder / "checkpoint", random_numbers)
    _shards(tally, kills("shards"), data, folder / "shards", random_numbers)
    return tally


# Training


def _training(
    tally: Tally, kills: int, recipe: Recipe, world: int, folder: Path, moments: random.Random
) -> None:
    """Kill one of `world` ranks again and again, until each run is done; then compare."""
    whole, seconds = folder / "whole", 0.0
    for out in (folder / "first", whole):  # the first encodes the pictures
        began = time.monotonic()
        if any(ended(start_ranks(world, _train, recipe, out, False))):
            tally.miss(f"training on {world} devices, undisturbed, failed")
            return
        seconds = time.monotonic() - began
    done = runs = 0
    while done < kills:
        runs += 1
        out = folder / f"run-{runs}"
        hits = 0
        for _ in range(kills - done):
            moment = moments.uniform(0, seconds)
            ranks = start_ranks(world, _train, recipe, out, _can_resume(out))
            victim, began = moments.randrange(world), time.monotonic()
            ranks[victim].join(moment)
            ranks[victim].kill()
            statuses = ended(ranks, _GRACE)
            if statuses[victim] != KILLED:
                seconds = min(seconds, time.monotonic() - began)
                break  # it was done before, so the machine is faster than it was
            hits += 1
            what = f"training on {world} devices, killed {moment:.2f} s after its beginning"
            left = [status for rank, status in enumerate(statuses) if rank != victim]
            if any(status not in (0, _LOST, None) for status in left):
                tally.miss(f"{what}: the other ranks ended with {left}")
                return
            if fault := _fault_of_run(out):
                tally.lose(f"{what}: {fault}")
                return
        if any(ended(start_ranks(world, _train, recipe, out, _can_resume(out)))):
            tally.miss(f"training on {world} devices, killed {hits} times, could not be resumed")
            return
        fault = _difference(whole, out)
        for _ in range(hits):
            if fault:
                tally.lose(f"training on {world} devices, killed {hits} times: {fault}")
            else:
                tally.handle()
        done += hits
    tally.figures.append(
        f"training on {world} device{'s' * (world > 1)}: {done} kills in {runs} runs of "
        f"{seconds:.1f} s undisturbed"
    )


def _train(recipe: Recipe, out: Path, resume: bool) -> None:
    from regard.training import train
    from regard.training.devices import meet

    try:
        with meet() as devices:
            train(recipe, out, resume=resume, devices=devices)
    except RankLost:
        sys.exit(_LOST)


def _can_resume(out: Path) -> bool:
    return recovered(out / "last").exists()


def _fault_of_run(out: Path) -> str:
    """Open all that a killed run left; return what is wrong with it, or ""."""
    from regard.checkpoint import load_checkpoint

    for name in ("best", "last"):
        if recovered(out / name).exists():
            try:
                found = load_checkpoint(out / name, training=True)
                if not all(np.isfinite(w.numpy()).all() for w in found.weights.values()):
                    return f"{name} holds weights that are not finite"
            except Exception as error:
                return f"{name} does not open: {error!r}"
    return ""


def _difference(whole: Path, out: Path) -> str:
    """Return what differs between an undisturbed run and a resumed one, or ""."""
    import torch

    for name in ("best/model.safetensors", "last/model.safetensors", "best/metrics.json"):
        if (whole / name).read_bytes() != (out / name).read_bytes():
            return f"{name} has other bytes than undisturbed"
    one, other = (
        torch.load(run / "last" / "training.pt", weights_only=True) for run in (whole, out)
    )
    if not _equal(one, other):
        return "last/training.pt holds another state than undisturbed"
    if _log(whole) != _log(out):
        return "log.jsonl holds other losses than undisturbed"
    return ""


def _equal(one: Any, other: Any) -> bool:
    import torch

    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def _log(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k != "captions_per_second"} for line in lines]


# Store, checkpoint, shards


@dataclass(frozen=True)
class _Work:
    """Something to kill.

    Attributes:
        name: of it.
        do: the work, which takes the folder.
        fault: says what is wrong with what lies in the folder after a kill; "" where nothing.
        fault_in_the_end: the same of what the work leaves when it is done.
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
    """Judge what a kill left, do the work again, and judge what is there then."""
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


def _store(tally: Tally, kills: int, folder: Path, moments: random.Random) -> None:
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


def _checkpoint(tally: Tally, kills: int, folder: Path, moments: random.Random) -> None:
    work = _Work("checkpoint saving", _save, _fault_of_saved, _fault_of_saved)
    _kill(tally, kills, work, folder, moments)


def _save(folder: Path) -> None:
    """Save one version after the other, and note each that is saved."""
    import torch

    from regard.checkpoint import SPECIAL_IDS, save_checkpoint
    from regard.vocabulary import SPECIALS, Vocabulary

    folder.mkdir(parents=True, exist_ok=True)
    words = Vocabulary((*SPECIALS, *(f"word{i}" for i in range(400))))
    for version in range(1, 40):
        weights = {"decoder.embedding.weight": torch.full((len(words), 300), float(version))}
        save_checkpoint(
            folder / "saved",
            config={
                "name": "torture",
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
    from regard.checkpoint import load_checkpoint

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


def _shards(tally: Tally, kills: int, data: Path, folder: Path, moments: random.Random) -> None:
    wanted = load_dataset(data / "captions.csv", data / "images")

    def fault(out: Path) -> str:
        return _fault_of_shards(out, wanted) if (out / MANIFEST).exists() else ""

    work = _Work("shard writing", _Sharding(wanted), fault, lambda f: _fault_of_shards(f, wanted))
    _kill(tally, kills, work, folder, moments)


@dataclass(frozen=True)
class _Sharding:
    """Writes many small shards, unless they are there."""

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


# What is trained


def _toy_data(folder: Path) -> Path:
    images = folder / "images"
    images.mkdir(parents=True)
    lines = ["file,caption,split"]
    for i in range(16):
        coarse = np.random.default_rng(i).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((32, 32)).save(buffer, "JPEG", quality=90)
        (images / f"{i}.jpg").write_bytes(buffer.getvalue())
        split = "val" if i % 4 == 3 else "train"
        lines += [f"{i}.jpg,a {'dog' if i % 2 else 'cat'} runs,{split}"]
        lines += [f"{i}.jpg,a red {'dog' if i % 2 else 'cat'} sits on grass,{split}"]
    (folder / "captions.csv").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def _recipe(data: Path, *, hard: bool) -> Recipe:
    """Return a recipe that saves after every step."""
    recipe = replace(Recipe(), name="torture", encoder=EncoderConfig("small_cnn", 32, "stride8"))
    attention = ["decoder.attention=hard", "objective.kind=hard_attention"] if hard else []
    return override(
        recipe,
        [
            f"data.annotations={data / 'captions.csv'}",
            f"data.images={data / 'images'}",
            f"data.store={data / 'annotations'}",
            *("data.min_count=1", "data.max_length=8", "data.flip=true"),
            *("decoder.embedding_dim=8", "decoder.hidden_dim=10", "decoder.attention_dim=7"),
            *("training.epochs=3", "training.batch_size=4", "training.save_every=1"),
            *("training.captions_per_image=2", "optimizer.ema_decay=0.5"),
            *("optimizer.learning_rate=0.01", "evaluation.diary_pictures=2"),
            *attention,
        ],
    )
