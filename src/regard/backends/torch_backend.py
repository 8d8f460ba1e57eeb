"""The torch backend: the modules themselves, or compiled steps made of their weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from regard.backends import CACHED_PICTURES
from regard.model.decoder import AttentionDecoder
from regard.model.encoders import Encoder
from regard.model.encoders.onnx_encoder import EncodeFunction, channels_last
from regard.model.rng import exponential
from regard.native import dispatch
from regard.native.cpp_step import CppStep, PackedAnnotations, StepWeights
from regard.types import Annotations, DecoderState, Grid, ProjectedAnnotations, Step
from regard.types.decoding import location_chooser

_REDUCED = (torch.bfloat16, torch.float16)
_ARRAYS = ("alpha", "beta", "location", "location_logprob")


class TorchStep:
    """Compiled steps of one decoder, on tensors; its weights must not change.

    Attributes:
        versions: versions of the weights that the steps were made of (`weight_versions`).
    """

    def __init__(self, decoder: AttentionDecoder, cpp_step: CppStep) -> None:
        """Take the steps.

        Args:
            decoder: whose steps they are.
            cpp_step: made of its weights.
        """
        self._cpp_step = cpp_step
        self.versions = weight_versions(decoder)

    @staticmethod
    def from_decoder(decoder: AttentionDecoder) -> TorchStep | None:
        """Return the compiled steps of a decoder, or None if it takes its own step."""
        known = decoder.config.scores in dispatch.KNOWN_SCORES
        case = dispatch.case_of(
            decoder.output.weight,
            autocast=torch.is_autocast_enabled("cpu"),
            known_scores=known and decoder.attention.scores.weights() is not None,
            pointer=decoder.pointer is not None,
        )
        library = dispatch.TORCH_STEP.library(case)
        if library is None:
            return None
        named = {name: value.detach().numpy() for name, value in decoder.state_dict().items()}
        return TorchStep(decoder, CppStep(StepWeights.from_named(named, decoder.config), library))

    def pack(self, projected: ProjectedAnnotations, *, in_place: bool = False) -> PackedAnnotations:
        """Return projected annotations as `__call__` reads them; see `CppStep.pack`."""
        arrays = (x.detach().numpy() for x in (projected.values, projected.keys, projected.mask))
        return self._cpp_step.pack(*arrays, in_place=in_place)

    def __call__(
        self,
        token: Tensor,
        state: DecoderState,
        projected: PackedAnnotations,
        *,
        context: str = "expected",
        generator: torch.Generator | None = None,
    ) -> Step:
        """See `AttentionDecoder.step`."""

        def noise(alpha: np.ndarray) -> np.ndarray:
            return exponential(torch.from_numpy(alpha), alpha.shape, generator).numpy()

        choose = location_chooser(context, noise) if self._cpp_step.hard else None
        arrays = DecoderState(state.hidden.numpy(), state.memory.numpy())
        step = self._cpp_step(token.numpy(), arrays, projected, choose)
        arrays = {name: getattr(step, name) for name in _ARRAYS}
        tensors = {k: None if x is None else torch.from_numpy(x) for k, x in arrays.items()}
        after = DecoderState(*map(torch.from_numpy, (step.state.hidden, step.state.memory)))
        return replace(step, output=lambda: torch.from_numpy(step.logits), state=after, **tensors)


def weight_versions(decoder: AttentionDecoder) -> tuple[tuple[int, int], ...]:
    """Return a value that changes whenever a weight does."""
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
        encode: EncodeFunction | None = None,
    ) -> None:
        """Wrap the modules without copying them.

        Args:
            encoder: may be None where annotations come from a store.
            decoder: may not be None.
            device: device of pixels and annotations.
            encode: a faster equivalent of the encoder (`regard.model.encoders.onnx_encoder`).
        """
        self.encoder = encoder
        self._encode = encode
        self.decoder = decoder
        self.device = torch.device(device)
        self.encode_batch_size = 0 if encode is None else CACHED_PICTURES
        self._compiled: TorchStep | None = None

    def encode(
        self, pixels: np.ndarray, grids: tuple[Grid, ...], mask: np.ndarray | None = None
    ) -> Annotations:
        """Encode preprocessed pixels (N, ...) to annotations (N, L, D); see `Backend.encode`."""
        if self.encoder is None:
            raise ValueError("this backend has no encoder; pass annotations instead")
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
            if self._compiled is None or self._compiled.versions != weight_versions(self.decoder):
                self._compiled = TorchStep.from_decoder(self.decoder)
            if self._compiled is not None:
                return self._compiled.pack(projected, in_place=True), state
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
        """Run `AttentionDecoder.step`, or its compiled equivalent."""
        if self._compiled is not None and isinstance(projected, PackedAnnotations):
            with torch.inference_mode():
                return self._compiled(token, state, projected, context=context, generator=generator)
        with torch.inference_mode(), evaluating(self.decoder):
            step = self.decoder.step(token, state, projected, context=context, generator=generator)
            if step.logits.dtype not in _REDUCED:
                return step
            beta = None if step.beta is None else step.beta.float()  # of autocast
            return replace(step, output=step.logits.float(), beta=beta)

    @staticmethod
    def use_one_core() -> Callable[[], None]:
        """Make the calling thread compute on one core; see `regard.util.parallel.ordered_map`.

        torch keeps a number for every thread, and one for future threads. The returned function
        restores the second.
        """
        threads = torch.get_num_threads()  # also creates this thread's own number
        torch.set_num_threads(1)
        return lambda: torch.set_num_threads(threads)

    def asarray(self, x: np.ndarray) -> Tensor:
        """Return a numpy array as a tensor on this backend's device."""
        return torch.as_tensor(x).to(self.device)

    def generator(self, seed: int) -> torch.Generator:
        """Return a fresh generator for sampled locations; of the CPU, the same on every device."""
        return torch.Generator().manual_seed(seed)


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Generator[None]:
    """Set evaluation mode within the block, then restore the mode."""
    if not module.training:
        yield
        return
    module.eval()
    try:
        yield
    finally:
        module.train()
