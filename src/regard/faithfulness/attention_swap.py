"""Swapped attention: the decoder attends elsewhere; everything else is unchanged.

Alpha depends on the keys alone, the context on the values alone (`ProjectedAnnotations`). So
equal keys make attention uniform, permuted keys permute it, and another picture's keys move it to
where the decoder would have looked there; the decoder itself is unchanged. If captions and word
probabilities do not fall under a swap, it did not matter where the decoder looked (Serrano and
Smith 2019; Jain and Wallace 2019).
"""

from dataclasses import replace

import numpy as np

from regard.backends import Backend
from regard.errors import UnknownName
from regard.types import Annotations, Array, DecoderState, ProjectedAnnotations
from regard.types.decoding import array_namespace

SWAPS = ("uniform", "permuted", "other picture")


class SwappedAttention:
    """A backend like the one it wraps, but with other keys."""

    def __init__(self, backend: Backend, swap: str, *, seed: int = 0) -> None:
        """Wrap a backend.

        Args:
            backend: runs encoder and decoder.
            swap: one of `SWAPS`; "other picture" takes the keys of the next picture of the
                batch, so a batch needs two or more.
            seed: seed of the permutations.

        Raises:
            UnknownName: the swap is unknown.
        """
        if swap not in SWAPS:
            raise UnknownName("swap of attention", swap, SWAPS)
        self._swap, self._rng = swap, np.random.default_rng(seed)
        self._init_state = backend.init_state
        self.encode, self.step = backend.encode, backend.step
        self.asarray, self.generator = backend.asarray, backend.generator
        self.encode_batch_size, self.use_one_core = backend.encode_batch_size, backend.use_one_core

    def init_state(
        self, annotations: Annotations, captions_per_item: int = 1
    ) -> tuple[ProjectedAnnotations, DecoderState]:
        """See `Backend.init_state`; the first state is the picture's own."""
        projected, state = self._init_state(annotations, captions_per_item)
        return replace(projected, keys=self._swapped(projected)), state

    def _swapped(self, projected: ProjectedAnnotations) -> Array:
        keys = projected.keys
        xp = array_namespace(keys)
        if self._swap == "uniform":  # any equal keys
            return xp.broadcast_to(xp.mean(keys, axis=1, keepdims=True), keys.shape)
        if self._swap == "other picture":
            return xp.roll(keys, 1, axis=0)
        orders = [self._order(np.asarray(mask)) for mask in projected.mask]
        index = np.stack(orders)[:, :, None]
        if not isinstance(keys, np.ndarray):  # compiled loops read numpy's arrays
            index = self.asarray(index)
        return xp.take_along_axis(keys, xp.broadcast_to(index, keys.shape), axis=1)

    def _order(self, mask: np.ndarray) -> np.ndarray:
        """Return the cells with the real ones shuffled; padding stays where it is."""
        order, real = np.arange(len(mask)), np.flatnonzero(mask)
        order[real] = self._rng.permutation(real)
        return order
