"""Products of few rows with a weight that stays the same: packed once, used at every step."""

from __future__ import annotations

import math

import numpy as np

from regard.native.cpp_library import Library
from regard.types import Array

ALIGNED = 16
"""Numbers that the length of a row is best a multiple of where a product writes it."""
_LINE = 64  # bytes
_ROOM = 64  # columns that a packed weight may be longer by; no processor's vectors are wider


class Product:
    """x -> x W for a weight W (inner, outer), arrays of numpy or of torch."""

    def __init__(self, weight: Array, library: Library) -> None:
        """Pack the weight.

        Args:
            weight: (inner, outer), strided in any way; a copy is kept.
            library: the compiled loops for its type.
        """
        self.inner, self.outer = weight.shape
        self._library = library
        self._panels = new(weight, self.inner * (self.outer + _ROOM))
        library.call("pack", *weight.shape, *steps(weight), weight, self._panels)

    def __call__(self, x: Array) -> Array:
        """Return x W, (rows, outer), for x (rows, inner), strided in any way.

        Of numpy's arrays its rows are some numbers longer where that lets each begin with a line
        of the caches.
        """
        more = -self.outer % ALIGNED if isinstance(x, np.ndarray) else 0
        out = new(x, len(x), self.outer + more)[:, : self.outer]
        self.into(out, x)
        return out

    def into(self, out: Array, x: Array) -> None:
        """Write x W to `out` (rows, outer), whose columns lie side by side."""
        self._multiply(out, x, add=False)

    def add_to(self, out: Array, x: Array) -> None:
        """Add x W to `out` (rows, outer), whose columns lie side by side."""
        self._multiply(out, x, add=True)

    def _multiply(self, out: Array, x: Array, *, add: bool) -> None:
        given = len(x), self.inner, self.outer, *steps(x), x, self._panels
        self._library.call("product", *given, steps(out)[0], int(add), out)


def new(like: Array, *shape: int) -> Array:
    """Return an array of the same kind and type, its numbers not set.

    It begins with a line of the processor's caches, as torch's arrays do and numpy's may not: a
    product takes up to an eighth longer where every vector that it writes lies in two lines.
    """
    if not isinstance(like, np.ndarray):
        return like.new_empty(shape)
    size = math.prod(shape) * like.itemsize
    room = np.empty(size + _LINE, np.uint8)
    first = -room.ctypes.data % _LINE
    return room[first : first + size].view(like.dtype).reshape(shape)


def steps(x: Array) -> tuple[int, ...]:
    """Return how many numbers lie from one element to the next along each axis."""
    if isinstance(x, np.ndarray):
        return tuple(stride // x.itemsize for stride in x.strides)
    return tuple(x.stride())
