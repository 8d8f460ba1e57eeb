"""The contact sheet: the picture, then the picture once for every word with its map."""

from __future__ import annotations

import math
import textwrap
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from regard.errors import ConfigError
from regard.explain import labels
from regard.explain.fonts import FontChoice, choose_fonts
from regard.explain.maps import absolute_scale, paint, upsample
from regard.explain.provenance import marked
from regard.media import cell_bounds
from regard.types import Caption, Word
from regard.util.atomic import whole_file

_INK, _QUIET, _CHOSEN = "#1d2433", "#667085", "#ff4d4d"
_DRAWN_PIXELS = 360  # longer side of each drawn picture
_MARGIN, _GAP, _HEAD, _LINE = 0.45, 0.16, 0.52, 0.18  # inches
_BAR, _BESIDE_BAR = 2.6, 3.1  # inches: the colour bar, and where the footer's text begins
_NARROWEST = 8.0  # inches; a narrower sheet has no room for bar and footer
_WIDEST = 2.8  # inches; the few panels of a short caption grow no further
_TITLE_SIZE, _WORD_SIZE, _SMALL = 19.0, 13.0, 8.0  # points
_Box = tuple[float, float, float, float]


def contact_sheet(
    caption: Caption, *, smooth: bool = True, columns: int = 0, width: float = 12.0
) -> Figure:
    """Draw where the decoder looked for each word.

    All maps share one absolute scale in multiples of uniform attention, so that a flat map
    looks flat; the footer names the grid, the upsampling and the scale.

    Args:
        caption: with its source picture.
        smooth: the paper's smoothing; False shows the raw cells.
        columns: panels in a row; 0 chooses.
        width: of the figure in inches, at least 8.

    Returns:
        A matplotlib figure; it is neither shown nor registered with pyplot.

    Raises:
        ConfigError: the caption does not hold its picture, its grid is no picture's, or an
            option is out of range.
    """
    if caption.pixels is None:
        raise ConfigError("this caption holds no picture to draw on; caption the file again.")
    if width < _NARROWEST or columns < 0:
        raise ConfigError(
            f"a contact sheet of width {width} and {columns} columns; width must be at least "
            f"{_NARROWEST:g} inches and columns at least 1, or 0 to let it choose."
        )
    top = absolute_scale(caption.trace.alpha, caption.grid, smooth=smooth)
    words = [word.text for word in caption.words]
    fonts = choose_fonts("".join([caption.text, *words, caption.file, caption.model]))
    picture = drawing_of(caption.pixels)
    title = wrapped(fonts.drawable(caption.text) or "(no words)", width, _TITLE_SIZE)
    footer = _footer(caption, fonts, width, smooth)
    layout = _arrange(
        len(words) + 1, picture.shape[0] / picture.shape[1], width, columns,
        title.count("\n") + 1, footer.count("\n") + 1,
    )  # fmt: skip
    figure = Figure(figsize=(width, layout.height), facecolor="white")
    x, y, _, _ = layout.box(_MARGIN, 0.36, 0, 0)
    figure.text(x, y, title, size=_TITLE_SIZE, color=_INK, va="top", family=fonts.families,
                parse_math=False)  # fmt: skip
    first = _panel(figure, layout, 0, picture)
    _label(first, fonts, layout, "picture", f"{caption.grid.source_size[1]} × "
           f"{caption.grid.source_size[0]} pixels", color=_QUIET)  # fmt: skip
    for index, word in enumerate(caption.words, start=1):
        relative = upsample(word.alpha, caption.grid, size_of(picture), smooth=smooth)
        axis = _panel(figure, layout, index, paint(picture, relative, top))
        _label(axis, fonts, layout, word.text, word_numbers(word))
        if word.location is not None:
            frame_cell(axis, caption, word.location, size_of(picture))
    colour_bar(figure, layout.box(_MARGIN, layout.foot + 0.16, _BAR, 0.13), top)
    x, y, _, _ = layout.box(_MARGIN + _BESIDE_BAR, layout.foot, 0, 0)
    figure.text(x, y, footer, size=_SMALL, color=_QUIET, va="top", linespacing=1.5,
                family=fonts.families, parse_math=False)  # fmt: skip
    return figure


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 130) -> None:
    """Write a figure as PNG (or whatever the suffix says), making its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    mark = marked(".png") if path.suffix.lower() == ".png" else None
    with whole_file(path) as new:
        figure.savefig(new, dpi=dpi, metadata=mark)


@dataclass(frozen=True)
class _Layout:
    """Where things lie on the sheet, in inches from its upper left corner."""

    width: float
    height: float
    columns: int
    panel: tuple[float, float]
    top: float
    foot: float

    def box(self, left: float, top: float, wide: float, high: float) -> _Box:
        """Return matplotlib's (left, bottom, width, height) as shares of the figure."""
        bottom = self.height - top - high
        return left / self.width, bottom / self.height, wide / self.width, high / self.height

    def panel_box(self, index: int) -> _Box:
        """Return the place of a panel's picture, its heading left out."""
        row, column = divmod(index, self.columns)
        wide, high = self.panel
        left = _MARGIN + column * (wide + _GAP)
        return self.box(left, self.top + row * (high + _HEAD + _GAP) + _HEAD, wide, high)


def _arrange(
    panels: int, aspect: float, width: float, columns: int, title_lines: int, foot_lines: int
) -> _Layout:
    columns = min(columns, panels) or _balanced(panels)
    # A very long or flat picture must not make a figure of a kilometre.
    aspect = min(3.0, max(0.2, aspect))
    wide = min(_WIDEST, (width - 2 * _MARGIN + _GAP) / columns - _GAP)
    high = wide * aspect
    top = 0.36 + title_lines * _TITLE_SIZE * 1.25 / 72 + 0.12
    rows = math.ceil(panels / columns)
    foot = top + rows * (high + _HEAD + _GAP) + 0.2
    height = foot + max(3, foot_lines) * _LINE + 0.25
    return _Layout(width, height, columns, (wide, high), top, foot)


def _balanced(panels: int) -> int:
    """Return how many panels in a row leave the fewest places empty."""
    if panels <= 6:
        return panels
    return min((6, 5, 4) if panels <= 14 else (6, 7, 5), key=lambda columns: -panels % columns)


def drawing_of(pixels: np.ndarray, side: int = _DRAWN_PIXELS) -> np.ndarray:
    """Return a picture in the size in which it is drawn, by its longer side."""
    picture = Image.fromarray(pixels)
    factor = side / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))


def size_of(picture: np.ndarray) -> tuple[int, int]:
    """Return (height, width) of a drawing."""
    return picture.shape[0], picture.shape[1]


def _panel(figure: Figure, layout: _Layout, index: int, picture: np.ndarray) -> Axes:
    axis = figure.add_axes(layout.panel_box(index))
    axis.imshow(picture, interpolation="antialiased")
    axis.set_axis_off()
    return axis


def _label(
    axis: Axes, fonts: FontChoice, layout: _Layout, word: str, numbers: str, color: str = _INK
) -> None:
    """Write a word and its numbers above its panel, the word as small as needed."""
    word, size = fitted(fonts.drawable(word), layout.panel[0])
    axis.annotate(word, (0.5, 1), (0, 19), "axes fraction", "offset points", ha="center",
                  va="baseline", size=size, color=color, family=fonts.families,
                  parse_math=False)  # fmt: skip
    axis.annotate(numbers, (0.5, 1), (0, 5), "axes fraction", "offset points", ha="center",
                  va="baseline", size=min(_SMALL, 3.6 * layout.panel[0]), color=_QUIET)  # fmt: skip


def fitted(word: str, width: float) -> tuple[str, float]:
    """Return a word as it fits a width in inches, and its size in points; cut where it must be."""
    room = width * 72 / 0.62  # points, for letters 0.62 of their size wide
    if _ems(word) * _SMALL > room:
        word = word[: max(1, int(room / _SMALL * len(word) / _ems(word)) - 1)] + "…"
    return word, min(_WORD_SIZE, room / max(1, _ems(word)))


def word_numbers(word: Word) -> str:
    """Return the line of numbers that stands below a word."""
    beta = "" if word.beta is None else f"   β {word.beta:.2f}"
    return f"p {math.exp(word.logprob):.2f}   peak {word.peak:.0%}{beta}"


def frame_cell(axis: Axes, caption: Caption, cell: int, size: tuple[int, int]) -> None:
    """Frame the one cell that hard attention looked at."""
    (top, bottom), (left, right) = cell_bounds(caption.grid, cell)
    y, x = (drawn / full for drawn, full in zip(size, caption.grid.source_size, strict=True))
    corner = (left * x - 0.5, top * y - 0.5)  # pixel centres are whole numbers in matplotlib
    axis.add_patch(Rectangle(corner, (right - left) * x, (bottom - top) * y, fill=False,
                             edgecolor=_CHOSEN, linewidth=1.8))  # fmt: skip


def colour_bar(figure: Figure, place: _Box, top: float) -> None:
    """Draw the scale as it looks on a mid-grey picture, with a mark at uniform."""
    axis = figure.add_axes(place, label="colour bar")
    grey = np.full((1, 256, 3), 140, np.uint8)
    ramp = np.linspace(0, top, 256)[None]
    axis.imshow(paint(grey, ramp, top), extent=(0, top, 0, 1), aspect="auto")
    axis.axvline(1.0, color="white", linewidth=1.2)
    axis.annotate("1 = uniform", (1.0, 1.0), (0, 3), "data", "offset points", size=_SMALL,
                  color=_QUIET)  # fmt: skip
    axis.set_xticks([0.0, top], ["0", f"{top:.1f}×"])
    axis.set_yticks([])
    axis.tick_params(labelsize=_SMALL, labelcolor=_QUIET, length=0, pad=3)
    axis.spines[:].set_visible(False)


def _footer(caption: Caption, fonts: FontChoice, width: float, smooth: bool) -> str:
    framed = any(word.location is not None for word in caption.words)
    drawn = [
        labels.cells(caption.grid),
        labels.smoothed(caption.grid) if smooth else "raw",
        labels.FRAMED if framed else "",
        labels.covered(caption.grid),
    ]
    source = [*caption.notices, Path(caption.file).name, caption.model, fonts.note]
    lines = [
        labels.looked(caption.trace),
        ", ".join(filter(None, drawn)),
        labels.SCALE,
        "  ·  ".join(filter(None, source)),
    ]
    return "\n".join(wrapped(fonts.drawable(x), width - _BESIDE_BAR, _SMALL) for x in lines)


def place(figure: Figure, left: float, top: float, wide: float, high: float) -> _Box:
    """Return matplotlib's (left, bottom, width, height) of a place in inches from above."""
    width, height = figure.get_figwidth(), figure.get_figheight()
    return left / width, (height - top - high) / height, wide / width, high / height


def wrapped(text: str, width: float, size: float) -> str:
    """Break a text of `size` points into lines that fit a sheet `width` inches wide."""
    room = (width - 2 * _MARGIN) * 72 / (0.6 * size)
    letters = int(room * len(text) / max(1, _ems(text)))
    return "\n".join(textwrap.wrap(text, max(1, letters))) or text


def _ems(text: str) -> int:
    """Return the width of a text in narrow letters; those of East Asia are twice as wide."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
