"""What the benchmark runs on, and how it takes times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def machine(device: torch.device) -> dict[str, str]:
    """Say what this runs on."""
    found = {"device": str(device), "torch": torch.__version__}
    if device.type == "cuda":
        import triton

        found |= {
            "device": torch.cuda.get_device_name(),
            "cuda": str(torch.version.cuda),
            "triton": triton.__version__,
        }
    return found


def timed(work: Callable[[], object], device: torch.device, rounds: int, calls: int = 1) -> float:
    """Return the median seconds of one of `calls` calls, after three rounds that do not count."""
    seconds: list[float] = []
    for _ in range(rounds + 3):
        wait(device)
        began = time.perf_counter()
        for _ in range(calls):
            work()
        wait(device)
        seconds.append((time.perf_counter() - began) / calls)
    return statistics.median(seconds[3:])


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def peaks(device: torch.device, tiny: bool) -> dict[str, float]:
    """Measure the best matrix product and copy of this run."""
    size, copied = (64, 2**16) if tiny else (8192, 2**30)
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    b = torch.empty(copied, device=device, dtype=torch.uint8)
    c = torch.empty_like(b)
    return {
        "gemm_flops": 2 * size**3 / timed(lambda: a @ a, device, 10),
        "bytes_per_s": 2 * copied / timed(lambda: c.copy_(b), device, 10),
    }
