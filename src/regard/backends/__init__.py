"""Backends: encode, first state and step, on arrays of a backend's own kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from regard.types import Annotations, Array, DecoderState, Grid, ProjectedAnnotations, Step

IN_CACHE = 4
"""Pictures that an encoder on one core reads together: what its layers write then stays in the
caches, which takes a tenth less time than 32 at once."""


class Backend(Protocol):
    """Runs an encoder and a decoder. Arrays follow the array API standard."""

    def encode(
        self, pixels: np.ndarray, grids: tuple[Grid, ...], mask: np.ndarray | None = None
    ) -> Annotations:
        """Encode preprocessed pixels (N, ...) to annotations (N, L, D).

        The mask (N, L) says which cells are real; None: all are.
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
        """Read the words (B,), int64, and say what may come next.

        Row b belongs to item b // G, where G = B / N captions share an item's projection.
        Arrays of the step are float32 or wider.
        """
        ...

    @property
    def at_once(self) -> int:
        """Return how many items one call of `encode` is best given; 0: all of a batch."""
        ...

    def asarray(self, x: np.ndarray) -> Array:
        """Return a numpy array as one of this backend's, on its device."""
        ...

    def generator(self, seed: int) -> Any:
        """Return a fresh generator for `step`."""
        ...

    def alone(self) -> Callable[[], None]:
        """Let the calling thread compute on one core; see `regard.util.parallel.ordered_map`."""
        ...
