"""Processes to kill, forked from a server that has imported torch, so that they start fast.

The tests use them, too.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["regard.training", "lightning_fabric.strategies", "torch._dynamo", "torch.utils.tensorboard"]
    + ["onnxscript", "torch.onnx._internal.exporter"]
)
_LONGEST = 120.0  # seconds; nothing here should take so long

KILLED = -signal.SIGKILL
"""Exit status of a killed process."""


def start(work: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Run work(*arguments) in a process of its own."""
    process = _CONTEXT.Process(target=_alone, args=(work, *arguments))
    process.start()
    return process


def start_ranks(world: int, work: Callable[..., None], *arguments: Any) -> list[ForkServerProcess]:
    """Run work(*arguments) in ranks with torchrun's environment variables."""
    if world == 1:
        return [start(work, *arguments)]
    port = free_port()
    ranks = [
        _CONTEXT.Process(target=_as_rank, args=(rank, world, port, work, *arguments))
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    return ranks


def ended(processes: list[ForkServerProcess], seconds: float = _LONGEST) -> list[int | None]:
    """Wait for processes and return their exit statuses; None (and a kill) for one that hangs."""
    latest = time.monotonic() + seconds
    statuses: list[int | None] = []
    for process in processes:
        process.join(max(0.0, latest - time.monotonic()))
        statuses.append(process.exitcode)
    for process in processes:
        process.kill()
        process.join()
    return statuses


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _alone(work: Callable[..., None], *arguments: Any) -> None:
    import torch

    torch.set_num_threads(1)
    work(*arguments)


def _as_rank(rank: int, world: int, port: int, work: Callable[..., None], *arguments: Any) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    _alone(work, *arguments)
