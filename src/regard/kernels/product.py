"""Products of few rows with a weight that stays the same: packed once, used at every step."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.kernels.native import Library

ALIGNED = 16
"""Numbers that the length of a row is best a multiple of where a product writes it."""
_ROOM = 64  # columns that a packed weight may be longer by; no processor's vectors are wider


class Product:
    """x -> x W for a weight W (inner, outer)."""

    def __init__(self, weight: Tensor, library: Library, lower: torch.dtype | None) -> None:
        """Pack the weight.

        Args:
            weight: (inner, outer), strided in any way; a copy is kept.
            library: the compiled loops for its type.
            lower: type to multiply in, which torch's own products then do; None: the weight's.
        """
        self.inner, self.outer = weight.shape
        self._library = library
        self._lowered = None if lower is None else weight.to(lower)
        if lower is None:
            self._panels = weight.new_empty(self.inner * (self.outer + _ROOM))
            library.call("pack", *weight.shape, *weight.stride(), weight, self._panels)

    def __call__(self, x: Tensor) -> Tensor:
        """Return x W, (rows, outer), for x (rows, inner), strided in any way."""
        out = x.new_empty(len(x), self.outer)
        self.into(out, x)
        return out

    def into(self, out: Tensor, x: Tensor) -> None:
        """Write x W to `out` (rows, outer), whose columns lie side by side."""
        self._multiply(out, x, add=False)

    def add_to(self, out: Tensor, x: Tensor) -> None:
        """Add x W to `out` (rows, outer), whose columns lie side by side."""
        self._multiply(out, x, add=True)

    def _multiply(self, out: Tensor, x: Tensor, *, add: bool) -> None:
        if self._lowered is None:
            given = len(x), self.inner, self.outer, *x.stride(), x, self._panels
            self._library.call("product", *given, out.stride(0), int(add), out)
            return
        product = x.to(self._lowered.dtype) @ self._lowered
        out.add_(product) if add else out.copy_(product)
