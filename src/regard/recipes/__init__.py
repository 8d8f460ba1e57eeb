"""Recipes as TOML: those that ship with regard, users' files, and overrides of settings."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from regard.config import EncoderConfig, Recipe
from regard.config.io import from_dict, to_dict
from regard.errors import ConfigError, UnknownName
from regard.util.safe_io import Unreadable, text_of

OWN = {"image": "own-data", "video": "own-clips", "volume": "own-scans"}
"""The recipe for a user's own media, used if none is named."""
FINE_TUNE = "fine-tune"
"""The recipe for training from a model, used if none is named; it has no networks of its own."""

ENCODERS = {
    "clip-vit-b16": {"name": "clip_vit_b16", "image_size": 224, "level": "last"},
    "lite0": {"name": "efficientnet_lite0", "image_size": 224, "level": "stride32"},
    "lite2": {"name": "efficientnet_lite2", "image_size": 288, "level": "stride32"},
}
"""Settings of encoders by the short names of `regard train --encoder`."""


def shipped_recipes() -> dict[str, Path]:
    """Return the shipped recipes' files by name."""
    root = Path(str(files(__name__)))
    return {path.stem: path for path in sorted(root.glob("*.toml"))}


def find_recipe(name: str) -> Recipe:
    """Read a recipe by its path or shipped name.

    Raises:
        UnknownName: it is neither a file nor a shipped recipe.
        ConfigError: a value in the file is wrong.
    """
    shipped = shipped_recipes()
    if name in shipped:
        return load_recipe(shipped[name])
    if Path(name).suffix == ".toml" or Path(name).is_file():
        return load_recipe(name)
    raise UnknownName("recipe", name, shipped)


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe from TOML.

    Args:
        path: the TOML file.
        overrides: `section.key=value` settings that override it.

    Raises:
        ConfigError: the file is missing or not TOML, or a value is wrong.
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
        raise ConfigError(f"the recipe {path} is not valid TOML: {error}.") from error
    return override(from_dict(Recipe, values), overrides or [])


def with_encoder(recipe: Recipe, name: str) -> Recipe:
    """Return a recipe with another encoder, at the size and level that suit it.

    Whole pictures are squashed to squares. Fine-tuning and weights of the recipe's own encoder are
    reset; the medium and its settings are kept.

    Args:
        recipe: the recipe.
        name: one of `ENCODERS`, or `timm:NAME`, whose last feature map is read.

    Raises:
        UnknownName: the encoder is unknown.
    """
    settings = ENCODERS.get(name)
    if name.startswith("timm:"):
        settings = {"name": name, "image_size": 224, "level": "-1"}
    if settings is None:
        raise UnknownName("encoder", name, (*ENCODERS, "timm:NAME"))
    old = recipe.encoder
    kept = {"medium": old.medium, "video": old.video, "volume": old.volume}
    encoder = EncoderConfig(resize="squash", **settings, **kept)  # type: ignore[arg-type]
    return replace(recipe, encoder=encoder)


def override(recipe: Recipe, settings: list[str]) -> Recipe:
    """Return a recipe with `section.key=value` overrides applied.

    A value is read as TOML, or else as a string.

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
