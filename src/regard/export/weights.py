"""Graphs that point into a safetensors file instead of holding weights."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regard.errors import ConfigError

_TYPES = {"F32": "FLOAT", "F16": "FLOAT16", "BF16": "BFLOAT16"}


@dataclass(frozen=True)
class Stored:
    """Where a weight lies in a safetensors file.

    Attributes:
        dtype: as safetensors names it: "F16", "F32", ...
        shape: its sizes.
        start: of its bytes in the file.
        length: of them.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    length: int


def stored_weights(path: Path) -> dict[str, Stored]:
    """Return where each weight of a safetensors file lies."""
    with path.open("rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {
        name: Stored(
            one["dtype"],
            tuple(one["shape"]),
            8 + size + one["data_offsets"][0],
            one["data_offsets"][1] - one["data_offsets"][0],
        )
        for name, one in header.items()
    }


def pointed_at(graph: Any, stored: dict[str, Stored], location: str) -> Any:
    """Let a graph's weights point into a file instead of holding them, in place.

    A weight that is stored as float16 is cast in the graph, once: onnxruntime does so when it
    loads.

    Args:
        graph: an `onnx.ModelProto` whose initialisers bear the weights' names.
        stored: where they lie.
        location: the file's name beside the graph.

    Raises:
        ConfigError: a weight has another shape than the graph's.
    """
    from onnx import TensorProto, helper

    casts: list[Any] = []
    for weight in graph.graph.initializer:
        place = stored.get(weight.name)
        if place is None:
            continue  # a constant of the graph's own
        if place.shape != tuple(weight.dims) or place.dtype not in _TYPES:
            raise ConfigError(
                f"the weight {weight.name} is stored as {place.dtype} {place.shape}, and the graph "
                f"takes float {tuple(weight.dims)}: the model cannot be exported."
            )
        name, kind = weight.name, getattr(TensorProto, _TYPES[place.dtype])
        for field in ("raw_data", "float_data", "external_data"):
            weight.ClearField(field)
        if kind != TensorProto.FLOAT:
            weight.name = f"{name}.stored"
            casts.append(helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT))
        weight.data_type, weight.data_location = kind, TensorProto.EXTERNAL
        for key, value in (
            ("location", location),
            ("offset", place.start),
            ("length", place.length),
        ):
            weight.external_data.add(key=key, value=str(value))
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return graph
