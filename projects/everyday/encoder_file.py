"""CLIP's image tower as the encoder file of a model, from an ONNX file or a folder of the hub.

    python -m projects.everyday.encoder_file SOURCE encoder.safetensors

SOURCE is a file of weights in Hugging Face's names, a folder that holds one, or an ONNX file of the
tower with the same names whose matrices onnxruntime quantised: int8, one scale for each output
channel, zero points 0. Of such a file the integers and scales are kept bit for bit. The matrices of
other sources are rounded to 8 bits.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from regard import ConfigError, RegardError
from regard.config import EncoderConfig
from regard.model.encoders import build_encoder, write_weights

FILES = ("model.safetensors", "pytorch_model.bin")
_INTEGERS, _SCALE = "_quantized", "_scale"


def weights_of_onnx(path: Path) -> dict[str, torch.Tensor]:
    """Return the tower's weights as float32, by Hugging Face's names.

    A matrix has no name of its own there; it is named after the bias that is added to its product.

    Raises:
        ConfigError: a quantised matrix is followed by no bias, or its zero points are not 0.
    """
    import onnx

    graph: Any = onnx.load(path).graph
    given = {w.name: onnx.numpy_helper.to_array(w) for w in graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = {
        name: torch.from_numpy(np.array(value, np.float32))
        for name, value in given.items()
        if name.startswith("vision_model.") and value.dtype == np.float32 and value.ndim
    }
    for name, integers in given.items():
        if not name.endswith(_INTEGERS):
            continue
        base = name.removesuffix(_INTEGERS)
        bias = _bias(readers, given, name)
        if bias is None:
            continue  # the projection of the embedding, which the tower ends before
        if np.any(given.get(base + "_zero_point", 0)):
            raise ConfigError(f"{path}: {base} has zero points other than 0; expected none.")
        matrix = torch.from_numpy(integers.T.astype(np.float32))  # (out, in)
        scale = torch.from_numpy(np.array(given[base + _SCALE], np.float32))
        found[bias.removesuffix("bias") + "weight"] = matrix * scale.reshape(-1, 1)
    return {name: value.contiguous() for name, value in found.items()}


def _bias(readers: dict[str, list[Any]], given: dict[str, Any], name: str) -> str | None:
    """Follow the product of a matrix to the bias that is added to it."""
    while name in readers:
        node = readers[name][0]
        if node.op_type == "Add":
            return next((one for one in node.input if one in given), None)
        name = node.output[0]
    return None


def main(source: Path, target: Path) -> None:
    """Write the encoder file.

    Raises:
        ConfigError: the source does not hold the tower's weights.
    """
    if source.is_dir():
        held = [source / name for name in FILES if (source / name).is_file()]
        if not held:
            raise ConfigError(f"{source} has no {' or '.join(FILES)}. Name another folder.")
        source = held[0]
    with tempfile.TemporaryDirectory() as folder:
        if source.suffix == ".onnx":
            plain = Path(folder) / "model.safetensors"
            save_file(weights_of_onnx(source), plain)
            source = plain
        config = EncoderConfig("clip_vit_b16", level="last", weights=str(source))
        write_weights(build_encoder(config), target, int8=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m projects.everyday.encoder_file SOURCE encoder.safetensors")
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except RegardError as error:
        sys.exit(f"error: {error}")
