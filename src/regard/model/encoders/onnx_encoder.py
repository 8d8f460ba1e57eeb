"""A module as an ONNX graph that still says what torch says, with its weights by their own names.

torch's exporter can fold BatchNorm into convolutions and transpose matrices beforehand; either
makes new weights, which a checkpoint does not hold. Here the graph keeps every weight as it is, so
that it can point into `model.safetensors`; onnxruntime folds the same things when it loads.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from regard.errors import MissingExtra
from regard.model.encoders.base import Encoder
from regard.util.onnx_session import open_session

_FOLDED = 64  # numbers of a constant that is worked out beforehand; what is larger stays as it was


def trace_graph(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    takes: Sequence[str],
    gives: Sequence[str],
    dynamic: Sequence[dict[int, Any]],
) -> Any:
    """Return an `onnx.ModelProto` of a module in evaluation mode.

    Args:
        module: on the CPU; its weights become initialisers by their names in `state_dict`.
        inputs: an example; its dynamic sizes should be above 1.
        takes: names of the inputs.
        gives: names of the outputs.
        dynamic: for each input its dynamic axes, as `torch.export.Dim`s.

    Raises:
        MissingExtra: onnx or onnxscript is not installed.
    """
    try:
        passes: Any = importlib.import_module("onnx_ir.passes.common")
        optimizer: Any = importlib.import_module("onnxscript.optimizer")
    except ImportError as error:
        raise MissingExtra("onnxscript", "export", "exporting a model") from error
    # The exporter talks to stdout and warns about its own internals; neither is the user's.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            inputs,
            input_names=list(takes),
            output_names=list(gives),
            dynamic_shapes=tuple(dynamic),
            dynamo=True,
            verbose=False,
            optimize=False,
        )
        assert program is not None
        model: Any = program.model
        optimizer.inline(model)
        for _ in range(2):
            optimizer.fold_constants(
                model,
                input_size_limit=_FOLDED,
                output_size_limit=_FOLDED,
                should_fold=lambda node: False if node.op_type == "Transpose" else None,
            )
            passes.RemoveUnusedNodesPass()(model)
        _drop_zero_biases(model)
        for tidy in (
            passes.RemoveUnusedNodesPass(),
            passes.RemoveUnusedFunctionsPass(),
            passes.RemoveUnusedOpsetsPass(),
            passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            passes.DeduplicateInitializersPass(),
            passes.IdentityEliminationPass(),
            passes.CommonSubexpressionEliminationPass(),
            passes.OutputFixPass(),
            passes.NameFixPass(),
        ):
            tidy(model)
    return _named(_plain(program.model_proto), takes)


def _drop_zero_biases(model: Any) -> None:
    """Take from every convolution the bias that the exporter made up.

    It is of no use, and that of a 3D convolution has a wrong shape (onnxscript 0.7.2).
    """
    for node in model.graph:
        if node.op_type != "Conv" or len(node.inputs) < 3 or node.inputs[2] is None:
            continue
        bias = node.inputs[2]
        producer = bias.producer()
        if producer is not None and producer.op_type == "Expand":
            bias = producer.inputs[0]
        given = bias.const_value
        own = bias.is_initializer() and bias.name in model.graph.initializers
        weight = own and producer is None and "." in (bias.name or "")  # a module's own
        if given is not None and not weight and not given.numpy().any():
            node.replace_input_with(2, None)


def _named(proto: Any, takes: Sequence[str]) -> Any:
    """Give the inputs their names: one that passes through is named after its output."""
    names = {value.name: name for value, name in zip(proto.graph.input, takes, strict=True)}
    for value in proto.graph.input:
        value.name = names[value.name]
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    return proto


def _plain(proto: Any) -> Any:
    """Take out what the exporter wrote down of this machine: paths and lines of source files."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.value_info[:]
    return proto


class Encode(Protocol):
    """Maps pixels (N, *input_shape) float32 and mask (N, L) to vectors (N, L, D) float32."""

    def __call__(self, pixels: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Encode; without a mask all cells are real."""
        ...


def encode_with(encoder: Encoder, *, runtime: str = "auto", threads: int = 0) -> Encode:
    """Return the fastest function that encodes pixels with this encoder.

    Args:
        encoder: on the CPU and in evaluation mode for onnxruntime; else torch is used.
        runtime: "auto" (onnxruntime where it and onnxscript are installed), "onnxruntime",
            or "torch".
        threads: of onnxruntime; 0: as many as torch has.

    Raises:
        CheckpointError: onnxruntime cannot load the encoder's graph.
        ImportError: runtime is "onnxruntime" and it is not installed.
    """
    on_cpu = next(encoder.parameters()).device.type == "cpu"
    if runtime == "torch" or not on_cpu or not encoder.exportable:
        return _torch(encoder)
    try:
        return _onnxruntime(encoder, threads or torch.get_num_threads())
    except ImportError:
        if runtime == "onnxruntime":
            raise
        return _torch(encoder)


def _torch(encoder: Encoder) -> Encode:
    device = next(encoder.parameters()).device

    def encode(pixels: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        with torch.inference_mode():
            tensor = channels_last(torch.from_numpy(pixels).to(device))
            real = None if mask is None else torch.from_numpy(mask).to(device)
            return encoder(tensor, real).float().cpu().numpy()

    return encode


def channels_last(pixels: torch.Tensor) -> torch.Tensor:
    """Return pictures with the channels last: convolutions on a CPU run twice as fast."""
    return pixels.contiguous(memory_format=torch.channels_last) if pixels.ndim == 4 else pixels


def _onnxruntime(encoder: Encoder, threads: int) -> Encode:
    session = open_session(_graph(encoder), threads, spin=True)

    def encode(pixels: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        vectors = np.asarray(session.run(None, {"pixels": pixels})[0])
        return vectors if mask is None else vectors * mask[..., None]

    return encode


def _graph(encoder: Encoder) -> bytes:
    """Return the encoder as ONNX bytes with a dynamic batch."""
    graph = trace_graph(
        encoder,
        (torch.zeros(2, *encoder.input_shape),),
        takes=("pixels",),
        gives=("vectors",),
        dynamic=({0: torch.export.Dim("pictures")},),
    )
    return graph.SerializeToString()
