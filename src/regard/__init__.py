"""regard writes captions for pictures, clips and scans and shows where it looked for every word.

>>> import regard
>>> model = regard.load()                       # doctest: +SKIP
>>> result = model.caption("photo.jpg")         # doctest: +SKIP
>>> result.text, result.words[2].alpha.shape    # doctest: +SKIP
('a dog runs through the grass', (8, 8))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from regard.errors import (
    CheckpointError,
    ConfigError,
    DatasetError,
    MediaError,
    MissingExtra,
    RegardError,
    UnknownName,
    needs_torch,
)

if TYPE_CHECKING:
    from regard.captioner import Captioner
    from regard.config import Recipe
    from regard.training import train
    from regard.types import AttentionTrace, Caption, Grid, Word
    from regard.version import __version__

# Loaded on first use, so that imports stay fast.
_LAZY = {
    "AttentionTrace": "regard.types",
    "Caption": "regard.types",
    "Captioner": "regard.captioner",
    "Grid": "regard.types",
    "Recipe": "regard.config",
    "Word": "regard.types",
    "__version__": "regard.version",
    "train": "regard.training",
}


def load(
    name: str | None = None,
    *,
    medium: str | None = None,
    device: str = "auto",
    backend: str = "auto",
) -> Captioner:
    """Load a captioner.

    Args:
        name: a folder, a shipped model's name, or a hub id; None: the medium's shipped default.
        medium: "image", "video" or "volume"; None: what the model is for, pictures where none is
            named. A model of pictures captions clips frame by frame.
        device: where it runs: "auto" (a GPU where torch sees one, else the CPU), "cpu", "cuda",
            "cuda:1" or "mps".
        backend: "onnx" (exported graphs, no torch), "torch", or "auto": the graphs where the model
            has them and the device is the CPU.

    Raises:
        CheckpointError: no model of that name can be loaded.
        ConfigError: the named model does not read that medium, or the device cannot be used.
        MissingExtra: a hub id was given and huggingface_hub is not installed; or torch is needed
            and is not.
    """
    from regard.captioner import Captioner
    from regard.model_pool import ModelPool
    from regard.pretrained import find_model

    if medium is not None:
        return ModelPool(name, device=device, backend=backend).captioner(medium)
    return Captioner.load(find_model(name), device=device, backend=backend)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'regard' has no attribute {name!r}")
    with needs_torch(f"regard.{name}"):
        return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "AttentionTrace",
    "Caption",
    "Captioner",
    "CheckpointError",
    "ConfigError",
    "DatasetError",
    "Grid",
    "MediaError",
    "MissingExtra",
    "Recipe",
    "RegardError",
    "UnknownName",
    "Word",
    "__version__",
    "load",
    "train",
]
