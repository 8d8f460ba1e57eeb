"""An encoder in 8 bits: weights per channel, activations by the range they have on examples."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from regard.errors import MissingExtra

_AT_ONCE = 16  # examples that the encoder reads together


def quantised(graph: Any, examples: np.ndarray) -> Any:
    """Return an encoder's graph in 8 bits (static quantisation, QDQ).

    BatchNorm is folded into the convolutions first, since it is their product that is rounded.

    Args:
        graph: an `onnx.ModelProto` that holds its weights.
        examples: (M, *input_shape) float32, pixels like those to come.

    Raises:
        MissingExtra: onnx is not installed.
    """
    try:
        import onnx
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise MissingExtra("onnx", "export", "quantising an encoder") from error

    class Examples(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[np.ndarray] = iter(
                np.array_split(examples, -(-len(examples) // _AT_ONCE))
            )

        def get_next(self) -> Any:
            batch = next(self._left, None)
            return None if batch is None else {"pixels": batch}

    level = logging.root.level
    with tempfile.TemporaryDirectory() as folder:
        plain, folded, small = (Path(folder) / f"{name}.onnx" for name in ("a", "b", "c"))
        onnx.save(graph, plain)
        logging.root.setLevel(logging.ERROR)  # it warns of what is done here already
        try:
            quant_pre_process(plain, folded, skip_symbolic_shape=True)
            quantization.quantize_static(
                folded,
                small,
                Examples(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                # 7 bits of weight: two products of 8 bits may overflow where a CPU adds them in
                # 16 (AVX2, no VNNI).
                reduce_range=True,
                weight_type=quantization.QuantType.QInt8,
                activation_type=quantization.QuantType.QUInt8,
            )
        finally:
            logging.root.setLevel(level)
        return onnx.load(small)
