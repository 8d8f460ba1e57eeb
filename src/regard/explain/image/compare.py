"""Two models, or more, on one picture: a row for each, a column for each word."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regard.errors import ConfigError
from regard.explain import labels
from regard.explain.fonts import FontChoice, choose_fonts
from regard.explain.image.sheet import (
    colour_bar,
    drawing_of,
    frame_cell,
    place,
    size_of,
    word_numbers,
)
from regard.explain.maps import absolute_scale, paint, upsample
from regard.types import Caption

_INK, _QUIET = "#1d2433", "#667085"
_CELL, _GAP, _MARGIN = 1.55, 0.12, 0.4  # inches: a panel's width, between panels, around
_ROW_HEAD, _PANEL_HEAD, _FOOT = 0.75, 0.4, 0.85  # inches
_FLATTEST, _TALLEST = 0.3, 2.0  # height of a panel in its widths, for extreme pictures


def compare_sheet(captions: Sequence[Caption], *, smooth: bool = True) -> Figure:
    """Draw several models' captions of one picture, word beside word.

    All maps of all rows share one absolute scale in multiples of uniform attention, each of its
    own grid, so that a model that looks sharply and one that looks everywhere differ to the eye
    as they differ in numbers.

    Args:
        captions: of the same picture, with it; one row each.
        smooth: the paper's smoothing; False shows the raw cells.

    Returns:
        A matplotlib figure; it is neither shown nor registered with pyplot.

    Raises:
        ConfigError: there are fewer than two captions, or one does not hold its picture.
    """
    if len(captions) < 2:
        raise ConfigError(f"{len(captions)} captions came; a comparison needs two or more.")
    if any(caption.pixels is None for caption in captions):
        raise ConfigError("a caption holds no picture to draw on; caption the file again.")
    top = max(absolute_scale(c.trace.alpha, c.grid, smooth=smooth) for c in captions)
    # Of one file two models may read different pixels: other frames of a clip.
    pictures = [drawing_of(np.asarray(caption.pixels)) for caption in captions]
    aspect = max(picture.shape[0] / picture.shape[1] for picture in pictures)
    high = _CELL * min(_TALLEST, max(_FLATTEST, aspect))
    columns = 1 + max(len(caption.words) for caption in captions)
    row = _ROW_HEAD + _PANEL_HEAD + high
    width = 2 * _MARGIN + columns * (_CELL + _GAP)
    figure = Figure(figsize=(width, row * len(captions) + _FOOT), facecolor="white")
    for r, (caption, picture) in enumerate(zip(captions, pictures, strict=True)):
        _row(figure, caption, picture, r * row, high, top, smooth=smooth)
    foot = figure.get_figheight() - 0.5
    colour_bar(figure, place(figure, _MARGIN, foot, 2.4, 0.12), top)
    drawn = "raw cells"
    if smooth:
        drawn = "; ".join(dict.fromkeys(labels.smoothed(c.grid) for c in captions))
    x, y, _, _ = place(figure, _MARGIN + 2.9, foot, 0, 0)
    told = f"one absolute scale for all rows, in multiples of uniform attention 1/L; {drawn}"
    figure.text(x, y, told, size=8, color=_QUIET, va="center")
    return figure


def _row(
    figure: Figure, caption: Caption, picture: np.ndarray, down: float, high: float, top: float,
    *, smooth: bool,
) -> None:  # fmt: skip
    fonts = choose_fonts(caption.text + caption.model + "".join(w.text for w in caption.words))
    x, y, _, _ = place(figure, _MARGIN, down + 0.4, 0, 0)
    title = fonts.drawable(caption.text) or "(no words)"
    figure.text(x, y, title, size=14, color=_INK, family=fonts.families, parse_math=False)
    x, y, _, _ = place(figure, _MARGIN, down + 0.6, 0, 0)
    about = f"{caption.model} · {labels.looked(caption.trace)} · {labels.cells(caption.grid)}"
    about = " · ".join([about, *caption.notices])
    figure.text(x, y, fonts.drawable(about), size=8, color=_QUIET, family=fonts.families,
                parse_math=False)  # fmt: skip
    panels = [("picture", "", picture)]
    for word in caption.words:
        relative = upsample(word.alpha, caption.grid, size_of(picture), smooth=smooth)
        panels.append((word.text, word_numbers(word), paint(picture, relative, top)))
    for column, (name, numbers, drawn) in enumerate(panels):
        left = _MARGIN + column * (_CELL + _GAP)
        box = place(figure, left, down + _ROW_HEAD + _PANEL_HEAD, _CELL, high)
        axis = figure.add_axes(box, label=f"{caption.model} {down} {column}")
        axis.imshow(drawn, interpolation="antialiased")
        axis.set_axis_off()
        _label(axis, fonts, name, numbers)
        if column and (chosen := caption.words[column - 1].location) is not None:
            frame_cell(axis, caption, chosen, size_of(picture))


def _label(axis: Axes, fonts: FontChoice, word: str, numbers: str) -> None:
    word = fonts.drawable(word)
    size = min(11.0, 72 * _CELL / 0.62 / max(1, len(word)))
    axis.annotate(word, (0.5, 1), (0, 13), "axes fraction", "offset points", ha="center",
                  size=size, color=_INK, family=fonts.families, parse_math=False)  # fmt: skip
    axis.annotate(numbers, (0.5, 1), (0, 4), "axes fraction", "offset points", ha="center",
                  size=5.5, color=_QUIET)  # fmt: skip
