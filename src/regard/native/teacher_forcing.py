"""The recurrent half of all steps of teacher forcing at once, forward and backward.

The same numbers as the loop over `AttentionDecoder._recur`, which is its oracle, with less work:

- rows of padding are left out (`regard.model.packing`);
- what h_{t-1} is multiplied with (query, gate, LSTM) is one product per step, and the gradient of
  every weight is one product over all steps instead of a sum of one per step;
- the (B, L, A) tanh of the scores is never kept: the backward pass computes it again, cell by
  cell, so memory does not grow with steps × cells × attention size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regard.native.backward import go_back
from regard.native.forward import Tape
from regard.native.plan import Plan, Recurrence, Weights


def unroll(
    word_gates: Tensor,
    hidden: Tensor,
    memory: Tensor,
    keys: Tensor,
    values: Tensor,
    weights: Weights,
    plan: Plan,
) -> Recurrence:
    """Run all steps.

    Args:
        word_gates: (R, 4H), what the words add to the LSTM's gates, step by step.
        hidden: (B, H), h_0 in order of length.
        memory: (B, H), c_0 likewise.
        keys: (N, L, A).
        values: (N, L, D).
        weights: the decoder's.
        plan: the rest.
    """
    tensors = (word_gates, hidden, memory, keys, values, *weights)
    return Recurrence(*_Unroll.apply(plan, *tensors))  # type: ignore[no-untyped-call]


class _Unroll(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # pyright: ignore[reportUntypedFunctionDecorator]
    def forward(ctx: Any, plan: Plan, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        tape = ctx.tape = Tape(plan, *tensors)  # type: ignore[arg-type]
        tape.forward()
        ctx.set_materialize_grads(False)
        # Other tensors over the same numbers: what the tape holds must not hold the graph.
        out = tuple(None if x is None else x.detach() for x in tape.out())
        if out[4] is not None:
            ctx.mark_non_differentiable(out[4])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")  # pyright: ignore[reportUntypedFunctionDecorator]
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if ctx.tape is None:
            raise RuntimeError("the backward pass was made already; run the forward pass again")
        tape, ctx.tape = ctx.tape, None  # its memory is needed for the gradients that follow
        of_tensors = go_back(tape, grads, ctx.needs_input_grad[1:])
        return None, *of_tensors
