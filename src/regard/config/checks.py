"""What every section of a recipe asks of its values."""

from __future__ import annotations

from regard.errors import ConfigError


def one_of(section: str, name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise a ConfigError where a value is none of those."""
    if value not in allowed:
        raise ConfigError(f"{section}.{name} is {value!r}; it must be one of {', '.join(allowed)}.")


def at_least(section: str, name: str, value: float, low: float) -> None:
    """Raise a ConfigError where a value is less than that, or no number."""
    if not value >= low:
        raise ConfigError(f"{section}.{name} is {value}; it must be {low} or more.")


def in_range(section: str, name: str, value: float, low: float, high: float) -> None:
    """Raise a ConfigError where a value is less or more than that, or no number."""
    if not low <= value <= high:
        raise ConfigError(f"{section}.{name} is {value}; it must lie between {low} and {high}.")
