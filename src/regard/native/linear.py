"""A linear layer over many rows: the projection of the annotations to keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from regard.native import Library, Product, library


def project(x: Tensor, weight: Tensor) -> Tensor:
    """Return x W', (..., outer), for x (..., inner) and W (outer, inner)."""
    plain = x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or x.dtype != weight.dtype
    loops = None if plain else library(x.dtype)
    if loops is None:
        return functional.linear(x, weight)
    return _Project.apply(x, weight, loops)  # type: ignore[no-any-return,no-untyped-call]


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, loops: Library) -> Tensor:
        ctx.save_for_backward(x, weight)
        rows = x.reshape(-1, x.shape[-1])
        return Product(weight.t(), loops)(rows).view(*x.shape[:-1], len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x = grads[0] @ weight if ctx.needs_input_grad[0] else None
        of_rows, rows = grads[0].reshape(-1, len(weight)), x.reshape(-1, x.shape[-1])
        return of_x, of_rows.t() @ rows, None
