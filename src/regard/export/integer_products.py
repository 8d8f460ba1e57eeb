"""Linear layers of a transformer in 8 bits, from the same stored integers as the exact graph.

A layer's weights are Q · s, with int8 Q and a scale s for each output channel
(`regard.model.encoders.int8_weights`). Its input x is rounded to 8 bits with a scale of its own for
each token, so that a caption does not depend on what else is in its batch. A few input channels of
CLIP are many times as large as the others, and one scale for both would round the others away
(Dettmers et al. 2022, "LLM.int8()"). Those channels, the same for all pictures, are multiplied in
float32:

    x W^T = (round(x_rest / t) Q^T) · t · s + x_large W_large^T,    t = max |x_rest| / 127 by token

QuickGELU is never below -0.164, so that its outputs use all of 0 to 255: t = (max x + 0.164) / 255,
and the product of the offset is a constant that is taken off.
"""

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regard.errors import ConfigError
from regard.model.encoders import Encoder
from regard.model.encoders.int8_weights import SCALE

_LARGE = 32  # input channels of a layer that stay in float32
_GELU_LOWEST = -0.164  # min of x sigmoid(1.702 x) is -0.1636
_AT_ONCE = 8


def use_integer_products(graph: Any, encoder: Encoder, prefix: str, examples: np.ndarray) -> None:
    """Replace products of a graph with matrices in 8 bits by products of integers, in place.

    Args:
        graph: an `onnx.ModelProto` whose weights point to their file.
        encoder: the module that it was traced from.
        prefix: the beginning of the names of its weights in the graph.
        examples: (M, *input_shape) float32; the large channels are the largest on these.

    Raises:
        ConfigError: no matrix is stored in 8 bits.
    """
    readers: dict[str, list[Any]] = defaultdict(list)
    makers: dict[str, Any] = {}
    for node in graph.graph.node:
        makers |= dict.fromkeys(node.output, node)
        for name in node.input:
            readers[name].append(node)
    found: dict[str, list[Any]] = {}  # what takes the place of a product, by its output
    gone: list[str] = []
    for name, largest in _largest_inputs(encoder, examples).items():
        weight = prefix + name + ".weight"
        stored = makers.get(weight)
        if stored is None or stored.op_type != "DequantizeLinear":
            continue
        (transpose,) = readers[weight]
        (product,) = readers[transpose.output[0]]
        gone += [weight, transpose.output[0]]
        above = makers.get(product.input[0])
        gated = above is not None and any(
            name in makers and makers[name].op_type == "Sigmoid" for name in above.input
        )
        layer = _IntegerLayer(graph, weight, product.input[0], product.output[0])
        matrix = encoder.get_submodule(name).weight
        assert isinstance(matrix, Tensor)
        found[product.output[0]] = layer.nodes_for(
            largest, matrix.detach(), _GELU_LOWEST if gated else 0.0
        )
    if not found:
        raise ConfigError(
            "the encoder's matrices are not stored in 8 bits, which an 8-bit graph of it needs. "
            "Save the model with int8=True first."
        )
    nodes = [
        new
        for node in graph.graph.node
        if node.output[0] not in gone
        for new in found.get(node.output[0], [node])
    ]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


@torch.inference_mode()
def _largest_inputs(encoder: Encoder, examples: np.ndarray) -> dict[str, Tensor]:
    """Return max |x| of each input channel (in,) of the linear layers, by their names."""
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            top = inputs[0].abs().flatten(0, -2).amax(0)
            found[name] = torch.maximum(found.get(name, top), top)

        return hook

    layers = [(n, layer) for n, layer in encoder.named_modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers]
    try:
        for batch in torch.from_numpy(examples).split(_AT_ONCE):
            encoder(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found


class _IntegerLayer:
    """Writes the nodes of one layer; what depends on weights alone is computed at load."""

    def __init__(self, graph: Any, weight: str, source: str, result: str) -> None:
        self._graph, self._weight = graph, weight
        self._source, self._result = source, result
        self._nodes: list[Any] = []

    def _node(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        from onnx import helper

        out = out or f"{self._weight}.{kind}{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [out], **attributes))
        return out

    def _constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        name = f"{self._weight}.{name}"
        self._graph.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def nodes_for(self, largest: Tensor, matrix: Tensor, lowest: float) -> list[Any]:
        """Return the nodes.

        Args:
            largest: (in,) max |x| of each input channel.
            matrix: (out, in) the weights, float32.
            lowest: a bound below all inputs, or 0 without one.
        """
        from onnx import TensorProto

        channels = largest.topk(min(_LARGE, len(largest) // 4)).indices.sort().values
        rest = torch.ones_like(largest)
        rest[channels] = 0
        stored, scale = f"{self._weight}.stored", self._weight + SCALE
        zero = 0 if lowest else 128
        x = self._source
        if lowest:
            x = self._node("Sub", x, self._constant("lowest", np.float32(lowest)))
        kept = self._constant("rest", rest.to(torch.uint8).numpy())  # a quarter of the bytes
        x = self._node("Mul", x, self._node("Cast", kept, to=TensorProto.FLOAT))
        top = x if lowest else self._node("Abs", x)
        top = self._node("ReduceMax", top, self._constant("axis", np.array([-1])), keepdims=1)
        step = self._constant("step", np.float32(1 / 255 if lowest else 1 / 127))
        least = self._constant("least", np.float32(1e-12))  # of a token of zeros
        step = self._node("Max", self._node("Mul", top, step), least)
        x = self._node("Round", self._node("Div", x, step))
        x = self._node("Add", x, self._constant("middle", np.float32(zero))) if zero else x
        x = self._node("Cast", x, to=TensorProto.UINT8)
        integers = self._node("Transpose", stored, perm=[1, 0])
        # Unsigned inputs: products of int8 by int8 have no fast kernel in onnxruntime.
        x = self._node("MatMulInteger", x, integers, self._constant("zero", np.uint8(zero)))
        x = self._node("Mul", self._node("Cast", x, to=TensorProto.FLOAT), step)
        x = self._node("Mul", x, scale)
        if lowest:
            offset = (matrix @ rest) * lowest
            x = self._node("Add", x, self._constant("offset", offset.numpy()))
        at = self._constant("large", channels.numpy())
        large = self._node("Gather", self._source, at, axis=-1)
        some = self._node("Gather", stored, at, axis=1)
        some = self._node("Transpose", self._node("Cast", some, to=TensorProto.FLOAT), perm=[1, 0])
        large = self._node("MatMul", large, self._node("Mul", some, scale))
        self._node("Add", x, large, out=self._result)
        return self._nodes
