"""From TOML and plain values to recipes, and back.

Unknown keys are refused with the nearest known name. This module imports neither torch nor numpy.
"""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from regard.config import Recipe
from regard.errors import ConfigError, UnknownName
from regard.util.safe_io import Unreadable, text_of

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config dataclass as plain values, ready for JSON or TOML."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in (
            (f.name, to_dict(v) if is_dataclass(v) else v)
            for f, v in ((f, getattr(config, f.name)) for f in fields(config))
        )
    }


def from_dict(cls: type[T], values: dict[str, Any], section: str = "") -> T:
    """Build a config dataclass, refusing unknown keys and wrong types.

    Args:
        cls: the dataclass.
        values: plain values, as TOML or JSON gives them.
        section: the dotted name so far, for messages.

    Raises:
        ConfigError: a value has the wrong type or is out of range.
        UnknownName: a key does not exist; near names are listed.
    """
    hints = get_type_hints(cls)
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    made: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{section}.{key}" if section else key
        if key not in known:
            raise UnknownName(f"key in {section or 'the recipe'}", key, known)
        made[key] = _convert(hints[key], value, dotted)
    return cls(**made)


def _convert(hint: Any, value: Any, dotted: str) -> Any:
    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{dotted} is {value!r}; it must be a table of settings.")
        return from_dict(hint, value, dotted)  # type: ignore[arg-type]
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value, dotted)
    if hint == tuple[int, ...] and isinstance(value, list | tuple):
        if all(isinstance(v, int) and not isinstance(v, bool) for v in value):
            return tuple(value)
    elif hint == tuple[str, ...] and isinstance(value, list | tuple):
        if all(isinstance(v, str) for v in value):
            return tuple(value)
    elif _is_floats(hint) and isinstance(value, list | tuple):
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
            return tuple(_finite(v, dotted) for v in value)
    elif isinstance(hint, type) and isinstance(value, hint):
        # To Python True is an int; to a recipe it is not.
        if hint is bool or not isinstance(value, bool):
            return value
    wanted = hint.__name__ if isinstance(hint, type) else str(hint)
    raise ConfigError(f"{dotted} is {value!r} ({type(value).__name__}); it must be {wanted}.")


def _finite(value: float, dotted: str) -> float:
    try:
        made = float(value)
    except OverflowError:  # of a whole number of more than 308 digits
        made = math.inf
    if not math.isfinite(made):
        raise ConfigError(f"{dotted} is {value!r:.100}; it must be a finite number.")
    return made


def _is_floats(hint: Any) -> bool:
    return get_origin(hint) is tuple and set(get_args(hint)) <= {float, Ellipsis}


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe from TOML.

    Args:
        path: the TOML file.
        overrides: `section.key=value` settings laid over it.

    Raises:
        ConfigError: the file is missing or no TOML, or a value is wrong.
        UnknownName: a key does not exist.
    """
    import tomllib  # takes long to import, and a stored recipe is JSON

    try:
        text = text_of(Path(path))
    except Unreadable as error:
        raise ConfigError(f"the recipe {path} cannot be read: {error}.") from error
    try:
        values = tomllib.loads(text)
    except RecursionError as error:
        raise ConfigError(f"the recipe {path} is nested too deeply.") from error
    except ValueError as error:  # of more digits than Python takes, too
        raise ConfigError(f"the recipe {path} is no valid TOML: {error}.") from error
    return override(from_dict(Recipe, values), overrides or [])


def override(recipe: Recipe, settings: list[str]) -> Recipe:
    """Lay `section.key=value` settings over a recipe.

    A value is read as TOML; what is no TOML is taken as a string.

    Raises:
        ConfigError: a setting has no `=` or a wrong value.
        UnknownName: a key does not exist.
    """
    values = to_dict(recipe)
    for setting in settings:
        dotted, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"the setting {setting!r} has no '='; write section.key=value.")
        *sections, key = dotted.strip().split(".")
        target = values
        for section in sections:
            if not isinstance(target.get(section), dict):
                raise UnknownName(
                    "section", section, [k for k, v in target.items() if isinstance(v, dict)]
                )
            target = target[section]
        target[key] = _parse(text.strip())
    return from_dict(Recipe, values)


def _parse(text: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
