"""The array API standard over whatever a backend holds.

numpy follows the standard by itself. array-api-compat would import all of numpy for it, which
takes longer than a caption does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from regard.types import Array


def array_namespace(*arrays: Array) -> Any:
    """Return the module whose functions work on these arrays, after the standard."""
    if all(isinstance(x, np.ndarray) for x in arrays):
        return np
    import array_api_compat

    return array_api_compat.array_namespace(*arrays)


def device(x: Array) -> Any:
    """Return where an array lies."""
    if isinstance(x, np.ndarray):
        return "cpu"
    import array_api_compat

    return array_api_compat.device(x)


def to_device(x: Array, place: Any) -> Array:
    """Return an array on another device.

    Raises:
        ValueError: a numpy array is to leave the CPU.
    """
    if not isinstance(x, np.ndarray):
        import array_api_compat

        return array_api_compat.to_device(x, place)
    if place != "cpu":
        raise ValueError(f"a numpy array lies on the cpu and cannot be put on {place!r}")
    return x
