"""Sessions of onnxruntime are opened one at a time, whoever asks for them."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from regard.backends.onnx_backend import OnnxBackend
from regard.captioner import Captioner
from regard.pretrained import shipped_models

onnxruntime = pytest.importorskip("onnxruntime")


class Counter:
    """Stands in for the session's class and notes how many are being opened."""

    def __init__(self) -> None:
        self._class = onnxruntime.InferenceSession
        self._lock = threading.Lock()
        self._now = self.most = self.opened = 0

    def __call__(self, *given: Any, **options: Any) -> Any:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(0.02)  # long enough for others to come in, were they let
        try:
            return self._class(*given, **options)
        finally:
            with self._lock:
                self._now -= 1
                self.opened += 1


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    counter = Counter()
    monkeypatch.setattr(onnxruntime, "InferenceSession", counter)
    return counter


def test_backends_that_load_side_by_side_open_one_session_at_a_time(counter: Counter) -> None:
    models = shipped_models()
    backends = []
    for name in ("flickr8k-soft", "flickr8k-hard"):
        backend = Captioner.load(models[name], backend="onnx").backend
        assert isinstance(backend, OnnxBackend)
        backends += [backend, backend.on_one_core()]
    for backend in backends:
        assert all(graph.inputs for graph in backend._graphs.values())
    assert counter.opened == 12
    assert counter.most == 1
