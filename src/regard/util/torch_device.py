"""The device that computes: which one, why, and clear errors where it cannot.

One rule for `--device` and `device=`: "auto" is a GPU where torch sees one, else the CPU; any other
name is used as it is, or raises `DeviceError`.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from regard.errors import DeviceError, needs_torch

AUTO = "auto"
_BYTES_A_PICTURE = 64 * 2**20  # of a GPU's memory; more where a batch turns out too large
_MOST_PICTURES = 512
_FAULTS = {
    "not compiled with CUDA": "torch {torch} was built without CUDA. Install a build of torch for "
    "CUDA",
    "no NVIDIA driver": "there is no NVIDIA driver. Install one",
    "driver on your system is too old": "the NVIDIA driver{found} is too old for torch {torch}. "
    "Update it, or install a build of torch for an older CUDA",
    "busy or unavailable": "the GPU is busy: another process holds it exclusively. Wait for it, "
    "name another, such as cuda:1",
    "invalid device ordinal": "there are {gpus} GPUs, numbered from 0. Name one of them",
    "no kernel image": "torch {torch} has no code for a GPU of this kind. Install a build of torch "
    "that supports it",
    "not compiled with": "torch {torch} was built without it. Install a build of torch that has it",
    "MPS": "torch has no MPS here, which needs macOS on Apple silicon. Name another",
    "": "{reason}. Check the driver",
}
"""What torch's messages contain, and what to say instead."""
_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
_ASKED = re.compile(r"tried to allocate ([\d.]+ ?\w+)", re.IGNORECASE)
_FREE = re.compile(r"of which ([\d.]+ ?\w+) is free")


@dataclass(frozen=True)
class Placement:
    """A device and why it was chosen.

    Attributes:
        device: torch's name: "cpu", "cuda", "cuda:1", "mps".
        reason: why, such as "torch sees no GPU".
        gpu: name of the GPU, or "".
    """

    device: str
    reason: str
    gpu: str = ""

    def describe(self, precision: str = "fp32") -> str:
        """Return one line that says where a run computes, in what precision, and why."""
        place = f"{self.device} ({self.gpu})" if self.gpu else self.device
        return f"runs on {place} in {precision}: {self.reason}"


def choose_device(wanted: str = AUTO) -> Placement:
    """Return the device to compute on, after a first computation there.

    Without torch "auto" is the CPU.

    Args:
        wanted: "auto", "cpu", "cuda", "cuda:1", "mps" or another device of torch.

    Raises:
        DeviceError: the device is unknown or cannot be used.
        MissingExtra: a device other than the CPU was named, and torch is not installed.
    """
    if wanted == "cpu":
        return Placement("cpu", "it was asked for")
    if wanted == AUTO and find_spec("torch") is None:
        return Placement("cpu", "torch is not installed")
    with needs_torch(f"the device {wanted!r}"):
        import torch
    if wanted != AUTO:
        return _tried(wanted, "it was asked for")
    with warnings.catch_warnings(record=True) as said:  # why a driver cannot be used
        warnings.simplefilter("always")
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus:
        return _tried("cuda", f"torch sees {gpus} GPU{'s' if gpus > 1 else ''}")
    if torch.backends.mps.is_available():
        return _tried("mps", "torch sees a GPU")
    faults = [_explained(str(one.message)) for one in said if "CUDA" in str(one.message)]
    return Placement("cpu", f"torch sees no GPU{f': {faults[0]}' if faults else ''}")


def _tried(name: str, reason: str) -> Placement:
    import torch

    try:
        device = torch.device(name)
        made = torch.zeros(1, device=device)
        made.cpu()  # errors of the kernel come only now
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if re.match(r"Expected one of|Invalid device string", str(error)):
            raise DeviceError(
                f"device {name!r} cannot be used; expected auto, cpu, cuda, cuda:N or mps."
            ) from error
        if is_memory_error(error):
            raise memory_error(
                error, name, "Other processes may hold it: see nvidia-smi"
            ) from error
        raise DeviceError(
            f"device {name!r} cannot be used: {_explained(str(error))}, or use the CPU "
            "(--device cpu)."
        ) from error
    return Placement(str(made.device), reason, gpu)


def _explained(message: str) -> str:
    """Return in a clause what a message of torch means, and what to do."""
    import torch

    version = re.search(r"found version (\d+)", message)
    text = next(text for part, text in _FAULTS.items() if part in message)
    return text.format(
        torch=torch.__version__,
        gpus=torch.cuda.device_count(),
        found=f" ({version[1]})" if version else "",
        reason=message.strip().partition("\n")[0].rstrip("."),
    )


# Memory


def pictures_at_once(device: str) -> int:
    """Return the batch size that fits into the free memory of a GPU."""
    import torch

    if torch.device(device).type != "cuda":
        return 1
    return min(_MOST_PICTURES, torch.cuda.mem_get_info(device)[0] // _BYTES_A_PICTURE)


class Halving:
    """Runs work on batches, in parts of half the size where the device's memory is too small.

    It remembers the size that fits. The results must not depend on the batch.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._most: int | None = None

    def __call__(self, work: Callable[[Any], list[Any]], items: list[Any]) -> list[Any]:
        """Return the results of all items in order.

        Raises:
            DeviceError: the memory is too small for a single item.
        """
        results: list[Any] = []
        while items:
            size = min(len(items), self._most or len(items))
            try:
                results += work(items[:size])
                items = items[size:]
            except RuntimeError as error:
                if not is_memory_error(error):
                    raise
                if size == 1:
                    advice = "One item does not fit: use --device cpu, or free the memory"
                    raise memory_error(error, self._device, advice) from error
                self._most = size // 2
        return results


def is_memory_error(error: BaseException) -> bool:
    """Return whether torch raised this because a device's memory is full."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, torch.OutOfMemoryError) or any(t in str(error) for t in _MEMORY)


def memory_error(error: BaseException, device: str, advice: str) -> DeviceError:
    """Return the error that says how much memory was asked for, and what to change."""
    asked, free = (pattern.search(str(error)) for pattern in (_ASKED, _FREE))
    return DeviceError(
        f"the memory of {device} is full"
        + (f": {asked[1]} more were requested" if asked else "")
        + (f", but only {free[1]} are free" if asked and free else "")
        + f". {advice}."
    )


@contextmanager
def memory_errors(device: str, advice: str) -> Generator[None]:
    """Turn torch's errors of full memory within the block into `DeviceError`."""
    try:
        yield
    except RuntimeError as error:
        if not is_memory_error(error):
            raise
        raise memory_error(error, device, advice) from error
