"""A font that has the caption's script, or word of what is missing."""

from __future__ import annotations

from functools import lru_cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font


def font_for(text: str) -> tuple[str, str]:
    """Choose a font family for a text.

    Args:
        text: what shall be drawn.

    Returns:
        The family, and the characters of the text that it lacks ("" where it has all). Of
        all installed fonts the first that has every character is taken, the default first.
    """
    wanted = {c for c in text if not c.isspace()}
    default = font_manager.FontProperties(family="DejaVu Sans")
    path = font_manager.findfont(default)
    best, lacking = "DejaVu Sans", wanted - _characters(path)
    for entry in font_manager.fontManager.ttflist if lacking else ():
        missing = wanted - _characters(entry.fname)
        if len(missing) < len(lacking):
            best, lacking = entry.name, missing
        if not lacking:
            break
    return best, "".join(sorted(lacking))


@lru_cache(maxsize=256)
def _characters(path: str) -> frozenset[str]:
    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError):
        return frozenset()  # a font file that cannot be read serves nothing
