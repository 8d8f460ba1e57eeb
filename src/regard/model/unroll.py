"""Attention and LSTM of all steps of given captions in one kernel, where there is one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from regard.model.attention import Attention, Gate, HardAttention
from regard.model.packing import Packing
from regard.model.rng import Randomness, exponential
from regard.native import library
from regard.native.kernels import Plan, Recurrence, Weights, unroll
from regard.types import DecoderState, ProjectedAnnotations


def fast_unroll(
    parts: tuple[Attention, Gate | None, nn.Linear],
    word_gates: Tensor,
    state: DecoderState,
    projected: ProjectedAnnotations,
    rows: Packing,
    *,
    context: str | Tensor,
    generator: Randomness | None,
) -> Recurrence | None:
    """Run the recurrent half of all steps, or return None where only the loop can.

    The same random numbers are drawn as by the loop, in the same order.

    Args:
        parts: attention, gate and the LSTM's layer for [context; hidden].
        word_gates: (R, 4H), packed.
        state: h_0 and c_0, B rows.
        projected: N items, each shared by B / N consecutive captions.
        rows: where the R rows lie.
        context: as in `AttentionDecoder.forward`.
        generator: of sampled locations.
    """
    attention, gate, recurrent = parts
    scoring = attention.scores.weights()
    if scoring is None or word_gates.device.type != "cpu":
        return None
    lower = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    loops = library(torch.float32 if lower else word_gates.dtype)
    if loops is None:
        return None
    chooses = isinstance(attention, HardAttention) and not (
        isinstance(context, str) and context == "expected"
    )
    plan = Plan(
        loops=loops,
        counts=rows.counts,
        items=rows.order // (len(rows.order) // len(projected.mask)),
        mask=projected.mask.contiguous(),
        scale=attention.scores.scale / attention.temperature,
        choose=_chooser(context, rows, generator) if chooses else None,
        expected=context[rows.order] if chooses and isinstance(context, Tensor) else None,
        lower=lower,
    )
    weights = Weights(
        *scoring,
        None if gate is None else gate.linear.weight,
        None if gate is None else gate.linear.bias,
        recurrent.weight,
    )
    hidden, memory = state.hidden[rows.order], state.memory[rows.order]
    found = unroll(word_gates, hidden, memory, projected.keys, projected.values, weights, plan)
    if chooses and not (isinstance(context, str) and context == "argmax"):
        # The loop draws at steps of padding too, which longer captions elsewhere may have.
        for _ in range(rows.shape[1] - len(rows.counts)):
            exponential(found.alpha, (len(rows.order), found.alpha.shape[1]), generator)
    return found


def _chooser(
    context: str | Tensor, rows: Packing, generator: Randomness | None
) -> Callable[[Tensor], Tensor]:
    if isinstance(context, str) and context == "argmax":
        return lambda alpha: alpha.argmax(-1)

    def sample(alpha: Tensor) -> Tensor:
        # As `choose` in the loop does, for all captions at every step.
        noise = exponential(alpha, (len(rows.order), alpha.shape[1]), generator)
        return (alpha / noise[rows.order[: len(alpha)]]).argmax(-1)

    return sample
