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
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import MissingExtra

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
