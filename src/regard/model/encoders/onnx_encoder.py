"""Frozen encoders run fastest under onnxruntime; where it is missing, torch does the work.

The graph is traced once per process from the encoder's own weights, so there is no second copy to
drift; a test holds both to a cosine above 0.9999. A model whose graphs `regard export` has written
needs none of this.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from regard.model.encoders.base import Encoder
from regard.model.encoders.trace import trace_graph
from regard.util.onnx_session import open_session


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
