"""What a checkpoint's `config.json` and `metrics.json` must be before anything is built from them.

A checkpoint may come from a stranger. What is wrong is said here, by its name, and not by
whatever would stumble over it later.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from regard.errors import CheckpointError

_MEDIA = ("image", "video", "volume")
_LONGEST_NAME = 1000
_MOST_CELLS, _MOST_FEATURES = 2**20, 2**20

Check = tuple[Callable[[Any], bool], str]
"""Whether a value is right, and what was wanted."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_NAME


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_count(value: Any, most: int = 10**9) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most


def _is_grid(value: Any) -> bool:
    if not isinstance(value, list) or not 1 <= len(value) <= 3:
        return False
    return all(map(_is_count, value)) and math.prod(value) <= _MOST_CELLS


def _is_digests(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(digest, str) for digest in value.values())


def _is_score(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_scores(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_score, value.values()))


_TEXT: Check = (_is_text, f"text of at most {_LONGEST_NAME} characters")
_TABLE: Check = (_is_table, "an object")
_NEEDED: dict[str, Check] = {
    "name": _TEXT,
    "medium": (lambda value: value in _MEDIA, f"one of {', '.join(_MEDIA)}"),
    "recipe": _TABLE,
    "preprocessing": _TABLE,
    "special_ids": _TABLE,
    "encoder": _TABLE,
    "encoder.name": _TEXT,
    "encoder.digest": _TEXT,
    "encoder.annotation_dim": (
        lambda value: _is_count(value, _MOST_FEATURES),
        f"a whole number from 1 to {_MOST_FEATURES}",
    ),
    "encoder.grid_shape": (
        _is_grid,
        f"a list of 1 to 3 numbers of cells, {_MOST_CELLS} cells at most",
    ),
}
_OPTIONAL: dict[str, Check] = {
    "regard_version": _TEXT,
    "recipe.name": _TEXT,
    "recipe.encoder": _TABLE,
    "recipe.encoder.level": _TEXT,
    "recipe.encoder.video": _TABLE,
    "recipe.decoder": _TABLE,
    "files": (_is_digests, "an object of digests by file name"),
}
_METRICS: dict[str, Check] = {
    "scores": (_is_scores, "an object of numbers by name"),
    "settings": _TABLE,
}


def check_config(config: dict[str, Any], source: str) -> None:
    """Refuse a `config.json` that lacks something or holds values of other types.

    Args:
        config: as it was read.
        source: its path, for messages.

    Raises:
        CheckpointError: names all that is missing, or the first thing that is wrong.
    """
    missing = [key for key in _NEEDED if not _has(config, key)]
    if missing:
        raise CheckpointError(f"{source} is incomplete: it lacks {', '.join(missing)}.")
    _check(config, _NEEDED | _OPTIONAL, source)


def check_metrics(metrics: dict[str, Any], source: str) -> None:
    """Refuse a `metrics.json` of other types; see `check_config`.

    Raises:
        CheckpointError: names the first thing that is wrong.
    """
    _check(metrics, _METRICS, source)


def _check(values: dict[str, Any], checks: dict[str, Check], source: str) -> None:
    for key, (is_right, wanted) in checks.items():
        if _has(values, key) and not is_right(value := _at(values, key)):
            raise CheckpointError(
                f"{source}: {key} is {value!r:.200}; it must be {wanted}. The file is damaged, or "
                "was made by another program. Bring the model again."
            )


def _has(values: dict[str, Any], dotted: str) -> bool:
    *path, last = dotted.split(".")
    at: Any = values
    for key in path:
        at = at.get(key) if isinstance(at, dict) else None
    return isinstance(at, dict) and last in at


def _at(values: dict[str, Any], dotted: str) -> Any:
    at: Any = values
    for key in dotted.split("."):
        at = at[key]
    return at
