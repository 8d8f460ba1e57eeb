"""The recipes that ship with regard, one TOML each."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from regard.config import Recipe
from regard.config.io import load_recipe
from regard.errors import UnknownName

OWN = {"image": "own-data", "video": "own-clips", "volume": "own-scans"}
"""The recipe for a user's own media, where none is named."""
FINE_TUNE = "fine-tune"
"""What is trained from a model, where no recipe is named; it has no networks of its own."""


def shipped_recipes() -> dict[str, Path]:
    """Return the shipped recipes' files by name."""
    root = Path(str(files(__name__)))
    return {path.stem: path for path in sorted(root.glob("*.toml"))}


def find_recipe(name: str) -> Recipe:
    """Read a recipe by its path or shipped name.

    Raises:
        UnknownName: neither a file nor a shipped recipe.
        ConfigError: the file holds something wrong.
    """
    shipped = shipped_recipes()
    if name in shipped:
        return load_recipe(shipped[name])
    if Path(name).suffix == ".toml" or Path(name).is_file():
        return load_recipe(name)
    raise UnknownName("recipe", name, shipped)
