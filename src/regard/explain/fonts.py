"""Fonts that have the caption's script, or word of what is missing."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

_DEFAULT = "DejaVu Sans"  # comes with matplotlib
_NO_TEXT = ("Last Resort", "cmb", "cmex", "cmmi", "cmr", "cmss", "cmsy", "cmtt")
"""matplotlib's own placeholder font, which claims every character, and its fonts for formulas,
whose tables name other characters than they draw."""
_STAND_IN = "□"
_NAMED = 6  # missing characters that a note lists


@dataclass(frozen=True)
class FontChoice:
    """Fonts for a text.

    Attributes:
        families: in the order in which matplotlib shall look for each character.
        missing: the characters that no installed font has, sorted; "" where none is missing.
    """

    families: tuple[str, ...]
    missing: str

    def drawable(self, text: str) -> str:
        """Return the text on one line, with a □ for every character that no font has."""
        line = " ".join("".join(" " if _is_blank(c) else c for c in text).split())
        return line.translate({ord(c): _STAND_IN for c in self.missing})

    @property
    def note(self) -> str:
        """What a reader should know of missing characters; "" where none is missing."""
        if not self.missing:
            return ""
        named = " ".join(f"U+{ord(c):04X}" for c in self.missing[:_NAMED])
        more = len(self.missing) - _NAMED
        named += f" and {more} more" if more > 0 else ""
        scripts = ", ".join(sorted(set(filter(None, map(_script, self.missing)))))
        return f"no installed font has {scripts + ': ' if scripts else ''}{named}"


def choose_fonts(text: str) -> FontChoice:
    """Choose installed fonts that together have every character of a text.

    DejaVu Sans comes first; as long as characters are missing, the font that has most of
    them joins.

    Args:
        text: what shall be drawn.
    """
    missing = {c for c in text if not _is_blank(c)}
    missing -= _characters(font_manager.findfont(_DEFAULT))
    families = [_DEFAULT]
    while missing:
        found = max(_text_fonts(), key=lambda font: len(missing & _characters(font[1])))
        if not missing & _characters(found[1]):
            break
        families.append(found[0])
        missing -= _characters(found[1])
    return FontChoice(tuple(families), "".join(sorted(missing)))


def _script(character: str) -> str:
    """Return the script of a letter or mark, such as "Devanagari"; "" of anything else.

    Python knows no scripts, but every letter's Unicode name begins with its script's.
    """
    if unicodedata.category(character)[0] not in "LM":
        return ""
    script = unicodedata.name(character, "").partition(" ")[0]
    return script if script == "CJK" else script.title()


def _is_blank(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) == "Cc"


def _text_fonts() -> list[tuple[str, str]]:
    """Return (family, path) of the upright fonts that matplotlib knows, regular ones first."""
    upright = [
        entry
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal" and not entry.name.startswith(_NO_TEXT)
    ]
    upright.sort(key=lambda entry: (entry.weight not in (400, "normal", "regular"), entry.name))
    return [(entry.name, str(entry.fname)) for entry in upright]


@lru_cache(maxsize=1024)
def _characters(path: str) -> frozenset[str]:
    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError):
        return frozenset()  # a font file that cannot be read serves nothing
