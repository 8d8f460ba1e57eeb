"""What if the decoder had looked elsewhere? Attention is swapped, everything else is kept.

Alpha depends on the keys alone, the context on the values alone (`ProjectedAnnotations`). So
keys that are all alike make attention uniform, permuted keys permute it, and another picture's
keys make the decoder look here where it would have looked there; the decoder itself is as it
was. If captions and word probabilities do not fall under a swap, it did not matter where the
decoder looked (Serrano and Smith 2019; Jain and Wallace 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from regard.backends import Backend
from regard.errors import UnknownName
from regard.types import Annotations, Array, DecoderState, Grid, ProjectedAnnotations, Step
from regard.types.decoding import array_namespace

SWAPS = ("uniform", "permuted", "other picture")


class SwappedAttention:
    """A backend whose decoder looks elsewhere; it takes the place of the one it wraps."""

    def __init__(self, backend: Backend, swap: str, *, seed: int = 0) -> None:
        """Wrap a backend.

        Args:
            backend: runs encoder and decoder.
            swap: one of `SWAPS`; "other picture" takes the keys of the next picture of the
                batch, so a batch needs two or more.
            seed: of the permutations.

        Raises:
            UnknownName: there is no such swap.
        """
        if swap not in SWAPS:
            raise UnknownName("swap of attention", swap, SWAPS)
        self._backend, self._swap = backend, swap
        self._draw = np.random.default_rng(seed)

    def init_state(
        self, annotations: Annotations, captions_per_item: int = 1
    ) -> tuple[ProjectedAnnotations, DecoderState]:
        """See `Backend.init_state`; the first state is the picture's own."""
        projected, state = self._backend.init_state(annotations, captions_per_item)
        return replace(projected, keys=self._swapped(projected)), state

    def _swapped(self, projected: ProjectedAnnotations) -> Array:
        keys = projected.keys
        xp = array_namespace(keys)
        if self._swap == "uniform":  # any keys that are all alike
            return xp.broadcast_to(xp.mean(keys, axis=1, keepdims=True), keys.shape)
        if self._swap == "other picture":
            return xp.roll(keys, 1, axis=0)
        orders = [self._order(np.asarray(mask)) for mask in projected.mask]
        index = np.stack(orders)[:, :, None]
        if not isinstance(keys, np.ndarray):  # compiled loops read numpy's arrays
            index = self._backend.asarray(index)
        return xp.take_along_axis(keys, xp.broadcast_to(index, keys.shape), axis=1)

    def _order(self, mask: np.ndarray) -> np.ndarray:
        """Return the cells with the real ones shuffled; padding stays where it is."""
        order, real = np.arange(len(mask)), np.flatnonzero(mask)
        order[real] = self._draw.permutation(real)
        return order

    def encode(
        self, pixels: np.ndarray, grids: tuple[Grid, ...], mask: np.ndarray | None = None
    ) -> Annotations:
        """See `Backend.encode`."""
        return self._backend.encode(pixels, grids, mask)

    def step(
        self,
        token: Array,
        state: DecoderState,
        projected: ProjectedAnnotations,
        *,
        context: str = "expected",
        generator: Any = None,
    ) -> Step:
        """See `Backend.step`."""
        return self._backend.step(token, state, projected, context=context, generator=generator)

    @property
    def at_once(self) -> int:
        """See `Backend.at_once`."""
        return self._backend.at_once

    def asarray(self, x: np.ndarray) -> Array:
        """See `Backend.asarray`."""
        return self._backend.asarray(x)

    def generator(self, seed: int) -> Any:
        """See `Backend.generator`."""
        return self._backend.generator(seed)

    def alone(self) -> Callable[[], None]:
        """See `Backend.alone`."""
        return self._backend.alone()
