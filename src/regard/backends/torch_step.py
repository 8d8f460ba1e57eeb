"""Compiled steps (`regard.native.FastStep`) for a decoder of torch: its weights, its arrays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from regard.errors import UnknownName
from regard.model.decoder import AttentionDecoder
from regard.native import FastStep, ReadyAnnotations, StepWeights, library
from regard.native.cpp_step import Choose
from regard.types import DecoderState, ProjectedAnnotations, Step

_CONTEXTS = ("expected", "sample", "argmax")
_ARRAYS = ("alpha", "beta", "location", "location_logprob")


class TorchStep:
    """Steps of one decoder whose weights stay as they are, on tensors."""

    def __init__(self, decoder: AttentionDecoder, fast: FastStep) -> None:
        """Take the steps.

        Args:
            decoder: that they are of.
            fast: made of its weights.
        """
        self._fast = fast
        self.seen = weights_seen(decoder)

    @staticmethod
    def of(decoder: AttentionDecoder) -> TorchStep | None:
        """Return the fast step of a decoder, or None where only its own step can do it."""
        weight = decoder.output.weight
        if weight.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return None
        loops = library(weight.dtype)
        if loops is None:
            return None
        named = {name: value.detach().numpy() for name, value in decoder.state_dict().items()}
        weights = StepWeights.of(named, decoder.config)
        return None if weights is None else TorchStep(decoder, FastStep(weights, loops))

    def ready(self, projected: ProjectedAnnotations, *, spend: bool = False) -> ReadyAnnotations:
        """Return projected annotations in the form that `__call__` reads; see `FastStep.ready`."""
        arrays = (x.detach().numpy() for x in (projected.values, projected.keys, projected.mask))
        return self._fast.ready(*arrays, spend=spend)

    def __call__(
        self,
        token: Tensor,
        state: DecoderState,
        ready: ReadyAnnotations,
        *,
        context: str = "expected",
        generator: torch.Generator | None = None,
    ) -> Step:
        """See `AttentionDecoder.step`."""
        choose = None
        if self._fast.hard and context != "expected":
            choose = _chooser(context, generator)
        given = DecoderState(state.hidden.numpy(), state.memory.numpy())
        step = self._fast(token.numpy(), given, ready, choose)
        arrays = {name: getattr(step, name) for name in _ARRAYS}
        tensors = {k: None if x is None else torch.from_numpy(x) for k, x in arrays.items()}
        after = DecoderState(*map(torch.from_numpy, (step.state.hidden, step.state.memory)))
        return replace(step, output=lambda: torch.from_numpy(step.logits), state=after, **tensors)


def _chooser(context: str, generator: torch.Generator | None) -> Choose:
    if context not in _CONTEXTS:
        raise UnknownName("context", context, _CONTEXTS)
    if context == "argmax":
        return lambda alpha: alpha.argmax(-1)

    def sample(alpha: np.ndarray) -> np.ndarray:
        drawn = torch.multinomial(torch.from_numpy(alpha), 1, generator=generator)
        return drawn[:, 0].numpy()

    return sample


def weights_seen(decoder: AttentionDecoder) -> tuple[tuple[int, int], ...]:
    """Return what changes whenever a weight does."""
    return tuple(
        (p.data_ptr(), 0 if p.is_inference() else p._version) for p in decoder.parameters()
    )
