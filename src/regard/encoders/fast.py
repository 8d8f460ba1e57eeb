"""Frozen encoders run fastest under onnxruntime; where it is missing, torch does the work.

The graph is exported once per process from the encoder's own weights, so there is no second
copy to drift; a test holds both to a cosine above 0.9999.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable

import numpy as np
import torch

from regard.encoders.base import Encoder

Encode = Callable[[np.ndarray], np.ndarray]
"""Maps pixels (N, 3, S, S) float32 to annotation vectors (N, L, D) float32."""


def encode_with(encoder: Encoder, *, runtime: str = "auto") -> Encode:
    """Return the fastest function that encodes pixels with this encoder.

    Args:
        encoder: on the CPU and in evaluation mode for onnxruntime; else torch is used.
        runtime: "auto" (onnxruntime where it and onnxscript are installed), "onnxruntime",
            or "torch".

    Raises:
        ImportError: runtime is "onnxruntime" and it is not installed.
    """
    if runtime == "torch" or next(encoder.parameters()).device.type != "cpu":
        return _torch(encoder)
    try:
        return _onnxruntime(encoder)
    except ImportError:
        if runtime == "onnxruntime":
            raise
        return _torch(encoder)


def _torch(encoder: Encoder) -> Encode:
    device = next(encoder.parameters()).device

    def encode(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            tensor = torch.from_numpy(pixels).to(device, memory_format=torch.channels_last)
            return encoder(tensor).float().cpu().numpy()

    return encode


def _onnxruntime(encoder: Encoder) -> Encode:
    import onnxruntime

    importlib.import_module("onnxscript")  # torch.onnx needs it; where it is missing torch encodes

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        _export(encoder), options, providers=["CPUExecutionProvider"]
    )

    def encode(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {"pixels": pixels})[0])

    return encode


def _export(encoder: Encoder) -> bytes:
    """Return the encoder as ONNX bytes with a dynamic batch."""
    size = encoder.spec.size
    # The exporter talks to stdout and warns about its own internals; neither is the user's.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            encoder,
            (torch.zeros(2, 3, size, size),),
            input_names=["pixels"],
            dynamic_shapes=({0: torch.export.Dim("pictures")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto.SerializeToString()
