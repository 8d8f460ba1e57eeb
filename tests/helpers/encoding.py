"""Fixtures for the export of modules to ONNX, which takes seconds."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from regard.export import trace_graphs
from regard.model.encoders import onnx_encoder


@pytest.fixture(autouse=True)
def encode_with_torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encode with torch: exporting a fresh encoder to ONNX takes ten seconds.

    Equality of both runtimes is tested with the encoders. Tests marked `onnx` export.
    """
    if request.node.get_closest_marker("onnx") is None:
        monkeypatch.setattr(onnx_encoder, "_onnxruntime", lambda one, _: onnx_encoder._torch(one))


@pytest.fixture(scope="session", autouse=True)
def trace_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trace equal modules once per session, in whichever worker needs the graph first.

    The key is a digest of the pickled module, so of its class, settings and weights. Everything
    that is done with a graph afterwards is done anew.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # which all workers share
    folder = folder / "traced"
    folder.mkdir(exist_ok=True)
    trace = onnx_encoder.trace_graph

    def traced(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], **names: Any) -> Any:
        described = {key: str(value) for key, value in names.items()}
        try:
            key = _digest((module.eval(), inputs, described))
        except (pickle.PicklingError, AttributeError, TypeError):  # a class made inside a test
            return trace(module, inputs, **names)
        return _kept(folder / f"{key}.onnx", lambda: trace(module, inputs, **names))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_encoder, "trace_graph", traced)
        patch.setattr(trace_graphs, "trace_graph", traced)
        yield


class _Pickler(pickle.Pickler):
    """Writes tensors as digests: torch writes equal tensors in different bytes."""

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, torch.Tensor):
            return None
        values = obj.detach().contiguous().reshape(-1).view(torch.uint8)
        digest = hashlib.sha256(values.numpy().tobytes()).hexdigest()
        return digest, str(obj.dtype), tuple(obj.shape)


def _digest(values: object) -> str:
    stream = io.BytesIO()
    _Pickler(stream, protocol=5).dump(values)
    return hashlib.sha256(stream.getvalue()).hexdigest()


def _kept(path: Path, make: Callable[[], Any]) -> Any:
    import onnx

    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(make().SerializeToString())
        partial.replace(path)
    return onnx.ModelProto.FromString(path.read_bytes())
