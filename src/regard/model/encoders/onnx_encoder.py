"""Export of modules as ONNX graphs, and encoders run by onnxruntime.

torch's exporter can fold BatchNorm into convolutions and transpose matrices; both make new weights,
which a checkpoint does not hold. Here the graph keeps every weight and its name, so that it can
point into `model.safetensors`; onnxruntime does the same folding when it loads.
"""

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Generator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from regard.errors import needs_extra
from regard.model.encoders.base import Encoder
from regard.native import dispatch
from regard.util.onnx_session import open_session

_FOLDED = 64  # numbers of the largest constant that is folded


def trace_graph(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_axes: Sequence[dict[int, Any]],
) -> Any:
    """Return an `onnx.ModelProto` of a module in evaluation mode.

    Args:
        module: on the CPU; its weights become initialisers by their names in `state_dict`.
        inputs: an example; its dynamic sizes should be above 1.
        input_names: names of the inputs of the graph.
        output_names: names of the outputs of the graph.
        dynamic_axes: for each input its dynamic axes, as `torch.export.Dim`s.

    Raises:
        MissingExtra: onnx or onnxscript is not installed.
    """
    with needs_extra("onnxscript", "export", "exporting a model"):
        passes: Any = importlib.import_module("onnx_ir.passes.common")
        optimizer: Any = importlib.import_module("onnxscript.optimizer")
    # The exporter prints and warns about its own internals; users need neither.
    silenced = contextlib.redirect_stdout(io.StringIO()), _muted("onnx_ir._convenience")
    with warnings.catch_warnings(), silenced[0], silenced[1]:
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            inputs,
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_shapes=tuple(dynamic_axes),
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
        for graph_pass in (
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
            graph_pass(model)
    return _renamed_inputs(_without_metadata(program.model_proto), input_names)


@contextlib.contextmanager
def _muted(name: str) -> Generator[None]:
    """Silence a logger within the block."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _drop_zero_biases(model: Any) -> None:
    """Remove the zero bias that the exporter adds to every convolution without one.

    That of a 3D convolution has a wrong shape (onnxscript 0.7.2).
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


def _renamed_inputs(proto: Any, input_names: Sequence[str]) -> Any:
    """Rename the inputs: the exporter names one that is also an output after that output."""
    names = {value.name: name for value, name in zip(proto.graph.input, input_names, strict=True)}
    for value in proto.graph.input:
        value.name = names[value.name]
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    return proto


def _without_metadata(proto: Any) -> Any:
    """Remove what the exporter recorded of this machine: paths and lines of source files."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.value_info[:]
    return proto


class EncodeFunction(Protocol):
    """Maps pixels (N, *input_shape) float32 and mask (N, L) to vectors (N, L, D) float32."""

    def __call__(self, pixels: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Encode pixels; without a mask all cells are real."""
        ...


def encode_with(encoder: Encoder, *, runtime: str = "auto", threads: int = 0) -> EncodeFunction:
    """Return the function that encodes pixels, chosen by `dispatch.ENCODER`.

    Args:
        encoder: in evaluation mode.
        runtime: "auto" (onnxruntime if it and onnxscript are installed), "onnxruntime" or "torch".
        threads: number of threads of onnxruntime; 0: as many as torch has.

    Raises:
        CheckpointError: onnxruntime cannot load the encoder's graph.
        ImportError: `runtime` is "onnxruntime" and it is not installed.
    """
    case = dispatch.case_of(next(encoder.parameters()), exportable=encoder.exportable)
    if runtime == "torch" or dispatch.ENCODER.choose(case) == dispatch.TORCH:
        return _torch(encoder)
    try:
        return _onnxruntime(encoder, threads or torch.get_num_threads())
    except ImportError:
        if runtime == "onnxruntime":
            raise
        return _torch(encoder)


def _torch(encoder: Encoder) -> EncodeFunction:
    device = next(encoder.parameters()).device

    def encode(pixels: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        with torch.inference_mode():
            tensor = channels_last(torch.from_numpy(pixels).to(device))
            real = None if mask is None else torch.from_numpy(mask).to(device)
            return encoder(tensor, real).float().cpu().numpy()

    return encode


def channels_last(pixels: torch.Tensor) -> torch.Tensor:
    """Return pictures in channels-last order, in which convolutions on a CPU run twice as fast."""
    return pixels.contiguous(memory_format=torch.channels_last) if pixels.ndim == 4 else pixels


def _onnxruntime(encoder: Encoder, threads: int) -> EncodeFunction:
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
        input_names=("pixels",),
        output_names=("vectors",),
        dynamic_axes=({0: torch.export.Dim("pictures")},),
    )
    return graph.SerializeToString()
