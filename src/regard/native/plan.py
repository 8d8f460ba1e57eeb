"""What the unrolled recurrence is given, and what it yields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from regard.native import Library


@dataclass(frozen=True)
class Plan:
    """What is no tensor with a gradient. Captions are in order of length, the longest first.

    Attributes:
        loops: compiled, for the type of all tensors.
        counts: captions at each step, never more than at the step before.
        items: (B,) int64, the item of each caption.
        mask: (N, L) bool, True = real cell.
        scale: what scores are multiplied with.
        choose: given alpha (n, L) of a step returns the chosen cells (n,); None where all
            contexts are expectations.
        expected: (B,) bool, True for captions whose contexts are expectations although cells
            are chosen; None: none.
        lower: type that matrix products are computed in; None: their own.
    """

    loops: Library
    counts: tuple[int, ...]
    items: Tensor
    mask: Tensor
    scale: float
    choose: Callable[[Tensor], Tensor] | None
    expected: Tensor | None
    lower: torch.dtype | None

    def spans(self) -> Iterator[tuple[slice, int]]:
        """Yield the rows of each step and their number."""
        for stop, count in zip(accumulate(self.counts), self.counts, strict=True):
            yield slice(stop - count, stop), count


class Weights(NamedTuple):
    """The decoder's weights that the recurrence uses; None where there is no such part.

    Attributes:
        query: (A, H).
        query_bias: (A,).
        v: (A,) of additive scores; None for dot products.
        gate: (1 or D, H).
        gate_bias: (1 or D,).
        recurrent: (4H, D + H), the LSTM's for [context; hidden], gates in the order i, f, o, g.
    """

    query: Tensor
    query_bias: Tensor | None
    v: Tensor | None
    gate: Tensor | None
    gate_bias: Tensor | None
    recurrent: Tensor


class Recurrence(NamedTuple):
    """What R rows of steps yield.

    Attributes:
        hidden: (R, H), h_t.
        context: (R, D), after the gate.
        alpha: (R, L).
        beta: (R, 1 or D), or None without a gate.
        location: (R,) chosen cells, or None.
        location_logprob: (R,) log alpha there, or None.
    """

    hidden: Tensor
    context: Tensor
    alpha: Tensor
    beta: Tensor | None
    location: Tensor | None
    location_logprob: Tensor | None
