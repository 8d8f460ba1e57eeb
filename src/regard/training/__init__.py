"""Training: one loop, three objectives, one saved state."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regard.training.logs import Reporter
    from regard.training.loop import train

__all__ = ["Reporter", "train"]
_MODULES = {"Reporter": "regard.training.logs", "train": "regard.training.loop"}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: the loop's diary imports matplotlib."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
