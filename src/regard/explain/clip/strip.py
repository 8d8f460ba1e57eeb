"""The film strip: for every word the clip's frames with its weight on each, and words × seconds.

Above, a row of frames for each word: how much of its attention each frame received, as a bar
below it and, on a grid of (frames, rows, cols), where in the frame, as a map. Below, the same
weights on a true axis of seconds. Everything is in multiples of uniform attention, on one scale
for the whole caption.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from regard.errors import ConfigError
from regard.explain.clip.clip_maps import EVEN_LABEL, SECONDS_SCALE_NOTE, ClipMaps, shown_frames
from regard.explain.drawing import (
    CHOSEN,
    FAINT,
    GREY,
    INK,
    MARGIN,
    NARROWEST,
    QUIET,
    SMALL,
    Canvas,
    Title,
    beta_label,
    caption_fonts,
    chosen_label,
    coverage_label,
    fitted,
    footer,
    smoothing_label,
)
from regard.explain.maps import drawing_of, paint
from regard.types import Caption

_LABEL, _GAP = 1.5, 0.06  # inches: the column of the words, and between frames
_WIDEST, _TALLEST, _LEAST = 1.9, 1.25, 0.4  # inches of a drawn frame, and of its bars
_BARS, _TIME, _BETWEEN = 0.3, 0.17, 0.16  # inches: bars, seconds below them, between rows
_HEAT_ROW, _HEAT_HEAD, _HEAT_FOOT = 0.24, 0.42, 0.62  # inches of the lower panel
_FOOT = 1.15  # inches
_TINY, _NUMBERS = 6.5, 7.0  # points
_PER_INCH = 200  # pixels of a drawn frame
_OUTLINED = 60  # frames beyond which the lines between them would hide them


def film_strip(
    caption: Caption, *, smooth: bool = True, frames: int = 12, width: float = 12.0
) -> Figure:
    """Draw each word's attention over the frames, with maps if the grid has rows and columns.

    Args:
        caption: with its clip.
        smooth: the paper's smoothing of maps; False shows the raw cells.
        frames: shown in a row at most; of more, evenly spread ones and the word's peak. The
            bars below are those of all frames.
        width: width of the figure in inches, at least 8.

    Returns:
        A matplotlib figure; it is neither shown nor registered with pyplot.

    Raises:
        ConfigError: the caption does not hold its clip, or an option is out of range.
    """
    maps = ClipMaps(caption)
    if width < NARROWEST or frames < 1:
        raise ConfigError(
            f"Cannot draw a film strip of width {width} with {frames} frames: the width must be "
            f"at least {NARROWEST:g} inches and frames at least 1."
        )
    return _figure(maps, width, _Strip(maps, frames, width, smooth))


def words_by_seconds(caption: Caption, *, width: float = 12.0) -> Figure:
    """Draw every word's weight on every frame over a true axis of seconds.

    Args:
        caption: caption of a clip; it need not hold it.
        width: width of the figure in inches, at least 8.

    Raises:
        ConfigError: the caption is not of a clip, or an option is out of range.
    """
    if caption.grid.axes[0] != "frames" or width < NARROWEST:
        raise ConfigError(
            f"Cannot draw words by seconds on a grid of {' × '.join(caption.grid.axes)} and a "
            f"width of {width}: they need a clip's grid, and a width of at least {NARROWEST:g} "
            "inches."
        )
    return _figure(ClipMaps(caption), width, None)


def _figure(maps: ClipMaps, width: float, strip: _Strip | None) -> Figure:
    fonts, words = caption_fonts(maps.caption), maps.caption.words
    title = Title.from_caption(maps.caption, fonts, width)
    top = heat = title.bottom
    if strip is not None:
        top += 0.18
        heat = top + strip.row_height * (len(words) + 1) - _BARS
    foot = heat + (_HEAT_HEAD + _HEAT_ROW * max(1, len(words)) + _HEAT_FOOT)
    canvas = Canvas(width, foot + _FOOT, fonts, title, linespacing=1.35)
    if strip is not None:
        strip.draw_clip(canvas, top)
        for t in range(len(words)):
            strip.draw_word(canvas, t, top + strip.row_height * (t + 1) - _BARS)
    _heat_map(canvas, maps, heat, width)
    _footer(canvas, maps, foot, width, strip)
    return canvas.figure


class _Strip:
    """The upper part of a film strip: a row for the clip and one for each word."""

    def __init__(self, maps: ClipMaps, most: int, width: float, smooth: bool) -> None:
        self.maps, self.clip, self.most, self.smooth = maps, maps.clip, most, smooth
        self.map_top = maps.scale(smooth=smooth)
        self.count = len(self.clip.spans)
        self.chunks = np.array_split(np.arange(self.count), min(self.count, most))
        room = (width - 2 * MARGIN - _LABEL) / len(self.chunks)
        aspect = self.clip.frame_size[0] / self.clip.frame_size[1]
        wide = min(room - _GAP, _WIDEST)
        self.high = min(_TALLEST, max(0.15, wide * aspect))
        self.wide = min(wide, max(0.1, self.high / aspect))
        self.column = max(self.wide, _LEAST) + _GAP
        self.row_height = self.high + _BARS + _TIME + _BETWEEN

    def draw_clip(self, canvas: Canvas, top: float) -> None:
        """Draw the frames as they are."""
        axis = self._axis(canvas, top, self.high + _TIME, "clip")
        middle = shown_frames(self.count, self.most, None)
        for column, frame in enumerate(middle):
            self._picture(axis, column, self._drawing(frame), _TIME)
            self._time(axis, column, frame)
        some = "" if len(middle) == self.count else f", {len(middle)} shown"
        lines = [f"{self.clip.duration:.1f} s", f"{self.maps.notes[0]}{some}"]
        self._label(canvas, top, "clip", lines, QUIET)

    def draw_word(self, canvas: Canvas, t: int, top: float) -> None:
        """Draw a word's row: frames, maps, bars, seconds."""
        word, weights = self.maps.caption.words[t], self.maps.weights[t]
        peak, chosen = self.maps.peaks[t], self.maps.chosen[t]
        shown = shown_frames(self.count, self.most, peak if chosen is None else chosen)
        below = _BARS + _TIME
        axis = self._axis(canvas, top, self.high + below, f"word {t}")
        for column, frame in enumerate(shown):
            painted = self.maps.painted(
                t, frame, self._drawing(frame), self.map_top, smooth=self.smooth
            )
            marked = frame in (peak, chosen)
            self._picture(axis, column, painted, below)
            self._time(axis, column, frame, bold=marked)
            if marked:
                colour = CHOSEN if frame == chosen else INK
                axis.add_patch(Rectangle((self._left(column), below), self.wide, self.high,
                                         fill=False, edgecolor=colour, linewidth=1.8,
                                         clip_on=False, gid="frame"))  # fmt: skip
        self._bars(axis, weights, peak)
        when = EVEN_LABEL
        if peak is not None:
            when = f"most at {self.clip.times[peak]:.1f} s: {weights[peak]:.1f}×"
        lines = [f"p {np.exp(word.logprob):.2f}{beta_label(word)}", when]
        self._label(canvas, top, word.text, lines, INK)

    def _label(self, canvas: Canvas, top: float, word: str, lines: list[str], colour: str) -> None:
        """Write a row's word and its numbers at the row's left."""
        text, size = fitted(canvas.fonts.drawable(word), _LABEL - 0.15)
        middle = top + self.high / 2
        canvas.write(MARGIN, middle - 0.29, text, size, colour)
        canvas.write(MARGIN, middle - 0.02, "\n".join(lines), _NUMBERS, QUIET)

    def _drawing(self, frame: int) -> np.ndarray:
        side = math.ceil(_PER_INCH * max(self.wide, self.high))
        return drawing_of(self.clip.pixels[frame], side)

    def _axis(self, canvas: Canvas, top: float, high: float, name: str) -> Axes:
        """Return axes for a row whose units are inches from their lower left corner."""
        wide = self.column * len(self.chunks)
        axis = canvas.axes(MARGIN + _LABEL, top, wide, high, name)
        axis.set(xlim=(0, wide), ylim=(0, high))
        return axis

    def _left(self, column: int) -> float:
        return column * self.column + (self.column - _GAP - self.wide) / 2

    def _picture(self, axis: Axes, column: int, pixels: np.ndarray, bottom: float) -> None:
        left = self._left(column)
        axis.imshow(pixels, extent=(left, left + self.wide, bottom, bottom + self.high),
                    aspect="auto", interpolation="antialiased")  # fmt: skip
        axis.set(xlim=(0, self.column * len(self.chunks)), ylim=(0, bottom + self.high))

    def _time(self, axis: Axes, column: int, frame: int, *, bold: bool = False) -> None:
        axis.text((column + 0.5) * self.column - _GAP / 2, 0.02, f"{self.clip.times[frame]:.1f} s",
                  size=_TINY, color=INK if bold else QUIET, ha="center", va="bottom",
                  weight="bold" if bold else "normal")  # fmt: skip

    def _bars(self, axis: Axes, weights: np.ndarray, peak: int | None) -> None:
        """Draw a bar for every frame, those of a chunk below the frame that represents it."""
        high = _BARS - 0.05
        for column, chunk in enumerate(self.chunks):
            step = (self.column - _GAP) / len(chunk)
            for place, frame in enumerate(chunk):
                left = column * self.column + place * step
                axis.add_patch(Rectangle(
                    (left, _TIME), 0.86 * step, float(high * weights[frame] / self.maps.top),
                    color=INK if frame == peak else QUIET, linewidth=0, gid=f"bar {frame}",
                ))  # fmt: skip
        wide = self.column * len(self.chunks) - _GAP
        axis.plot([0, wide], [_TIME] * 2, color=FAINT, linewidth=0.6)
        axis.plot([0, wide], [_TIME + high / self.maps.top] * 2, color=QUIET, linewidth=0.6,
                  linestyle=(0, (2, 2)))  # fmt: skip


def _heat_map(canvas: Canvas, maps: ClipMaps, top: float, width: float) -> None:
    """Draw words × seconds; seconds that no frame covers stay white."""
    words, grid, fonts = maps.caption.words, maps.grid, canvas.fonts
    canvas.write(MARGIN, top + 0.14, "Words × seconds", 11.0)
    box = canvas.box(MARGIN + _LABEL, top + _HEAT_HEAD, width - 2 * MARGIN - _LABEL,
                     _HEAT_ROW * max(1, len(words)))  # fmt: skip
    axis = canvas.figure.add_axes(box, label="words by seconds")
    lines = 0.4 if len(grid.spans) <= _OUTLINED else 0.0
    spans = [(start, stop - start) for start, stop in grid.spans]
    grey = np.full((1, len(spans), 3), GREY, np.uint8)
    for t, word in enumerate(words):
        colours = paint(grey, maps.weights[t : t + 1], maps.top)[0]
        axis.broken_barh(spans, (t, 0.92), facecolors=colours / 255, edgecolor="white",
                         linewidth=lines, gid=f"word {t}")  # fmt: skip
        if (peak := maps.peaks[t]) is not None:
            axis.plot(grid.shown[peak], t + 0.46, "o", markersize=4, markerfacecolor="white",
                      markeredgecolor=INK, markeredgewidth=0.9, clip_on=False)  # fmt: skip
        text, size = fitted(fonts.drawable(word.text), _LABEL - 0.15)
        axis.annotate(text, (0, t + 0.46), (-6, 0), ("axes fraction", "data"), "offset points",
                      ha="right", va="center", size=min(10.0, size), color=INK,
                      family=fonts.families, parse_math=False)  # fmt: skip
    axis.set(xlim=(0, max(grid.source_size[0], grid.spans[-1][1])),
             ylim=(max(1, len(words)), 0))  # fmt: skip
    axis.set_yticks([])
    axis.tick_params(labelsize=SMALL, labelcolor=QUIET, color=FAINT, length=3)
    axis.set_xlabel("seconds", size=SMALL, color=QUIET)
    axis.spines[:].set_visible(False)


def _footer(canvas: Canvas, maps: ClipMaps, top: float, width: float, strip: _Strip | None) -> None:
    """Draw the colour bars and the notes on the drawing."""
    caption, grid = maps.caption, maps.grid
    bars = [("frames", len(grid.spans), maps.top)]
    drawn = maps.notes
    if strip is not None and (cells := maps.cells) is not None:
        bars = [("maps", grid.real_cells, strip.map_top), *bars]
        drawn += [smoothing_label(cells) if strip.smooth else "raw cells", coverage_label(cells)]
    if strip is not None and strip.count > len(strip.chunks):
        drawn += [f"{len(strip.chunks)} of {strip.count} frames shown in a row, bars of all"]
    if chosen_label(caption):
        drawn += ["red: the chosen frame"]
    left = MARGIN
    for name, count, scale in bars:
        canvas.colour_bar(left, top + 0.2, scale, 2.0)
        share = f"{name}: 1 = 1/{count} of the attention"
        canvas.write(left, top + 0.56, share, SMALL, QUIET)
        left += 2.35
    source = [Path(caption.file).name, caption.model]
    text = footer(caption, canvas.fonts, width - left + MARGIN - 0.15, drawn, source,
                  SECONDS_SCALE_NOTE)  # fmt: skip
    canvas.write(left + 0.15, top + 0.02, text, SMALL, QUIET)
