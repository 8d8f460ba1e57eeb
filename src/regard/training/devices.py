"""The processes that train one model, a single one or several ranks, and their devices.

Every rank has a device (a GPU, or the CPU), the whole model and a part of each batch. Ranks
communicate through `Devices`: gradients are summed, captions gathered, choices broadcast. The
training loop is the same for a single process, whose `Devices` does not communicate.

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
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from regard.errors import DeviceError, RankLost
from regard.util.child_python import check_fabric, ranks_in
from regard.util.torch_device import AUTO, Placement, choose_device

T = TypeVar("T")

_TIMEOUT = timedelta(hours=6)  # of a collective call: one rank may encode more than another


_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def supports_bf16(device: torch.device) -> bool:
    """Return whether a device has bf16 instructions; otherwise it emulates them slowly."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(bool(has) for name, has in capabilities.items() if name.endswith("bf16"))


class Devices:
    """A single process, which needs only torch; also the interface for several.

    Attributes:
        rank: rank of this process, from 0. Rank 0 writes logs, checkpoints and the diary.
        world: number of processes.
        placement: the device of this process, and why it was chosen.
    """

    rank = 0
    world = 1
    placement = Placement("cpu", "it was asked for")

    def __init__(self, device: str = "cpu") -> None:
        """Choose the device of a single process.

        Raises:
            DeviceError: it cannot be used.
        """
        self.placement = choose_device(device)

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return torch.device(self.placement.device)

    def autocast(self, precision: str) -> AbstractContextManager[Any]:
        """Compute in "fp32", or in "bf16" or "fp16" where torch's autocast supports it."""
        if precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, _DTYPES[precision])

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

    def __init__(self, device: str = "cpu") -> None:
        """Connect to the other ranks.

        Args:
            device: "cpu", "cuda" (each rank of a machine has a GPU of its own), or "auto".

        Raises:
            DeviceError: this machine has fewer GPUs than ranks.
            RankLost: they cannot be reached.
        """
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
        from lightning_fabric.strategies.ddp import DDPStrategy

        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        here = int(os.environ.get("LOCAL_WORLD_SIZE", self.world))
        self.placement = rank_placement(device, int(os.environ["LOCAL_RANK"]), here)
        on_gpu = self.device.type == "cuda"
        with _warnings_only("lightning_fabric", "lightning.fabric"), _rank_errors():
            self._fabric = Fabric(
                accelerator="cuda" if on_gpu else "cpu",
                devices=here,
                num_nodes=self.world // here,
                strategy=DDPStrategy(
                    cluster_environment=TorchElasticEnvironment(),
                    # Gradients go over NCCL; losses and captions, on the host, over gloo.
                    process_group_backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo",
                    timeout=_TIMEOUT,
                ),
            )
            self._fabric.launch()

    def sum(self, tensor: Tensor) -> Tensor:
        """See `Devices.sum`."""
        with _rank_errors():
            torch.distributed.all_reduce(tensor)
        return tensor

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


def rank_placement(device: str, local_rank: int, ranks: int) -> Placement:
    """Return the device of a rank: a GPU of its own, or the CPU.

    Args:
        device: "auto", "cpu" or "cuda".
        local_rank: number of the rank on its machine.
        ranks: number of ranks on the machine.

    Raises:
        DeviceError: another device was named, or the machine has fewer GPUs than ranks.
    """
    if device not in (AUTO, "cpu", "cuda"):
        raise DeviceError(
            f"device {device!r} cannot be shared by {ranks} processes. Give --device cuda, with a "
            "GPU for each (CUDA_VISIBLE_DEVICES selects them), or --device cpu."
        )
    chosen = choose_device(device)
    if not chosen.device.startswith("cuda"):
        return choose_device("cpu") if chosen.device == "mps" else chosen
    gpus = torch.cuda.device_count()
    if gpus < ranks:
        raise DeviceError(
            f"{ranks} processes on this machine need a GPU each, and it has {gpus}. Give "
            f"--devices {gpus}, or --device cpu."
        )
    return replace(choose_device(f"cuda:{local_rank}"), reason=chosen.reason)


@contextmanager
def connect(device: str = AUTO) -> Generator[Devices]:
    """Yield this process's `Devices`: single, or connected to the ranks in the environment.

    Args:
        device: see `regard.util.torch_device.choose_device`.

    Raises:
        ConfigError: the environment is incomplete.
        DeviceError: the device cannot be used.
        MissingExtra: several processes train, and Lightning Fabric is not installed.
        RankLost: another rank ended.
    """
    if ranks_in(os.environ) == 1:
        yield Devices(device)
        return
    check_fabric()
    devices = FabricDevices(device)
    try:
        yield devices
        devices.barrier()  # no rank disconnects while another still reads
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def float32_products(device: torch.device, tf32: bool) -> Generator[None]:
    """Compute float32 products and convolutions on a CUDA GPU in TF32, or exactly, in the block."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


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
