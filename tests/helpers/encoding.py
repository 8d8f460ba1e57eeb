"""A fixture that keeps torch as the encoder's runtime."""

import pytest

from regard.model.encoders import onnx_encoder


@pytest.fixture(autouse=True)
def encode_with_torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encode with torch: exporting a fresh encoder to ONNX takes ten seconds.

    Equality of both runtimes is tested with the encoders. Tests marked `onnx` export.
    """
    if request.node.get_closest_marker("onnx") is None:
        monkeypatch.setattr(onnx_encoder, "_onnxruntime", lambda one, _: onnx_encoder._torch(one))
