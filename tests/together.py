"""Real processes that train together on this machine's CPU."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from regard.config import Recipe
from regard.training import train
from regard.training.devices import meet

# The server imports torch once; what it forks begins at once.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["together", "lightning_fabric", "torch._dynamo"])
_LONGEST = 120.0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def together(world: int, work: Callable[..., None], *arguments: Any) -> list[int]:
    """Run work(*arguments) in `world` ranks at the same time; return their exit statuses."""
    port = free_port()
    processes = [
        _CONTEXT.Process(target=_as_rank, args=(rank, world, port, work, *arguments))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(_LONGEST)
        if process.exitcode is None:
            process.kill()
    return [process.exitcode if process.exitcode is not None else -1 for process in processes]


def _as_rank(rank: int, world: int, port: int, work: Callable[..., None], *arguments: Any) -> None:
    torch.set_num_threads(1)
    if world > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    work(*arguments)


def train_runs(runs: list[tuple[Recipe, Path, bool]]) -> None:
    """Train one run after the other: (recipe, folder, whether it is resumed)."""
    with meet() as devices:
        for recipe, folder, resume in runs:
            train(recipe, folder, resume=resume, devices=devices)


def curve(folder: Path, name: str = "loss", kind: str = "train") -> list[float]:
    """A number of every step, or of every evaluation, from a run's log."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if line["kind"] == kind]
