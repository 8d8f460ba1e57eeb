"""Compiled steps (`regard.native.FastStep`) for a decoder of torch: its weights, its arrays."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from regard.backends import IN_CACHE
from regard.errors import UnknownName
from regard.model.decoder import AttentionDecoder
from regard.model.encoders import Encoder
from regard.model.encoders.onnx_encoder import Encode, channels_last
from regard.native import FastStep, ReadyAnnotations, StepWeights, library
from regard.native.cpp_step import Choose
from regard.types import Annotations, DecoderState, Grid, ProjectedAnnotations, Step

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


class TorchBackend:
    """Runs an encoder and a decoder on one device, without gradients, in evaluation mode."""

    def __init__(
        self,
        encoder: Encoder | None,
        decoder: AttentionDecoder,
        device: str | torch.device = "cpu",
        *,
        encode: Encode | None = None,
    ) -> None:
        """Wrap the modules; they are used as they are, not copied.

        Args:
            encoder: may be None where annotations come from a store.
            decoder: the decoder.
            device: where pixels and annotations are put.
            encode: a faster way to do what the encoder does (`regard.model.encoders.onnx_encoder`).
        """
        self.encoder = encoder
        self._encode = encode
        self.decoder = decoder
        self.device = torch.device(device)
        self.at_once = 0 if encode is None else IN_CACHE
        self._fast: TorchStep | None = None

    def encode(
        self, pixels: np.ndarray, grids: tuple[Grid, ...], mask: np.ndarray | None = None
    ) -> Annotations:
        """Encode preprocessed pixels (N, ...) to annotations (N, L, D); see `Backend.encode`."""
        if self.encoder is None:
            raise ValueError("this backend was made without an encoder; pass annotations instead")
        if mask is None:
            mask = np.ones((len(pixels), math.prod(self.encoder.grid_shape)), bool)
        real = self.asarray(mask)
        if self._encode is not None:
            vectors = self.asarray(self._encode(pixels, mask))
        else:
            with torch.inference_mode(), evaluating(self.encoder):
                vectors = self.encoder(channels_last(self.asarray(pixels)), real)
        return Annotations(vectors, real, grids)

    def init_state(
        self, annotations: Annotations, captions_per_item: int = 1
    ) -> tuple[ProjectedAnnotations, DecoderState]:
        """Project annotations once and return the first state, N·G rows."""
        with torch.inference_mode(), evaluating(self.decoder):
            projected = self.decoder.project(annotations.vectors.float(), annotations.mask)
            state = self.decoder.init_state(projected, captions_per_item)
            if self._fast is None or self._fast.seen != weights_seen(self.decoder):
                self._fast = TorchStep.of(self.decoder)
            if self._fast is not None:
                return self._fast.ready(projected, spend=True), state
            return projected, state

    def step(
        self,
        token: Tensor,
        state: DecoderState,
        projected: ProjectedAnnotations,
        *,
        context: str = "expected",
        generator: torch.Generator | None = None,
    ) -> Step:
        """Run `AttentionDecoder.step`, or what does the same faster."""
        if self._fast is not None and isinstance(projected, ReadyAnnotations):
            with torch.inference_mode():
                return self._fast(token, state, projected, context=context, generator=generator)
        with torch.inference_mode(), evaluating(self.decoder):
            return self.decoder.step(token, state, projected, context=context, generator=generator)

    @staticmethod
    def alone() -> Callable[[], None]:
        """Let the calling thread compute on one core; see `regard.util.parallel.ordered_map`.

        torch keeps a number for every thread, and one for threads that are yet to come. The
        second is given back.
        """
        threads = torch.get_num_threads()  # also makes this thread's own number
        torch.set_num_threads(1)
        return lambda: torch.set_num_threads(threads)

    def asarray(self, x: np.ndarray) -> Tensor:
        """Return a numpy array as a tensor on this backend's device."""
        return torch.as_tensor(x).to(self.device)

    def generator(self, seed: int) -> torch.Generator:
        """Return a fresh generator for sampled locations."""
        return torch.Generator(self.device).manual_seed(seed)


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Generator[None]:
    """Hold evaluation mode and give the former mode back."""
    if not module.training:
        yield
        return
    module.eval()
    try:
        yield
    finally:
        module.train()
