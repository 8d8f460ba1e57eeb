"""The processes that train one model: a single one, or several ranks.

Every rank has a device, the whole model and a part of each batch. Ranks communicate through
`Devices`: gradients are summed, captions gathered, choices broadcast. The training loop is the
same for a single process, whose `Devices` does not communicate.

Several ranks use the DDP strategy of Lightning Fabric. The gradients are summed in one call after
the backward pass and not by the hooks of `DistributedDataParallel`: those fire in a module's own
`forward`, and a training step calls `project`, `forward` and `step` of a decoder whose kernels
have their own backward. One sum is also exact: every part is weighted by its pictures before its
backward pass, so the sum is the gradient of the batch's mean whatever the sizes of the parts, and
an accumulated step sends its gradients once.
"""

import logging
import os
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from regard.errors import RankLost
from regard.util.distributed_env import check_fabric, ranks_in

T = TypeVar("T")

_TIMEOUT = timedelta(hours=6)  # of a collective call: one rank may encode more than another


def supports_bf16() -> bool:
    """Return whether this processor has bf16 instructions; otherwise it emulates them slowly."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(bool(has) for name, has in capabilities.items() if name.endswith("bf16"))


class Devices:
    """A single process, which needs only torch; also the interface for several.

    Attributes:
        rank: rank of this process, from 0. Rank 0 writes logs, checkpoints and the diary.
        world: number of processes.
    """

    rank = 0
    world = 1

    def autocast(self, precision: str) -> AbstractContextManager[Any]:
        """Compute in "fp32", or in "bf16" where torch's autocast supports it."""
        return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the loss to those of the parameters."""
        loss.backward()

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over all ranks; the tensor may be changed."""
        return tensor

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks in order on rank 0, and [] on the others."""
        return [value]

    def broadcast(self, value: T) -> T:
        """Return the value of rank 0."""
        return value

    def barrier(self) -> None:
        """Wait until all ranks have reached this point."""


class FabricDevices(Devices):
    """Several processes through Lightning Fabric; the environment gives the rank."""

    def __init__(self) -> None:
        """Connect to the other ranks.

        Raises:
            RankLost: they cannot be reached.
        """
        from lightning_fabric import Fabric
        from lightning_fabric.plugins import MixedPrecision, Precision
        from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
        from lightning_fabric.strategies.ddp import DDPStrategy

        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        here = int(os.environ.get("LOCAL_WORLD_SIZE", self.world))
        with _warnings_only("lightning_fabric", "lightning.fabric"), _rank_errors():
            self._fabric = Fabric(
                accelerator="cpu",
                devices=here,
                num_nodes=self.world // here,
                strategy=DDPStrategy(
                    cluster_environment=TorchElasticEnvironment(),
                    process_group_backend="gloo",
                    timeout=_TIMEOUT,
                ),
            )
            self._fabric.launch()
        # The precision of a resumed run is known only when its checkpoint is read.
        self._precisions = {"fp32": Precision(), "bf16": MixedPrecision("bf16-mixed", "cpu")}

    def autocast(self, precision: str) -> AbstractContextManager[Any]:
        """See `Devices.autocast`."""
        return self._precisions[precision].forward_context()

    def backward(self, loss: Tensor) -> None:
        """See `Devices.backward`."""
        self._fabric.backward(loss)

    def sum(self, tensor: Tensor) -> Tensor:
        """See `Devices.sum`."""
        with _rank_errors():
            summed = self._fabric.all_reduce(tensor, reduce_op="sum")
        assert isinstance(summed, Tensor)
        return summed

    def gather(self, value: T) -> list[T]:
        """See `Devices.gather`."""
        found: list[Any] | None = [None] * self.world if self.rank == 0 else None
        with _rank_errors():
            torch.distributed.gather_object(value, found)
        return found or []

    def broadcast(self, value: T) -> T:
        """See `Devices.broadcast`."""
        with _rank_errors():
            return self._fabric.broadcast(value)

    def barrier(self) -> None:
        """See `Devices.barrier`."""
        with _rank_errors():
            self._fabric.barrier()


@contextmanager
def connect() -> Generator[Devices]:
    """Yield this process's `Devices`: single, or connected to the ranks in the environment.

    Raises:
        ConfigError: the environment is incomplete.
        MissingExtra: several processes train, and Lightning Fabric is not installed.
        RankLost: another rank ended.
    """
    if ranks_in(os.environ) == 1:
        yield Devices()
        return
    check_fabric()
    devices = FabricDevices()
    try:
        yield devices
        devices.barrier()  # no rank disconnects while another still reads
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def _rank_errors() -> Generator[None]:
    """Turn torch's errors about lost connections into `RankLost`."""
    try:
        yield
    except RuntimeError as error:
        first_line = str(error).strip().partition("\n")[0][:160]
        raise RankLost(
            f"another process of this training ended or cannot be reached ({first_line}). "
            "Resume with --resume and the run's folder."
        ) from error


@contextmanager
def _warnings_only(*names: str) -> Generator[None]:
    """Silence informational log messages; the run prints its own."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
