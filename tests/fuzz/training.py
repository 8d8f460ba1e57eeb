"""SIGKILL at random moments of training and of its writers (`tests.fuzz.kills`).

After every kill all files must be intact; a resumed run must end with the same bits as an
undisturbed one.
"""

from __future__ import annotations

import io
import json
import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from regard.config import EncoderConfig, Recipe
from regard.errors import RankLost
from regard.recipes import override
from regard.util.atomic import recovered
from tests.fuzz.kills import kill_checkpoint, kill_shards, kill_store
from tests.fuzz.processes import KILLED, ended, start_ranks
from tests.fuzz.tally import Tally

_KILLS = {"one": 10, "two": 6, "store": 5, "checkpoint": 5, "shards": 4}  # at scale 1
_GRACE = (
    3.0  # seconds in which other ranks may detect it; then they are killed, as `--devices` does
)
_LOST = 75  # status of a rank that detected it


def run(scale: float, seed: int, folder: Path) -> Tally:
    """Try about 30 kills at scale 1."""
    random_numbers = random.Random(seed)
    tally = Tally()
    data = _toy_data(folder / "data")

    def kills(kind: str) -> int:
        return max(1, round(_KILLS[kind] * scale))

    _training(tally, kills("one"), _recipe(data, hard=False), 1, folder / "one", random_numbers)
    _training(tally, kills("two"), _recipe(data, hard=True), 2, folder / "two", random_numbers)
    kill_store(tally, kills("store"), folder / "store", random_numbers)
    kill_checkpoint(tally, kills("checkpoint"), folder / "checkpoint", random_numbers)
    kill_shards(tally, kills("shards"), data, folder / "shards", random_numbers)
    return tally


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
    from regard.training.devices import connect

    try:
        with connect() as devices:
            train(recipe, out, resume=resume, devices=devices)
    except RankLost:
        sys.exit(_LOST)


def _can_resume(out: Path) -> bool:
    return recovered(out / "last").exists()


def _fault_of_run(out: Path) -> str:
    """Open all files of a killed run; return an error, or ""."""
    from regard.checkpoint.folder import load_checkpoint

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
    """Return the difference between an undisturbed run and a resumed one, or ""."""
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


# The trained model


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
    recipe = replace(Recipe(), name="fuzz", encoder=EncoderConfig("small_cnn", 32, "stride8"))
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
