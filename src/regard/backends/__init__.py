"""The interface of backends, which run an encoder and the decoder's steps on their own arrays."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from regard.types import Annotations, Array, DecoderState, Grid, ProjectedAnnotations, Step

CACHED_PICTURES = 4
"""Pictures that an encoder on one core reads at once: its layers' outputs then stay in the caches,
which takes a tenth less time than with 32."""


class Backend(Protocol):
    """Runs an encoder and a decoder. Arrays follow the array API standard."""

    def encode(
        self, pixels: np.ndarray, grids: tuple[Grid, ...], mask: np.ndarray | None = None
    ) -> Annotations:
        """Encode preprocessed pixels (N, ...) to annotations (N, L, D).

        The mask (N, L) is True on real cells; None: all are real.
        """
        ...

    def init_state(
        self, annotations: Annotations, captions_per_item: int = 1
    ) -> tuple[ProjectedAnnotations, DecoderState]:
        """Project annotations once; return the first state of N·G captions, G per item."""
        ...

    def step(
        self,
        token: Array,
        state: DecoderState,
        projected: ProjectedAnnotations,
        *,
        context: str = "expected",
        generator: Any = None,
    ) -> Step:
        """Read the words (B,), int64, and return the logits of the next ones.

        Row b belongs to item b // G, where G = B / N captions share an item's projection.
        Arrays of the step are float32 or wider.
        """
        ...

    @property
    def encode_batch_size(self) -> int:
        """Items that one call of `encode` should be given; 0: all of a batch."""
        ...

    def asarray(self, x: np.ndarray) -> Array:
        """Return a numpy array as one of this backend's, on its device."""
        ...

    def generator(self, seed: int) -> Any:
        """Return a fresh generator for `step`."""
        ...

    def use_one_core(self) -> Callable[[], None]:
        """Make the calling thread compute on one core; see `regard.util.parallel.ordered_map`.

        Returns:
            A function that restores other state that this changed.
        """
        ...
