"""Contact sheets: one panel per word with its map, for one or several models."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from regard.errors import ConfigError
from regard.explain.drawing import (
    BESIDE_BAR,
    CHOSEN,
    INK,
    MARGIN,
    NAMED_NOTE,
    NARROWEST,
    QUIET,
    SMALL,
    Canvas,
    PanelGrid,
    Title,
    attention_label,
    beta_label,
    caption_fonts,
    fitted,
    footer,
    footer_height,
    grid_label,
    map_notes,
    picture_of,
    smoothing_label,
)
from regard.explain.maps import absolute_scale, drawing_of, paint, size_of, upsample
from regard.media import cell_bounds
from regard.types import Caption, Word

_GAP, _HEAD = 0.16, 0.52  # inches between panels, and of a panel's word and numbers
_WIDEST = 2.8  # inches; the few panels of a short caption grow no further

_CELL, _NARROW_GAP, _NARROW_MARGIN = 1.55, 0.12, 0.4  # inches of a comparison: panel, gap, margin
_ROW_HEAD, _PANEL_HEAD, _FOOT = 0.75, 0.4, 0.85  # inches
_FLATTEST, _TALLEST = 0.3, 2.0  # height of a comparison's panel in its widths


def contact_sheet(
    caption: Caption, *, smooth: bool = True, columns: int = 0, width: float = 12.0
) -> Figure:
    """Draw where the decoder looked for each word.

    All maps share one absolute scale in multiples of uniform attention, so that a flat map
    looks flat. The footer names the grid, the upsampling and the scale.

    Args:
        caption: with its source picture.
        smooth: the paper's smoothing; False shows the raw cells.
        columns: panels in a row; 0 chooses.
        width: width of the figure in inches, at least 8.

    Returns:
        A matplotlib figure; it is neither shown nor registered with pyplot.

    Raises:
        ConfigError: the caption does not hold its picture, its grid is not one of rows and
            columns, or an option is out of range.
    """
    pixels = picture_of(caption)
    if width < NARROWEST or columns < 0:
        raise ConfigError(
            f"Cannot draw a contact sheet of width {width} with {columns} columns: the width must "
            f"be at least {NARROWEST:g} inches and columns at least 1, or 0 to choose."
        )
    grid = caption.grid
    top = absolute_scale(caption.trace.alpha, grid, smooth=smooth)
    fonts = caption_fonts(caption)
    picture = drawing_of(pixels)
    title = Title.from_caption(caption, fonts, width)
    named = any(word.source == "concept" for word in caption.words)
    drawn = [*map_notes(caption, smooth=smooth), NAMED_NOTE if named else ""]
    source = [*caption.notices, Path(caption.file).name, caption.model]
    foot_text = footer(caption, fonts, width - BESIDE_BAR, drawn, source)
    count = len(caption.words) + 1
    panels = _arranged(count, picture, width, columns, title.bottom + 0.12)
    foot = panels.bottom(count) + 0.2
    canvas = Canvas(width, foot + footer_height(foot_text, 3) + 0.25, fonts, title)
    first = _panel(canvas, panels, 0, picture)
    _label(first, canvas, panels.wide, "picture", f"{grid.source_size[1]} × "
           f"{grid.source_size[0]} pixels", QUIET)  # fmt: skip
    for index, word in enumerate(caption.words, start=1):
        axis = _panel(canvas, panels, index, _painted(caption, word, picture, top, smooth=smooth))
        _label(axis, canvas, panels.wide, word.text, _numbers(word))
        _frame_chosen(axis, caption, word, size_of(picture))
    canvas.colour_bar(MARGIN, foot + 0.16, top)
    canvas.write(MARGIN + BESIDE_BAR, foot, foot_text, SMALL, QUIET, linespacing=1.5)
    return canvas.figure


def compare_sheet(captions: Sequence[Caption], *, smooth: bool = True) -> Figure:
    """Draw several models' captions of one picture: a row for each, a column for each word.

    All maps of all rows share one absolute scale in multiples of uniform attention over their own
    grids, so that sharp and diffuse attention look as different as their numbers are.

    Args:
        captions: captions of the same picture, which they hold; one row each.
        smooth: the paper's smoothing; False shows the raw cells.

    Returns:
        A matplotlib figure; it is neither shown nor registered with pyplot.

    Raises:
        ConfigError: fewer than two captions are given, or one does not hold its picture.
    """
    if len(captions) < 2:
        raise ConfigError(f"Got {len(captions)} captions; a comparison needs two or more.")
    # Two models may read different pixels of one file: other frames of a clip.
    pictures = [drawing_of(picture_of(caption)) for caption in captions]
    top = max(absolute_scale(c.trace.alpha, c.grid, smooth=smooth) for c in captions)
    aspect = max(picture.shape[0] / picture.shape[1] for picture in pictures)
    high = _CELL * min(_TALLEST, max(_FLATTEST, aspect))
    columns = 1 + max(len(caption.words) for caption in captions)
    row = _ROW_HEAD + _PANEL_HEAD + high
    width, height = (
        2 * _NARROW_MARGIN + columns * (_CELL + _NARROW_GAP),
        row * len(captions) + _FOOT,
    )
    canvas = Canvas(width, height, caption_fonts(*captions))
    for r, (caption, picture) in enumerate(zip(captions, pictures, strict=True)):
        _row(canvas, caption, picture, r * row, high, top, smooth=smooth)
    canvas.colour_bar(_NARROW_MARGIN, height - 0.5, top, 2.4, 0.12)
    drawn = "raw cells"
    if smooth:
        drawn = "; ".join(dict.fromkeys(smoothing_label(c.grid) for c in captions))
    note = f"one absolute scale for all rows, in multiples of uniform attention 1/L; {drawn}"
    canvas.write(_NARROW_MARGIN + 2.9, height - 0.5, note, SMALL, QUIET, va="center")
    return canvas.figure


def _arranged(
    panels: int, picture: np.ndarray, width: float, columns: int, top: float
) -> PanelGrid:
    """Return the places of a contact sheet's panels."""
    columns = min(columns, panels) or _balanced(panels)
    # A very long or flat picture must not make a huge figure.
    aspect = min(3.0, max(0.2, picture.shape[0] / picture.shape[1]))
    wide = min(_WIDEST, (width - 2 * MARGIN + _GAP) / columns - _GAP)
    return PanelGrid(columns, wide, wide * aspect, _HEAD, _GAP, top)


def _balanced(panels: int) -> int:
    """Return how many panels in a row leave the fewest places empty."""
    if panels <= 6:
        return panels
    return min((6, 5, 4) if panels <= 14 else (6, 7, 5), key=lambda columns: -panels % columns)


def _painted(
    caption: Caption, word: Word, picture: np.ndarray, top: float, *, smooth: bool
) -> np.ndarray:
    relative = upsample(word.alpha, caption.grid, size_of(picture), smooth=smooth)
    return paint(picture, relative, top)


def _panel(canvas: Canvas, panels: PanelGrid, index: int, picture: np.ndarray) -> Axes:
    left, top = panels.corner(index)
    axis = canvas.axes(left, top + _HEAD, panels.wide, panels.high)
    axis.imshow(picture, interpolation="antialiased")
    return axis


def _label(
    axis: Axes, canvas: Canvas, width: float, word: str, numbers: str, colour: str = INK
) -> None:
    """Write a word and its numbers above its panel, the word as small as needed."""
    word, size = fitted(canvas.fonts.drawable(word), width)
    _above(axis, canvas, word, 19, size, colour)
    _above(axis, canvas, numbers, 5, min(SMALL, 3.6 * width), QUIET)


def _above(axis: Axes, canvas: Canvas, text: str, up: float, size: float, colour: str) -> None:
    """Write a text in the middle above axes, `up` points above their edge."""
    axis.annotate(text, (0.5, 1), (0, up), "axes fraction", "offset points", ha="center",
                  va="baseline", size=size, color=colour, family=canvas.fonts.families,
                  parse_math=False)  # fmt: skip


def _numbers(word: Word) -> str:
    return f"p {math.exp(word.logprob):.2f}   peak {word.peak:.0%}{beta_label(word)}"


def _frame_chosen(axis: Axes, caption: Caption, word: Word, size: tuple[int, int]) -> None:
    """Frame the one cell that hard attention looked at, or that a word was named from."""
    cell, style = word.location, "-"
    if cell is None and word.source == "concept" and word.cell is not None:
        cell, style = int(np.ravel_multi_index(word.cell, caption.grid.shape)), ":"
    if cell is None:
        return
    (top, bottom), (left, right) = cell_bounds(caption.grid, cell)
    y, x = (drawn / full for drawn, full in zip(size, caption.grid.source_size, strict=True))
    corner = (left * x - 0.5, top * y - 0.5)  # pixel centres are whole numbers in matplotlib
    axis.add_patch(Rectangle(corner, (right - left) * x, (bottom - top) * y, fill=False,
                             edgecolor=CHOSEN, linewidth=1.8, linestyle=style))  # fmt: skip


def _row(
    canvas: Canvas, caption: Caption, picture: np.ndarray, down: float, high: float, top: float,
    *, smooth: bool,
) -> None:  # fmt: skip
    """Draw one model's row of a comparison, `down` inches from above."""
    fonts = canvas.fonts
    title = fonts.drawable(caption.text) or "(no words)"
    canvas.write(_NARROW_MARGIN, down + 0.4, title, 14, va="baseline")
    about = " · ".join([caption.model, attention_label(caption.trace), grid_label(caption.grid),
                        *caption.notices])  # fmt: skip
    canvas.write(_NARROW_MARGIN, down + 0.6, fonts.drawable(about), SMALL, QUIET, va="baseline")
    panels = [("picture", "", picture)]
    panels += [
        (word.text, _numbers(word), _painted(caption, word, picture, top, smooth=smooth))
        for word in caption.words
    ]
    for column, (name, numbers, drawn) in enumerate(panels):
        left = _NARROW_MARGIN + column * (_CELL + _NARROW_GAP)
        label = f"{caption.model} {down} {column}"
        axis = canvas.axes(left, down + _ROW_HEAD + _PANEL_HEAD, _CELL, high, label)
        axis.imshow(drawn, interpolation="antialiased")
        name = fonts.drawable(name)
        _above(axis, canvas, name, 13, min(11.0, 72 * _CELL / 0.62 / max(1, len(name))), INK)
        _above(axis, canvas, numbers, 4, 5.5, QUIET)
        if column:
            _frame_chosen(axis, caption, caption.words[column - 1], size_of(picture))
