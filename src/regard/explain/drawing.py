"""Shared parts of all drawings: colours, margins, layout, fonts, labels, provenance."""

from __future__ import annotations

import math
import textwrap
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from PIL import Image

from regard.errors import ConfigError
from regard.explain.maps import ENLARGE, paint, sigma_cells
from regard.types import AttentionTrace, Caption, Grid, Word
from regard.util.atomic import whole_file

INK, QUIET, FAINT = "#1d2433", "#667085", "#c3cad6"
CHOSEN, WARNING = "#ff4d4d", "#b42318"
"""The cell that hard attention chose, and notices such as "not for clinical use"."""
OUTLINE = "#10141c"
"""Around white letters and lines on a picture."""
GREY = 140
"""The shade below a colour that lies on no picture, as in the colour bar."""
MARGIN = 0.45
"""Inches around a figure."""
BESIDE_BAR = 3.1
"""Inches from the left margin to the text beside a colour bar."""
NARROWEST = 8.0
"""Least width of a figure in inches; a narrower one has no room for colour bar and footer."""
WORD_SIZE, SMALL = 13.0, 8.0
"""Points."""
Box = tuple[float, float, float, float]
"""matplotlib's (left, bottom, width, height) as shares of a figure."""
_TITLE_SIZE, _TITLE_TOP = 19.0, 0.36  # points, inches
_LINE = 0.18  # inches of a footer's line


# Layout


@dataclass(frozen=True)
class PanelGrid:
    """Panels of one size in rows, in inches from the figure's upper left corner.

    Attributes:
        columns: panels in a row.
        wide: width of a panel.
        high: height of what is drawn in a panel.
        text: height of the text above or below that.
        gap: between two panels.
        top: top of the first row.
        margin: left of the first column.
    """

    columns: int
    wide: float
    high: float
    text: float
    gap: float
    top: float
    margin: float = MARGIN

    def corner(self, index: int) -> tuple[float, float]:
        """Return (left, top) of a panel."""
        row, column = divmod(index, self.columns)
        left = self.margin + column * (self.wide + self.gap)
        return left, self.top + row * (self.high + self.text + self.gap)

    def bottom(self, panels: int) -> float:
        """Return where the rows of that many panels end, the last gap included."""
        rows = math.ceil(panels / self.columns)
        return self.top + rows * (self.high + self.text + self.gap)


@dataclass(frozen=True)
class Title:
    """A caption's text as the title of a figure, in one or more lines of `size` points."""

    text: str
    size: float

    @classmethod
    def from_caption(
        cls, caption: Caption, fonts: FontChoice, width: float, size: float = _TITLE_SIZE
    ) -> Title:
        """Break a caption's text into lines that fit a figure `width` inches wide."""
        return cls(wrapped(fonts.drawable(caption.text) or "(no words)", width, size), size)

    @property
    def bottom(self) -> float:
        """The title's lower edge, in inches from the figure's upper edge."""
        return _TITLE_TOP + (self.text.count("\n") + 1) * self.size * 1.25 / 72


class Canvas:
    """A figure that is drawn on in inches from its upper left corner.

    Attributes:
        figure: not registered with pyplot.
        fonts: fonts of its text.
    """

    def __init__(
        self, width: float, height: float, fonts: FontChoice, title: Title | None = None,
        *, linespacing: float | None = None,
    ) -> None:  # fmt: skip
        """Create an empty white figure of a size in inches.

        Args:
            width: width of the figure.
            height: height of the figure.
            fonts: fonts of its text.
            title: drawn at the top.
            linespacing: line spacing of its text; None: that of each font.
        """
        self.figure = Figure(figsize=(width, height), facecolor="white")
        self.fonts = fonts
        self._linespacing = linespacing
        self._width, self._height = width, height
        if title is not None:
            self.write(MARGIN, _TITLE_TOP, title.text, title.size)

    def box(self, left: float, top: float, wide: float, high: float) -> Box:
        """Return a place as matplotlib's (left, bottom, width, height)."""
        bottom = self._height - top - high
        return left / self._width, bottom / self._height, wide / self._width, high / self._height

    def axes(self, left: float, top: float, wide: float, high: float, label: str = "") -> Axes:
        """Add axes without frame and ticks."""
        axis = self.figure.add_axes(self.box(left, top, wide, high), label=label)
        axis.set_axis_off()
        return axis

    def write(
        self, left: float, top: float, text: str, size: float, colour: str = INK, **options: Any
    ) -> None:
        """Write a text that hangs from a place; `options` are those of matplotlib's texts."""
        x, y, _, _ = self.box(left, top, 0, 0)
        style: dict[str, Any] = {"size": size, "color": colour, "va": "top", "parse_math": False}
        style |= {"family": self.fonts.families, "linespacing": self._linespacing}
        self.figure.text(x, y, text, **style | options)

    def colour_bar(
        self, left: float, top: float, scale: float, wide: float = 2.6, high: float = 0.13
    ) -> None:
        """Draw the colour scale as it looks on a mid-grey picture, with a mark at uniform.

        Args:
            left: inches.
            top: inches.
            scale: top of the scale in multiples of uniform.
            wide: inches.
            high: inches.
        """
        axis = self.figure.add_axes(self.box(left, top, wide, high), label="colour bar")
        grey = np.full((1, 256, 3), GREY, np.uint8)
        ramp = np.linspace(0, scale, 256)[None]
        axis.imshow(paint(grey, ramp, scale), extent=(0, scale, 0, 1), aspect="auto")
        axis.axvline(1.0, color="white", linewidth=1.2)
        axis.annotate("1 = uniform", (1.0, 1.0), (0, 3), "data", "offset points", size=SMALL,
                      color=QUIET)  # fmt: skip
        axis.set_xticks([0.0, scale], ["0", f"{scale:.1f}×"])
        axis.set_yticks([])
        axis.tick_params(labelsize=SMALL, labelcolor=QUIET, length=0, pad=3)
        axis.spines[:].set_visible(False)


def wrapped(text: str, width: float, size: float) -> str:
    """Break a text of `size` points into lines that fit a figure `width` inches wide."""
    room = (width - 2 * MARGIN) * 72 / (0.6 * size)
    letters = int(room * len(text) / max(1, _ems(text)))
    return "\n".join(textwrap.wrap(text, max(1, letters))) or text


def fitted(word: str, width: float) -> tuple[str, float]:
    """Return a word that fits a width in inches, cut if necessary, and its size in points.

    The size shrinks down to `SMALL`; a word that is still too long is cut.
    """
    room = width * 72 / 0.62  # points, for letters 0.62 of their size wide
    if _ems(word) * SMALL > room:
        word = word[: max(1, int(room / SMALL * len(word) / _ems(word)) - 1)] + "…"
    return word, min(WORD_SIZE, room / max(1, _ems(word)))


def _ems(text: str) -> int:
    """Return the width of a text in narrow letters; those of East Asia are twice as wide."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def picture_of(caption: Caption) -> np.ndarray:
    """Return the pixels of a captioned picture, (height, width, 3) uint8.

    Raises:
        ConfigError: the caption does not hold its picture.
    """
    if caption.pixels is None:
        raise missing_source("picture")
    return caption.pixels


def missing_source(noun: str) -> ConfigError:
    """Return the error for a caption that does not hold its source."""
    return ConfigError(
        f"This caption holds no {noun} to draw on: caption the file again with `keep_pixels`."
    )


# Files and their provenance: a later run may overwrite a drawing, but no other picture.

_MARK = "regard"
_SOFTWARE = 0x0131  # the EXIF field that names the program


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 130) -> None:
    """Write a figure as PNG, or in the format that the suffix names. Its folder is created."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    mark = provenance_mark(".png") if path.suffix.lower() == ".png" else None
    with whole_file(path) as new:
        figure.savefig(new, dpi=dpi, metadata=mark)


def provenance_mark(suffix: str) -> dict[str, Any]:
    """Return the metadata that mark a file as a drawing of regard.

    Args:
        suffix: suffix of the file's name.

    Returns:
        Metadata of a PNG, else options of Pillow's `save`; empty for formats without a mark.
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
    """Return whether a file has the mark; False for a file that is not a readable picture."""
    try:
        with Image.open(path) as image:
            held = image.info.get("Software"), image.info.get("comment")
            if _MARK in held or _MARK.encode() in held:
                return True
            return image.format == "WEBP" and image.getexif().get(_SOFTWARE) == _MARK
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


# Labels

SCALE_NOTE = "One absolute scale for the whole caption, in multiples of uniform attention 1/L"
CHOSEN_NOTE = "framed: the chosen cell"
NAMED_NOTE = "dotted: the cell that a word was named from"


def attention_label(trace: AttentionTrace) -> str:
    """Describe the maps and the kind of attention."""
    kind = f"{trace.attention} attention"
    if trace.attention == "hard":
        kind += f", {trace.context} location"
    return f"Where the decoder looked ({kind})"


def grid_label(grid: Grid) -> str:
    """Name the grid, such as "7×7 cells"."""
    return f"{'×'.join(map(str, grid.shape))} cells"


def smoothing_label(grid: Grid) -> str:
    """Name the smoothing, such as "enlarged ×16, Gaussian σ 0.62 cells"."""
    counts = [sum(grid.real_along(axis)) for axis in range(3)] if grid.affine else grid.shape
    sigmas = dict.fromkeys(f"{sigma_cells(count):.2f}" for count in counts)
    return f"enlarged ×{ENLARGE}, Gaussian σ {' × '.join(sigmas)} cells"


def coverage_label(grid: Grid, look: str = "faded") -> str:
    """Name the parts of source and grid that have no map; "" if the two coincide.

    Args:
        grid: the grid.
        look: how that part of the source is drawn.
    """
    spans = list(zip(grid.extent, grid.source_size, strict=True))
    notes: list[str] = []
    if any(start > 0 or stop < size for (start, stop), size in spans):
        notes.append(f"{look}: not seen by the encoder")
    if any(start < 0 or stop > size for (start, stop), size in spans):
        notes.append("cells on the padding not drawn")
    return ", ".join(notes)


def chosen_label(caption: Caption) -> str:
    """Explain the frame around a cell that hard attention chose; "" if no cell is framed."""
    framed = any(word.location is not None for word in caption.words)
    return CHOSEN_NOTE if framed else ""


def beta_label(word: Word, before: str = "   ") -> str:
    """Return a word's gate, such as "   β 0.93"; "" without a gate."""
    return "" if word.beta is None else f"{before}β {word.beta:.2f}"


def named_label(word: Word, before: str = "") -> str:
    """Return where a word was named, such as "named from cell (3, 4)"; "" of other words.

    The numbers are those of the caption's JSON: an index on each axis of the grid, from 0.
    """
    if word.source != "concept" or word.cell is None:
        return ""
    return f"{before}named from cell ({', '.join(map(str, word.cell))})"


def map_notes(caption: Caption, *, smooth: bool) -> list[str]:
    """Return remarks on how a caption's maps are drawn; some may be empty."""
    grid = caption.grid
    return [grid_label(grid), smoothing_label(grid) if smooth else "raw", chosen_label(caption),
            coverage_label(grid)]  # fmt: skip


def footer_height(footer: str, least: int = 0) -> float:
    """Return the height of a footer's lines, or of the least number of lines, in inches."""
    return max(least, footer.count("\n") + 1) * _LINE


def footer(
    caption: Caption, fonts: FontChoice, width: float, drawn: list[str], source: list[str],
    scale: str = SCALE_NOTE,
) -> str:  # fmt: skip
    """Return the lines at a figure's foot: attention, what is drawn, scale, source.

    Args:
        caption: the drawn caption.
        fonts: fonts of the figure.
        width: inches that the lines must fit.
        drawn: remarks on how the maps are drawn; empty ones are left out.
        source: remarks on file and model, likewise.
        scale: the name of the scale, in one or more lines.
    """
    lines = [attention_label(caption.trace), ", ".join(filter(None, drawn)), *scale.split("\n"),
             "  ·  ".join(filter(None, [*source, fonts.note]))]  # fmt: skip
    return "\n".join(wrapped(fonts.drawable(line), width, SMALL) for line in lines)


# Fonts

_DEFAULT_FONT = "DejaVu Sans"  # comes with matplotlib
_NO_TEXT = ("Last Resort", "cmb", "cmex", "cmmi", "cmr", "cmss", "cmsy", "cmtt")
"""matplotlib's own placeholder font, which claims every character, and its fonts for formulas,
whose tables name other characters than they draw."""
_STAND_IN = "□"
_NAMED = 6  # missing characters that a note lists


@dataclass(frozen=True)
class FontChoice:
    """Fonts for a text.

    Attributes:
        families: font families in the order in which matplotlib searches them.
        missing: the characters that no installed font has, sorted.
    """

    families: tuple[str, ...]
    missing: str

    def drawable(self, text: str) -> str:
        """Return the text on one line, with a □ for every character that no font has."""
        line = " ".join("".join(" " if _is_blank(c) else c for c in text).split())
        return line.translate({ord(c): _STAND_IN for c in self.missing})

    @property
    def note(self) -> str:
        """A remark on missing characters; "" if none is missing."""
        if not self.missing:
            return ""
        named = " ".join(f"U+{ord(c):04X}" for c in self.missing[:_NAMED])
        more = len(self.missing) - _NAMED
        named += f" and {more} more" if more > 0 else ""
        scripts = ", ".join(sorted(set(filter(None, map(_script, self.missing)))))
        return f"no installed font has {scripts + ': ' if scripts else ''}{named}"


def choose_fonts(text: str) -> FontChoice:
    """Choose installed fonts that together have every character of a text.

    DejaVu Sans comes first. As long as characters are missing, the font that has most of
    them joins.

    Args:
        text: all that will be drawn.
    """
    missing = {c for c in text if not _is_blank(c)}
    missing -= _characters(font_manager.findfont(_DEFAULT_FONT))
    families = [_DEFAULT_FONT]
    while missing:
        found = max(_text_fonts(), key=lambda font: len(missing & _characters(font[1])))
        if not missing & _characters(found[1]):
            break
        families.append(found[0])
        missing -= _characters(found[1])
    return FontChoice(tuple(families), "".join(sorted(missing)))


def caption_fonts(*captions: Caption) -> FontChoice:
    """Choose fonts for captions with their words, files and models."""
    texts = [
        "".join([caption.text, caption.file, caption.model, *(w.text for w in caption.words)])
        for caption in captions
    ]
    return choose_fonts("".join(texts))


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
        return frozenset()  # an unreadable font file is skipped
