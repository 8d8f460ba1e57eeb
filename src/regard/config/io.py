"""Config dataclasses from plain values and back, and the limits of their values.

An unknown key is an error that names the nearest known key. A limit stands in a field's type, as in
`Annotated[int, Range(1, 4096)]`. This module imports neither torch nor numpy.
"""

import math
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

from regard.errors import ConfigError, UnknownName

T = TypeVar("T")


class OneOf:
    """A limit: the value is one of several names."""

    def __init__(self, *names: str) -> None:
        """Take the names."""
        self.names = names

    def fault(self, value: Any) -> str:
        """Return what the value must be, or "" if it is right."""
        return "" if value in self.names else f"it must be one of {', '.join(self.names)}"


@dataclass(frozen=True)
class Range:
    """A limit: the value, or every one of several, lies between two numbers.

    Attributes:
        low: the smallest.
        high: the largest.
        exclusive: whether `low` itself is too small.
    """

    low: float
    high: float = math.inf
    exclusive: bool = False

    def fault(self, value: Any) -> str:
        """Return what the value must be, or "" if it is right."""
        values = value if isinstance(value, tuple) else (value,)
        if all(self.low <= v <= self.high and (v > self.low or not self.exclusive) for v in values):
            return ""
        if self.exclusive:
            return f"it must be above {self.low}"
        if self.high == math.inf:
            return f"it must be {self.low} or more"
        return f"it must lie between {self.low} and {self.high}"


class Length:
    """A limit on the number of values."""

    def __init__(self, *lengths: int) -> None:
        """Take the lengths that are allowed."""
        self.lengths = lengths

    def fault(self, value: Any) -> str:
        """Return what the value must be, or "" if it is right."""
        wanted = " or ".join(map(str, self.lengths))
        return "" if len(value) in self.lengths else f"it must be a list of {wanted} numbers"


class Section:
    """A table of a recipe. Its values are checked against their limits when it is made."""

    _section: ClassVar[str]

    def __init_subclass__(cls, *, section: str) -> None:
        """Note the dotted name of the table, for messages."""
        cls._section = section

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            if get_origin(hint) is not Annotated:
                continue
            value = getattr(self, name)
            for limit in get_args(hint)[1:]:
                if fault := limit.fault(value):
                    shown = list(value) if isinstance(value, tuple) else value
                    raise ConfigError(f"{self._section}.{name} is {shown!r}; {fault}.")


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config dataclass as plain values, ready for JSON or TOML."""
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    return {
        key: to_dict(v) if is_dataclass(v) else list(v) if isinstance(v, tuple) else v
        for key, v in values.items()
    }


def from_dict(cls: type[T], values: dict[str, Any], section: str = "") -> T:
    """Build a config dataclass; unknown keys and wrong types are errors.

    Args:
        cls: the dataclass.
        values: plain values, as TOML or JSON gives them.
        section: the dotted name so far, for messages.

    Raises:
        ConfigError: a value has the wrong type or is out of range.
        UnknownName: a key does not exist; near names are listed.
    """
    hints = _hints(cls)
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    made: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{section}.{key}" if section else key
        if key not in known:
            raise UnknownName(f"key in {section or 'the recipe'}", key, known)
        made[key] = _convert(hints[key], value, dotted)
    return cls(**made)


def _convert(hint: Any, value: Any, dotted: str) -> Any:
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{dotted} is {value!r}; it must be a table of settings.")
        return from_dict(hint, value, dotted)  # type: ignore[arg-type]
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value, dotted)
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(_convert(get_args(hint)[0], one, dotted) for one in value)
    if isinstance(hint, type) and isinstance(value, hint):
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
