"""Real processes that train together on this machine's CPU."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from regard.cli.launch import LOST
from regard.config import Recipe
from regard.errors import RankLost
from regard.training import train
from regard.training.devices import connect
from tests.fuzz.processes import ended, start_ranks


def together(world: int, work: Callable[..., None], *arguments: Any) -> list[int | None]:
    """Run work(*arguments) in `world` ranks at the same time; return their exit statuses."""
    return ended(start_ranks(world, work, *arguments))


def train_runs(runs: list[tuple[Recipe, Path, bool]]) -> None:
    """Train one run after the other: (recipe, folder, whether it is resumed)."""
    with connect() as devices:
        for recipe, folder, resume in runs:
            train(recipe, folder, resume=resume, devices=devices)


def train_and_die(recipe: Recipe, folder: Path, rank: int, updates: int) -> None:
    """Train, and kill one rank as it sends its gradients; the others must notice."""
    try:
        with connect() as devices:
            send = devices.sum
            sent = 0

            def count(tensor: torch.Tensor) -> torch.Tensor:
                nonlocal sent
                sent += tensor.dtype == torch.float32  # what is float64 are losses
                if devices.rank == rank and sent > updates:
                    os.kill(os.getpid(), signal.SIGKILL)
                return send(tensor)

            devices.sum = count  # type: ignore[method-assign]
            train(recipe, folder, devices=devices)
    except RankLost:
        sys.exit(LOST)


def curve(folder: Path, name: str = "loss", kind: str = "train") -> list[float]:
    """A number of every step, or of every evaluation, from a run's log."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if line["kind"] == kind]
