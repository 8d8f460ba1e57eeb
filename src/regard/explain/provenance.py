"""The mark that drawings bear: a later run writes over a drawing, and over nobody's own picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

_MARK = "regard"
_SOFTWARE = 0x0131  # the field of EXIF that names the program


def marked(suffix: str) -> dict[str, Any]:
    """Return what marks a drawing: metadata of a PNG, else options of Pillow's `save`.

    Args:
        suffix: of the file's name; what can bear no mark gets none.
    """
    if suffix == ".png":
        return {"Software": _MARK}
    if suffix == ".gif":
        return {"comment": _MARK.encode()}
    if suffix == ".webp":
        exif = Image.Exif()
        exif[_SOFTWARE] = _MARK
        return {"exif": exif}
    return {}


def is_drawing(path: Path) -> bool:
    """Whether a file bears the mark; what is no picture, or cannot be read, bears none."""
    try:
        with Image.open(path) as image:
            held = image.info.get("Software"), image.info.get("comment")
            return _MARK in held or _MARK.encode() in held or _says(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def _says(image: Image.Image) -> bool:
    return image.format == "WEBP" and image.getexif().get(_SOFTWARE) == _MARK
