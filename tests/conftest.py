"""Markers and fixtures that every test may use."""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from regard import pretrained
from regard.metrics import java
from tests.helpers.encoding import trace_once

# Triton reads this once, when it is imported: its kernels then run on tensors of the CPU.
os.environ["TRITON_INTERPRET"] = "1"

__all__ = ["trace_once"]

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("data") and not SHARED_DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"{SHARED_DATA} is not there"))


@pytest.fixture(scope="session", autouse=True)
def small_default() -> Iterator[str]:
    """Make the smallest shipped model of pictures the default; return the default's name.

    It starts and encodes several times as fast. Tests of the default itself name it, or run in
    processes of their own.
    """
    shipped = pretrained.DEFAULTS["image"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(pretrained.DEFAULTS, "image", "flickr8k-soft")
        yield shipped


@pytest.fixture(autouse=True)
def without_meteor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave METEOR out, for which Java takes ten CPU seconds. Tests of the metrics run it."""

    def unavailable(*_: object) -> float:
        raise java.JavaUnavailable("METEOR is left out of this test")

    if request.path.parent.name != "metrics":
        monkeypatch.setattr(java, "meteor", unavailable)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data; tests that use it are marked `data`."""
    return SHARED_DATA


@pytest.fixture(scope="session")
def timm() -> ModuleType:
    """timm, which imports torchvision."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        # PyPI's torchvision is compiled against CUDA: beside the CPU torch its library does not
        # load, and its Python half fails for want of two operators that the library declares
        # ("operator torchvision::nms does not exist"). timm calls neither. Declared and never
        # implemented they let the import pass. In tests only: a user is told to install the
        # torchvision that fits.
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        declared = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(declared)
    return importlib.import_module("timm")


_KEPT: list[object] = []
"""A declared operator lives as long as the object that declared it."""
