"""Which computations Triton's kernels take, and the way to them.

Triton comes with torch's CUDA builds and is read only when a tensor on a GPU asks for it: without
one nothing here has any effect.
"""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

_TYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What the kernels' sums in float32 are exact enough for."""


def takes(*tensors: Tensor) -> bool:
    """Say whether the kernels below can compute with these tensors, all on one device."""
    return all(t.is_cuda and t.dtype in _TYPES for t in tensors) and works(tensors[0].device)


def additive_scores(keys: Tensor, query: Tensor, v: Tensor) -> Tensor:
    """Return scores, (N, G, L) float32; see `regard.native.kernels.additive_scores`."""
    from regard.native import triton_scores

    with torch.cuda.device_of(keys):
        return triton_scores.additive_scores(keys, query, v)


def attend(
    scores: Tensor, values: Tensor, mask: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Take the softmax over valid cells and the expectation of the values.

    Args:
        scores: (N, G, L) float32, of the G captions of each item.
        values: (N, L, D).
        mask: (N, L) bool, True = real cell.
        temperature: divides the scores.

    Returns:
        alpha, (N, G, L) float32, 0 on cells that the mask rules out; context, (N, G, D), in the
        values' type.
    """
    from regard.native import triton_attend

    with torch.cuda.device_of(values):
        return triton_attend.attend(scores, values, mask, temperature)


@functools.cache
def works(device: torch.device) -> bool:
    """Try the kernels on a device; where they fail the plain path runs, and a warning says so.

    Triton may be missing, or what it needs: a C compiler, a GPU that is new enough.
    """
    one = torch.ones(1, 1, 1, device=device)
    try:
        attend(additive_scores(one, one, one[0, 0]), one, one[0] > 0, 1.0)
    except Exception as error:  # whatever it is, the plain path needs none of it
        warnings.warn(
            f"the attention of {device} runs without Triton's kernels, slower and in more memory: "
            f"{type(error).__name__}: {error}",
            stacklevel=2,
        )
        return False
    return True
