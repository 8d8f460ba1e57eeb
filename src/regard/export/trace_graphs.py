"""The graphs of a model, traced from the modules that training runs, and their quantisation.

Graphs differ from the modules only where they must: the captions of an item have their own axis,
the noise for sampled locations is an input, and scores are computed without kernels.
"""

import copy
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.checkpoint.components import ENCODER, INIT, MOTION, STEP
from regard.errors import needs_extra
from regard.model.attention import (
    AdditiveScores,
    Attention,
    AttentionOutput,
    HardAttention,
    ScoreFunction,
)
from regard.model.decoder import AttentionDecoder
from regard.model.encoders import Encoder, FrameEncoder
from regard.model.encoders.onnx_encoder import trace_graph
from regard.types import DecoderState, ProjectedAnnotations

_EXAMPLES_AT_ONCE = 16


def trace_model(encoder: Encoder, decoder: AttentionDecoder) -> dict[str, Any]:
    """Return a model's graphs (`onnx.ModelProto`) by file name.

    Raises:
        MissingExtra: onnxscript is not installed.
    """
    items, captions = torch.export.Dim("items"), torch.export.Dim("captions")
    cells = torch.export.Dim("cells")
    graphs = _encoder_graphs(encoder, items)
    length = 5  # any number of cells, as it is dynamic; only a position code fixes it
    at_cells = {1: cells}
    if decoder.config.position != "none":
        length, at_cells = int(np.prod(decoder.config.grid_shape)), {}
    mask = torch.ones(2, length, dtype=torch.bool)
    axes = {0: items} | at_cells
    vectors = torch.zeros(2, length, decoder.annotation_dim)
    inputs: _Inputs = {"vectors": (vectors, axes), "mask": (mask, axes)}
    outputs = ["values", "keys", "hidden", "memory"]
    if decoder.pointer is not None:
        outputs += ["naming", "forms"]
    graphs[INIT] = _traced(_InitGraph(decoder), inputs, outputs)
    token, state = torch.ones(2, 3, dtype=torch.long), torch.zeros(2, 3, decoder.config.hidden_dim)
    with torch.inference_mode():
        projected = decoder.project(torch.zeros_like(vectors), mask)
    values, keys = (torch.zeros_like(x) for x in (projected.values, projected.keys))
    told, seen = {0: items, 1: captions}, {0: items, 1: cells}
    inputs = {"token": (token, told), "hidden": (state, told), "memory": (state.clone(), told)}
    inputs |= {"values": (values, seen), "keys": (keys, seen), "mask": (mask, seen)}
    outputs = ["logits", "next_hidden", "next_memory", "alpha"]
    if projected.naming is not None:
        inputs["naming"] = (torch.zeros_like(projected.naming), seen)
        outputs.append("copied")
    if decoder.gate is not None:
        outputs.append("beta")
    if isinstance(decoder.attention, HardAttention):
        noise = (torch.zeros(6, length), {0: torch.export.Dim("rows"), 1: cells})
        inputs |= {"chosen": (torch.tensor(True), {}), "noise": noise}
        outputs += ["location", "location_logprob"]
    kind = _StepGraph if projected.naming is None else _PointingStepGraph
    graphs[STEP] = _traced(kind(decoder), inputs, outputs)
    return graphs


_Inputs = dict[str, tuple[Tensor, dict[int, Any]]]
"""By name: an example and its dynamic axes."""


def _traced(module: nn.Module, inputs: _Inputs, outputs: Sequence[str]) -> Any:
    examples, axes = zip(*inputs.values(), strict=True)
    names = tuple(inputs)
    return trace_graph(module, examples, input_names=names, output_names=outputs, dynamic_axes=axes)


def _encoder_graphs(encoder: Encoder, items: Any) -> dict[str, Any]:
    """Return the graphs of an encoder: for items or single frames, and for motion."""
    read = encoder
    graphs: dict[str, Any] = {}
    if isinstance(encoder, FrameEncoder):
        read = encoder.picture
        if encoder.motion is not None:
            frames = torch.ones(2, encoder.input_shape[0], dtype=torch.bool)
            pixels = torch.zeros(2, *encoder.input_shape)
            inputs: _Inputs = {"pixels": (pixels, {0: items}), "real": (frames, {0: items})}
            graphs[MOTION] = _traced(_MotionGraph(encoder), inputs, ["vectors"])
    graph = _EncodeGraph(read, "picture" if read is not encoder else "")
    inputs = {"pixels": (torch.zeros(2, *read.input_shape), {0: items})}
    graphs[ENCODER] = _traced(graph, inputs, ["vectors"])
    return graphs


class _EncodeGraph(nn.Module):
    """Pixels to vectors. Submodules are named as the weights in a checkpoint."""

    def __init__(self, encoder: Encoder, inside: str) -> None:
        super().__init__()
        holder = nn.Module()
        holder.add_module(inside or "encoder", encoder)
        self.encoder = holder if inside else encoder
        self._inside = inside

    def forward(self, pixels: Tensor) -> Tensor:
        encoder = getattr(self.encoder, self._inside) if self._inside else self.encoder
        return cast("Tensor", encoder(pixels))


class _MotionGraph(nn.Module):
    def __init__(self, encoder: FrameEncoder) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.add_module("motion", encoder.motion)

    def forward(self, pixels: Tensor, real: Tensor) -> Tensor:
        return cast("Tensor", self.encoder.motion(pixels, real))  # type: ignore[operator]


class _InitGraph(nn.Module):
    """`project` and `init_state`."""

    def __init__(self, decoder: AttentionDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, vectors: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        projected = self.decoder.project(vectors, mask)
        state = self.decoder.init_state(projected)
        found = projected.values, projected.keys, state.hidden, state.memory
        if projected.naming is None or projected.forms is None:
            return found
        return *found, projected.naming, projected.forms.clone()


class _StepGraph(nn.Module):
    """`step`, with a separate axis for the captions of an item."""

    def __init__(self, decoder: AttentionDecoder) -> None:
        super().__init__()
        # A shallow copy shares the weights; only the attention is replaced.
        self.decoder = copy.copy(decoder)
        self.decoder.__dict__["_modules"] = dict(decoder.named_children())
        self.decoder.attention = _graph_attention(decoder.attention)

    def forward(
        self,
        token: Tensor,
        hidden: Tensor,
        memory: Tensor,
        values: Tensor,
        keys: Tensor,
        mask: Tensor,
        chosen: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        projected = ProjectedAnnotations(values, keys, mask)
        return self._step(token, DecoderState(hidden, memory), projected, chosen, noise)

    def _step(
        self,
        token: Tensor,
        state: DecoderState,
        projected: ProjectedAnnotations,
        chosen: Tensor | None,
        noise: Tensor | None,
    ) -> tuple[Tensor, ...]:
        source: Any = (chosen, noise)  # reaches the attention unchanged
        context: str | Tensor = "expected"
        if projected.naming is not None and chosen is not None:
            context = ~chosen.view(1)  # the pointer, too, names from the chosen cell or from all
        step = self.decoder.step(
            token.flatten(),
            DecoderState(state.hidden.flatten(0, 1), state.memory.flatten(0, 1)),
            projected,
            context=context,
            generator=source,
        )
        found = (step.logits, step.state.hidden, step.state.memory, step.alpha)
        more = (step.copied, step.beta, step.location, step.location_logprob)
        return (*found, *(x for x in more if x is not None))


class _PointingStepGraph(_StepGraph):
    def forward(  # type: ignore[override]
        self,
        token: Tensor,
        hidden: Tensor,
        memory: Tensor,
        values: Tensor,
        keys: Tensor,
        mask: Tensor,
        naming: Tensor,
        chosen: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        projected = ProjectedAnnotations(values, keys, mask, naming)
        return self._step(token, DecoderState(hidden, memory), projected, chosen, noise)


class _NoisyHardAttention(Attention):
    """Hard attention with noise as an input: a graph draws no random numbers."""

    def forward(
        self, hidden: Tensor, projected: ProjectedAnnotations, *, generator: Any = None, **_: Any
    ) -> AttentionOutput:
        chosen, noise = generator
        log_alpha = self.log_alpha(hidden, projected)
        alpha = log_alpha.exp()
        location = (log_alpha.flatten(0, 1) + noise).argmax(-1)
        cells = torch.arange(alpha.shape[-1])
        one = (cells == location[:, None]).view(alpha.shape).to(alpha.dtype)
        attended = torch.where(chosen, one, alpha) @ projected.values
        logprob = log_alpha.flatten(0, 1).gather(1, location[:, None]).squeeze(1)
        return AttentionOutput(attended.flatten(0, 1), alpha.flatten(0, 1), location, logprob)


class _PlainAdditive(ScoreFunction):
    """Additive scores as one expression, without kernels, which cannot be exported."""

    def __init__(self, scores: AdditiveScores) -> None:
        super().__init__()
        self.key, self.query, self.v = scores.key, scores.query, scores.v

    def keys(self, values: Tensor) -> Tensor:
        raise AssertionError("another graph computes the keys")

    def forward(self, hidden: Tensor, keys: Tensor) -> Tensor:
        query = self.query(hidden) + self.key.bias
        tanh = torch.tanh(keys.unsqueeze(1) + query.unsqueeze(2))
        # The row v times all columns: onnxruntime takes 18 times as long for (..., A) @ (A,).
        return functional.linear(self.v.weight, tanh.flatten(0, 2)).view(tanh.shape[:3])


def _graph_attention(attention: Attention) -> Attention:
    scores = attention.scores
    if isinstance(scores, AdditiveScores):
        scores = _PlainAdditive(scores)
    kind = _NoisyHardAttention if isinstance(attention, HardAttention) else type(attention)
    return kind(scores, attention.temperature)


def quantise(graph: Any, examples: np.ndarray) -> Any:
    """Return an encoder's graph in 8 bits (static quantisation, QDQ).

    Weights are quantised per channel, activations by their range on the examples. BatchNorm is
    first folded into the convolutions, since their product is rounded.

    Args:
        graph: an `onnx.ModelProto` that holds its weights.
        examples: (M, *input_shape) float32, pixels like those to be captioned.

    Raises:
        MissingExtra: onnx is not installed.
    """
    with needs_extra("onnx", "export", "quantising an encoder"):
        import onnx
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process

    class Examples(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[np.ndarray] = iter(
                np.array_split(examples, -(-len(examples) // _EXAMPLES_AT_ONCE))
            )

        def get_next(self) -> Any:
            batch = next(self._left, None)
            return None if batch is None else {"pixels": batch}

    level = logging.root.level
    with tempfile.TemporaryDirectory() as folder:
        plain, folded, small = (Path(folder) / f"{name}.onnx" for name in ("a", "b", "c"))
        onnx.save(graph, plain)
        logging.root.setLevel(logging.ERROR)  # it recommends the pre-processing done here
        try:
            quant_pre_process(plain, folded, skip_symbolic_shape=True)
            quantization.quantize_static(
                folded,
                small,
                Examples(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                # Weights of 7 bits: sums of two 8-bit products may overflow on CPUs that add them
                # in 16 bits (AVX2 without VNNI).
                reduce_range=True,
                weight_type=quantization.QuantType.QInt8,
                activation_type=quantization.QuantType.QUInt8,
            )
        finally:
            logging.root.setLevel(level)
        return onnx.load(small)
