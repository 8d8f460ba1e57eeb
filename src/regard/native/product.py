"""Products of few rows with a weight that stays the same, in its type or in one of fewer bits."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from regard.native import Library, Product


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
