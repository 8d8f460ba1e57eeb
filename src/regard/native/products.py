"""Products of few rows with a weight that stays the same, in its type or in one of fewer bits."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from regard.native import Library, Product, library


class Multiplies(Protocol):
    """x -> x W; see `regard.native.Product`."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def into(self, out: Tensor, x: Tensor) -> None: ...

    def add_to(self, out: Tensor, x: Tensor) -> None: ...


def product(weight: Tensor, loops: Library, lower: torch.dtype | None) -> Multiplies:
    """Return the product with a weight (inner, outer).

    Args:
        weight: strided in any way; a copy is kept.
        loops: compiled for its type.
        lower: type to multiply in, which torch's own products then do; None: the weight's.
    """
    return Product(weight, loops) if lower is None else _Lowered(weight, lower)


class _Lowered:
    def __init__(self, weight: Tensor, lower: torch.dtype) -> None:
        self._weight = weight.to(lower)

    def __call__(self, x: Tensor) -> Tensor:
        return (x.to(self._weight.dtype) @ self._weight).to(x.dtype)

    def into(self, out: Tensor, x: Tensor) -> None:
        out.copy_(x.to(self._weight.dtype) @ self._weight)

    def add_to(self, out: Tensor, x: Tensor) -> None:
        out.add_(x.to(self._weight.dtype) @ self._weight)


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
