"""The vocabulary product and its cross-entropy, whose logits exist once.

Plain torch keeps logits, log-probabilities and the gradient of both, (R, V) each. Here logits
become probabilities where they lie, and those the gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from regard.native import ALIGNED, Library, library
from regard.native.products import product

_TOGETHER = 2048  # words whose packed weights exist at a time


def word_losses(
    features: Tensor, weight: Tensor, bias: Tensor, target: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Return the cross-entropy of each row's next word, **not reduced**, (R,), float32 or wider.

    With smoothing s it is -(1 - s) log p(target) - s / V sum_w log p(w).

    Args:
        features: (R, E).
        weight: (V, E).
        bias: (V,).
        target: (R,) int64.
        label_smoothing: s.
    """
    on_cpu = features.device.type == "cpu"
    lower = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    loops = library(torch.float32 if lower else features.dtype) if on_cpu else None
    if loops is None:
        logits = functional.linear(features, weight, bias)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return functional.cross_entropy(
            wide, target, reduction="none", label_smoothing=label_smoothing
        )
    return _WordLosses.apply(  # type: ignore[no-any-return,no-untyped-call]
        features, weight, bias, target, label_smoothing, lower, loops
    )


class _WordLosses(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # pyright: ignore[reportUntypedFunctionDecorator]
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        target: Tensor,
        smoothing: float,
        lower: torch.dtype | None,
        loops: Library,
    ) -> Tensor:
        words = len(weight)
        # Rows that begin at multiples of 64 bytes: products that write them are faster.
        logits = features.new_empty(len(features), words + -words % ALIGNED)[:, :words]
        for start in range(0, words, _TOGETHER):
            part = slice(start, start + _TOGETHER)
            product(weight[part].t(), loops, lower).into(logits[:, part], features)
        losses = logits.new_empty(len(logits))
        target = target.contiguous()
        given = *logits.shape, logits.stride(0), bias
        loops.call("cross_entropy", *given, logits, target, smoothing, losses)
        ctx.save_for_backward(features, weight, target)
        ctx.probabilities, ctx.rest = logits, (smoothing, lower, loops)
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")  # pyright: ignore[reportUntypedFunctionDecorator]
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        if ctx.probabilities is None:
            raise RuntimeError("the backward pass was made already; run the forward pass again")
        features, weight, target = ctx.saved_tensors
        smoothing, lower, loops = ctx.rest
        logits, ctx.probabilities = ctx.probabilities, None  # turned into its own gradient
        of_losses = grads[0].contiguous()
        sizes = *logits.shape, logits.stride(0)
        loops.call("cross_entropy_backward", *sizes, logits, target, smoothing, of_losses)
        of_bias = logits.sum(0)
        if lower is not None:
            logits, features, weight = logits.to(lower), features.to(lower), weight.to(lower)
        of_features, of_weight = logits @ weight, logits.t() @ features
        if lower is not None:
            of_features, of_weight = of_features.float(), of_weight.float()
        return of_features, of_weight, of_bias, None, None, None, None
