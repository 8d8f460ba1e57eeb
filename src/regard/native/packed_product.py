"""Products of few rows with a constant weight, which is packed once and used at every step."""

import math

import numpy as np

from regard.native.cpp_library import Library
from regard.types import Array

ALIGNED = 16
"""A row that a product writes is best a multiple of this many numbers long."""
_LINE = 64  # bytes
_MARGIN = 64  # columns that a packed weight may be longer by; no processor's vectors are wider


class PackedProduct:
    """x -> x W for a weight W (inner, outer), arrays of numpy or of torch."""

    def __init__(self, weight: Array, library: Library) -> None:
        """Pack the weight.

        Args:
            weight: (inner, outer), with any strides; a copy is kept.
            library: the compiled loops for its type.
        """
        self.inner, self.outer = weight.shape
        self._library = library
        self._panels = aligned_empty(weight, self.inner * (self.outer + _MARGIN))
        inner_step, outer_step = element_strides(weight)
        library.call(
            "pack", inner=self.inner, outer=self.outer, inner_step=inner_step,
            outer_step=outer_step, weight=weight, panels=self._panels,
        )  # fmt: skip

    def __call__(self, x: Array) -> Array:
        """Return x W, (rows, outer), for x (rows, inner) with any strides.

        Rows of numpy's arrays are padded so that each begins with a cache line.
        """
        padding = -self.outer % ALIGNED if isinstance(x, np.ndarray) else 0
        out = aligned_empty(x, len(x), self.outer + padding)[:, : self.outer]
        self.into(out, x)
        return out

    def into(self, out: Array, x: Array) -> None:
        """Write x W to `out` (rows, outer), whose columns are contiguous."""
        self._multiply(out, x, add=False)

    def add_to(self, out: Array, x: Array) -> None:
        """Add x W to `out` (rows, outer), whose columns are contiguous."""
        self._multiply(out, x, add=True)

    def _multiply(self, out: Array, x: Array, *, add: bool) -> None:
        x_row, x_step = element_strides(x)
        self._library.call(
            "product", rows=len(x), inner=self.inner, outer=self.outer, x_row=x_row, x_step=x_step,
            x=x, panels=self._panels, out_step=element_strides(out)[0], add=int(add), out=out,
        )  # fmt: skip


def aligned_empty(like: Array, *shape: int) -> Array:
    """Return an uninitialised array of the same kind and type that begins with a cache line.

    torch's arrays do so, numpy's may not: a product takes up to an eighth longer if every vector
    that it writes lies in two lines.
    """
    if not isinstance(like, np.ndarray):
        return like.new_empty(shape)
    size = math.prod(shape) * like.itemsize
    buffer = np.empty(size + _LINE, np.uint8)
    first = -buffer.ctypes.data % _LINE
    return buffer[first : first + size].view(like.dtype).reshape(shape)


def element_strides(x: Array) -> tuple[int, ...]:
    """Return the strides of an array, in elements."""
    if isinstance(x, np.ndarray):
        return tuple(stride // x.itemsize for stride in x.strides)
    return tuple(x.stride())
