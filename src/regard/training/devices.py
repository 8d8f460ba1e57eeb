"""One process, or several that train one model together.

Every process (a rank) has a device, the whole model and a part of each batch. What they must agree
on goes through `Devices`: gradients are summed, captions gathered, choices broadcast. The loop is
the same for one process, whose `Devices` does nothing.

Between processes Lightning Fabric's DDP strategy does the work. The gradients are summed in one
call after the backward pass and not by the hooks of `DistributedDataParallel`: those fire in a
module's own `forward`, and a step of regard calls `project`, `forward` and `step` of a decoder
whose kernels have their own backward. Summed at once they are also exact: every part is weighed
by its pictures before its backward pass, so that the sum is the gradient of the batch's mean,
whatever the parts' sizes, and an accumulated step sends them once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from regard.errors import RankLost
from regard.util.distributed_env import check_fabric, ranks_in

T = TypeVar("T")

_PATIENCE = timedelta(hours=6)  # with ranks that are silent, say because one encodes more


class Devices(Protocol):
    """What the loop asks of the processes that train together.

    Attributes:
        rank: of this process, from 0; rank 0 writes logs, checkpoints and the diary.
        world: number of processes.
    """

    rank: int
    world: int

    def autocast(self, precision: str) -> AbstractContextManager[Any]:
        """Compute in "fp32", or in "bf16" where torch's autocast takes it."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to the parameters'."""
        ...

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over all ranks; the tensor may be changed."""
        ...

    def gather(self, value: T) -> list[T]:
        """Return every rank's value, in the order of ranks, on rank 0; elsewhere []."""
        ...

    def broadcast(self, value: T) -> T:
        """Return rank 0's value."""
        ...

    def barrier(self) -> None:
        """Wait until every rank is here."""
        ...


def computes_in_bf16() -> bool:
    """Whether this processor has instructions for bf16; one without imitates it, slowly."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(bool(has) for name, has in capabilities.items() if name.endswith("bf16"))


class OneDevice:
    """One process on its own; needs nothing but torch."""

    rank = 0
    world = 1

    def autocast(self, precision: str) -> AbstractContextManager[Any]:
        """See `Devices.autocast`."""
        return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")

    def backward(self, loss: Tensor) -> None:
        """See `Devices.backward`."""
        loss.backward()

    def sum(self, tensor: Tensor) -> Tensor:
        """See `Devices.sum`."""
        return tensor

    def gather(self, value: T) -> list[T]:
        """See `Devices.gather`."""
        return [value]

    def broadcast(self, value: T) -> T:
        """See `Devices.broadcast`."""
        return value

    def barrier(self) -> None:
        """See `Devices.barrier`."""


class FabricDevices:
    """Several processes through Lightning Fabric; the environment says which rank this is."""

    def __init__(self) -> None:
        """Meet the other ranks.

        Raises:
            RankLost: they do not come.
        """
        from lightning_fabric import Fabric
        from lightning_fabric.plugins import MixedPrecision, Precision
        from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
        from lightning_fabric.strategies.ddp import DDPStrategy

        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        here = int(os.environ.get("LOCAL_WORLD_SIZE", self.world))
        with _quiet("lightning_fabric", "lightning.fabric"), _ranks():
            self._fabric = Fabric(
                accelerator="cpu",
                devices=here,
                num_nodes=self.world // here,
                strategy=DDPStrategy(
                    cluster_environment=TorchElasticEnvironment(),
                    process_group_backend="gloo",
                    timeout=_PATIENCE,
                ),
            )
            self._fabric.launch()
        # A resumed run's precision is known only when its checkpoint is read.
        self._precisions = {"fp32": Precision(), "bf16": MixedPrecision("bf16-mixed", "cpu")}

    def autocast(self, precision: str) -> AbstractContextManager[Any]:
        """See `Devices.autocast`."""
        return self._precisions[precision].forward_context()

    def backward(self, loss: Tensor) -> None:
        """See `Devices.backward`."""
        self._fabric.backward(loss)

    def sum(self, tensor: Tensor) -> Tensor:
        """See `Devices.sum`."""
        with _ranks():
            summed = self._fabric.all_reduce(tensor, reduce_op="sum")
        assert isinstance(summed, Tensor)
        return summed

    def gather(self, value: T) -> list[T]:
        """See `Devices.gather`."""
        found: list[Any] | None = [None] * self.world if self.rank == 0 else None
        with _ranks():
            torch.distributed.gather_object(value, found)
        return found or []

    def broadcast(self, value: T) -> T:
        """See `Devices.broadcast`."""
        with _ranks():
            return self._fabric.broadcast(value)

    def barrier(self) -> None:
        """See `Devices.barrier`."""
        with _ranks():
            self._fabric.barrier()


@contextmanager
def meet() -> Generator[Devices]:
    """Yield this process's `Devices`: alone, or together with those that the environment names.

    Raises:
        ConfigError: the environment is incomplete.
        MissingExtra: there are several processes, and Lightning Fabric is not installed.
        RankLost: another rank ended.
    """
    if ranks_in(os.environ) == 1:
        yield OneDevice()
        return
    check_fabric()
    devices = FabricDevices()
    try:
        yield devices
        devices.barrier()  # nobody hangs up while another still reads
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def _ranks() -> Generator[None]:
    """Turn what torch says of lost connections into one error."""
    try:
        yield
    except RuntimeError as error:
        raise RankLost(
            f"another process of this training ended or cannot be reached ({_first_line(error)}). "
            "Go on with --resume and the run's folder."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:160]


@contextmanager
def _quiet(*names: str) -> Generator[None]:
    """Keep loggers from announcing what the run says itself."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
