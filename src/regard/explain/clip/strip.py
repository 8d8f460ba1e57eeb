"""The film strip: for every word the clip's frames with its weight on each, and words × seconds.

Above, a row of frames for each word: how much of its attention each frame received, as a bar
below it and, on a grid of (frames, rows, cols), where in the frame, as a map. Below, the same
weights on a true axis of seconds. Everything is in multiples of uniform attention, on one scale
for the whole caption.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from regard.errors import ConfigError
from regard.explain import labels
from regard.explain.clip.clip_maps import (
    chosen_frame,
    clip_of,
    frame_grid,
    frame_map,
    frame_scale,
    frame_weights,
    map_scale,
    peak_frame,
    shown_frames,
)
from regard.explain.fonts import FontChoice, choose_fonts
from regard.explain.image.sheet import colour_bar, drawing_of, fitted, place, size_of, wrapped
from regard.explain.maps import paint, upsample
from regard.types import Caption, Clip

_INK, _QUIET, _FAINT, _CHOSEN = "#1d2433", "#667085", "#c3cad6", "#ff4d4d"
_GREY = 140  # shade below the colours of weights that lie on no picture, as in the colour bar
_MARGIN, _LABEL, _GAP = 0.45, 1.5, 0.06  # inches: around, the words' column, between frames
_WIDEST, _TALLEST, _LEAST = 1.9, 1.25, 0.4  # inches of a drawn frame, and of its bars
_BARS, _TIME, _BETWEEN = 0.3, 0.17, 0.16  # inches: bars, seconds below them, between rows
_HEAT_ROW, _HEAT_HEAD, _HEAT_FOOT = 0.24, 0.42, 0.62  # inches of the lower panel
_FOOT = 1.15  # inches
_NARROWEST = 8.0  # inches
_TITLE, _SMALL, _TINY = 19.0, 8.0, 6.5  # points
_PER_INCH = 200  # pixels of a drawn frame
_OUTLINED = 60  # frames beyond which the lines between them would hide them


def film_strip(
    caption: Caption, *, smooth: bool = True, frames: int = 12, width: float = 12.0
) -> Figure:
    """Draw when, and on a grid with rows and columns where, the decoder looked for each word.

    Args:
        caption: with its clip.
        smooth: the paper's smoothing of maps; False shows the raw cells.
        frames: shown in a row at most; of more, evenly spread ones and the word's peak. The
            bars below are those of all frames.
        width: of the figure in inches, at least 8.

    Returns:
        A matplotlib figure; it is neither shown nor registered with pyplot.

    Raises:
        ConfigError: the caption does not hold its clip, or an option is out of range.
    """
    clip = clip_of(caption)
    if width < _NARROWEST or frames < 1:
        raise ConfigError(
            f"a film strip of width {width} and {frames} frames; width must be at least "
            f"{_NARROWEST:g} inches and frames at least 1."
        )
    fonts = _fonts(caption)
    strip = _Strip(caption, clip, frames, width, smooth)
    title = wrapped(fonts.drawable(caption.text) or "(no words)", width, _TITLE)
    top = 0.36 + (title.count("\n") + 1) * _TITLE * 1.25 / 72 + 0.18
    heat = top + strip.row_height * (len(caption.words) + 1) - _BARS
    foot = heat + _heat_height(caption)
    figure = Figure(figsize=(width, foot + _FOOT), facecolor="white")
    _write(figure, fonts, _MARGIN, 0.36, title, _TITLE, _INK)
    strip.draw_clip(figure, top)
    for t in range(len(caption.words)):
        strip.draw_word(figure, fonts, t, top + strip.row_height * (t + 1) - _BARS)
    _heat_map(figure, caption, fonts, heat, width)
    _footer(figure, caption, fonts, foot, strip)
    return figure


def words_by_seconds(caption: Caption, *, width: float = 12.0) -> Figure:
    """Draw every word's weight on every frame over a true axis of seconds.

    Args:
        caption: of a clip; it need not hold it.
        width: of the figure in inches, at least 8.

    Raises:
        ConfigError: the caption is none of a clip, or an option is out of range.
    """
    if caption.grid.axes[0] != "frames" or width < _NARROWEST:
        raise ConfigError(
            f"a caption on a grid of {' × '.join(caption.grid.axes)} and a width of {width}; "
            f"seconds need a clip's grid, and a width of at least {_NARROWEST:g} inches."
        )
    fonts = _fonts(caption)
    title = wrapped(fonts.drawable(caption.text) or "(no words)", width, _TITLE)
    heat = 0.36 + (title.count("\n") + 1) * _TITLE * 1.25 / 72
    foot = heat + _heat_height(caption)
    figure = Figure(figsize=(width, foot + _FOOT), facecolor="white")
    _write(figure, fonts, _MARGIN, 0.36, title, _TITLE, _INK)
    _heat_map(figure, caption, fonts, heat, width)
    _footer(figure, caption, fonts, foot, None)
    return figure


@dataclass
class _Strip:
    """The upper part: what its rows share."""

    caption: Caption
    clip: Clip
    most: int
    width: float
    smooth: bool

    def __post_init__(self) -> None:
        self.weights = frame_weights(self.caption)
        self.top = frame_scale(self.weights)
        self.count = len(self.clip.spans)
        self.chunks = np.array_split(np.arange(self.count), min(self.count, self.most))
        self.still = frame_grid(self.caption.grid)
        self.map_top = self.top
        if self.still is not None:
            self.map_top = map_scale(self.caption, smooth=self.smooth)
        room = (self.width - 2 * _MARGIN - _LABEL) / len(self.chunks)
        aspect = self.clip.frame_size[0] / self.clip.frame_size[1]
        wide = min(room - _GAP, _WIDEST)
        self.high = min(_TALLEST, max(0.15, wide * aspect))
        self.wide = min(wide, max(0.1, self.high / aspect))
        self.column = max(self.wide, _LEAST) + _GAP
        self.row_height = self.high + _BARS + _TIME + _BETWEEN

    def draw_clip(self, figure: Figure, top: float) -> None:
        """Draw the frames as they are."""
        axis = self._axis(figure, top, self.high + _TIME, "clip")
        middle = shown_frames(self.count, self.most, None)
        for column, frame in enumerate(middle):
            self._picture(axis, column, self._drawing(frame), _TIME)
            self._time(axis, column, frame, 0.0, _QUIET)
        some = "" if len(middle) == self.count else f", {len(middle)} shown"
        lines = [f"{self.clip.duration:.1f} s", f"{labels.frames(self.caption.grid)}{some}"]
        _label(figure, None, top, self.high, "clip", lines, _QUIET)

    def draw_word(self, figure: Figure, fonts: FontChoice, t: int, top: float) -> None:
        """Draw a word's row: frames, maps, bars, seconds."""
        word, weights = self.caption.words[t], self.weights[t]
        peak, chosen = peak_frame(weights), chosen_frame(word, self.caption.grid)
        shown = shown_frames(self.count, self.most, peak if chosen is None else chosen)
        below = _BARS + _TIME
        axis = self._axis(figure, top, self.high + below, f"word {t}")
        for column, frame in enumerate(shown):
            marked = frame in (peak, chosen)
            self._picture(axis, column, self._painted(t, frame), below)
            self._time(axis, column, frame, 0.0, _INK if marked else _QUIET, bold=marked)
            if marked:
                self._outline(axis, column, below, _CHOSEN if frame == chosen else _INK)
        self._bars(axis, weights, peak)
        beta = "" if word.beta is None else f"   β {word.beta:.2f}"
        lines = [
            f"p {np.exp(word.logprob):.2f}{beta}",
            labels.EVEN
            if peak is None
            else f"most at {self.clip.times[peak]:.1f} s: {weights[peak]:.1f}×",
        ]
        _label(figure, fonts, top, self.high, word.text, lines, _INK)

    def _drawing(self, frame: int) -> np.ndarray:
        side = math.ceil(_PER_INCH * max(self.wide, self.high))
        return drawing_of(self.clip.pixels[frame], side)

    def _painted(self, t: int, frame: int) -> np.ndarray:
        picture = self._drawing(frame)
        if self.still is None:
            relative = np.full(size_of(picture), self.weights[t, frame])
        else:
            alpha = frame_map(self.caption.words[t], self.caption.grid, frame)
            relative = upsample(alpha, self.still, size_of(picture), smooth=self.smooth)
        return paint(picture, relative, self.map_top)

    def _axis(self, figure: Figure, top: float, high: float, name: str) -> Axes:
        """Return axes for a row whose units are inches from their lower left corner."""
        wide = self.column * len(self.chunks)
        axis = figure.add_axes(place(figure, _MARGIN + _LABEL, top, wide, high), label=name)
        axis.set(xlim=(0, wide), ylim=(0, high))
        axis.set_axis_off()
        return axis

    def _left(self, column: int) -> float:
        return column * self.column + (self.column - _GAP - self.wide) / 2

    def _picture(self, axis: Axes, column: int, pixels: np.ndarray, bottom: float) -> None:
        left = self._left(column)
        axis.imshow(pixels, extent=(left, left + self.wide, bottom, bottom + self.high),
                    aspect="auto", interpolation="antialiased")  # fmt: skip
        axis.set(xlim=(0, self.column * len(self.chunks)), ylim=(0, bottom + self.high))

    def _outline(self, axis: Axes, column: int, bottom: float, colour: str) -> None:
        axis.add_patch(Rectangle((self._left(column), bottom), self.wide, self.high, fill=False,
                                 edgecolor=colour, linewidth=1.8, clip_on=False,
                                 gid="frame"))  # fmt: skip

    def _time(
        self, axis: Axes, column: int, frame: int, bottom: float, colour: str, bold: bool = False
    ) -> None:
        axis.text((column + 0.5) * self.column - _GAP / 2, bottom + 0.02,
                  f"{self.clip.times[frame]:.1f} s", size=_TINY, color=colour, ha="center",
                  va="bottom", weight="bold" if bold else "normal")  # fmt: skip

    def _bars(self, axis: Axes, weights: np.ndarray, peak: int | None) -> None:
        """Draw a bar for every frame, those of a chunk below the frame that stands for it."""
        high = _BARS - 0.05
        for column, chunk in enumerate(self.chunks):
            step = (self.column - _GAP) / len(chunk)
            for place_, frame in enumerate(chunk):
                left = column * self.column + place_ * step
                axis.add_patch(Rectangle(
                    (left, _TIME), 0.86 * step, float(high * weights[frame] / self.top),
                    color=_INK if frame == peak else _QUIET, linewidth=0, gid=f"bar {frame}",
                ))  # fmt: skip
        wide = self.column * len(self.chunks) - _GAP
        axis.plot([0, wide], [_TIME] * 2, color=_FAINT, linewidth=0.6)
        axis.plot([0, wide], [_TIME + high / self.top] * 2, color=_QUIET, linewidth=0.6,
                  linestyle=(0, (2, 2)))  # fmt: skip


def _heat_height(caption: Caption) -> float:
    return _HEAT_HEAD + _HEAT_ROW * max(1, len(caption.words)) + _HEAT_FOOT


def _heat_map(
    figure: Figure, caption: Caption, fonts: FontChoice, top: float, width: float
) -> None:
    """Draw words × seconds; what no frame stands for stays white."""
    words, grid = caption.words, caption.grid
    weights = frame_weights(caption)
    scale = frame_scale(weights)
    _write(figure, fonts, _MARGIN, top + 0.14, "Words × seconds", 11.0, _INK)
    box = place(figure, _MARGIN + _LABEL, top + _HEAT_HEAD, width - 2 * _MARGIN - _LABEL,
                _HEAT_ROW * max(1, len(words)))  # fmt: skip
    axis = figure.add_axes(box, label="words by seconds")
    lines = 0.4 if len(grid.spans) <= _OUTLINED else 0.0
    spans = [(start, stop - start) for start, stop in grid.spans]
    for t, word in enumerate(words):
        colours = paint(np.full((1, len(spans), 3), _GREY, np.uint8), weights[t : t + 1], scale)[0]
        axis.broken_barh(spans, (t, 0.92), facecolors=colours / 255, edgecolor="white",
                         linewidth=lines, gid=f"word {t}")  # fmt: skip
        if (peak := peak_frame(weights[t])) is not None:
            axis.plot(grid.shown[peak], t + 0.46, "o", markersize=4, markerfacecolor="white",
                      markeredgecolor=_INK, markeredgewidth=0.9, clip_on=False)  # fmt: skip
        text, size = fitted(fonts.drawable(word.text), _LABEL - 0.15)
        axis.annotate(text, (0, t + 0.46), (-6, 0), ("axes fraction", "data"), "offset points",
                      ha="right", va="center", size=min(10.0, size), color=_INK,
                      family=fonts.families, parse_math=False)  # fmt: skip
    axis.set(xlim=(0, max(caption.grid.source_size[0], grid.spans[-1][1])),
             ylim=(max(1, len(words)), 0))  # fmt: skip
    axis.set_yticks([])
    axis.tick_params(labelsize=_SMALL, labelcolor=_QUIET, color=_FAINT, length=3)
    axis.set_xlabel("seconds", size=_SMALL, color=_QUIET)
    axis.spines[:].set_visible(False)


def _footer(
    figure: Figure, caption: Caption, fonts: FontChoice, top: float, strip: _Strip | None
) -> None:
    """Draw the colour bars and say what is drawn, and how."""
    grid = caption.grid
    bars = [(_share("frames", len(grid.spans)), frame_scale(frame_weights(caption)))]
    drawn = [labels.frames(grid), labels.unread(grid)]
    if strip is not None and strip.still is not None:
        bars = [(_share("maps", grid.real_cells), strip.map_top), *bars]
        drawn += [labels.smoothed(strip.still) if strip.smooth else "raw cells"]
        drawn += [labels.covered(strip.still)]
    if strip is not None and strip.count > len(strip.chunks):
        drawn += [f"{len(strip.chunks)} of {strip.count} frames shown in a row, bars of all"]
    if any(word.location is not None for word in caption.words):
        drawn += ["red: the chosen frame"]
    left = _MARGIN
    for name, scale in bars:
        colour_bar(figure, place(figure, left, top + 0.2, 2.0, 0.13), scale)
        _write(figure, fonts, left, top + 0.56, name, _SMALL, _QUIET)
        left += 2.35
    source = [Path(caption.file).name, caption.model, fonts.note]
    lines = [
        labels.looked(caption.trace),
        ", ".join(filter(None, drawn)),
        labels.CLIP_SCALE,
        "  ·  ".join(filter(None, source)),
    ]
    room = figure.get_figwidth() - left + _MARGIN - 0.15
    text = "\n".join(wrapped(fonts.drawable(line), room, _SMALL) for line in lines)
    _write(figure, fonts, left + 0.15, top + 0.02, text, _SMALL, _QUIET)


def _share(what: str, count: int) -> str:
    return f"{what}: 1 = 1/{count} of the attention"


def _label(
    figure: Figure, fonts: FontChoice | None, top: float, high: float, word: str,
    lines: list[str], colour: str,
) -> None:  # fmt: skip
    """Write a row's word and its numbers at the row's left."""
    fonts = fonts or choose_fonts(word)
    text, size = fitted(fonts.drawable(word), _LABEL - 0.15)
    middle = top + high / 2
    _write(figure, fonts, _MARGIN, middle - 0.29, text, size, colour)
    _write(figure, fonts, _MARGIN, middle - 0.02, "\n".join(lines), 7.0, _QUIET)


def _write(
    figure: Figure, fonts: FontChoice, left: float, top: float, text: str, size: float, colour: str
) -> None:
    x, y, _, _ = place(figure, left, top, 0, 0)
    figure.text(x, y, text, size=size, color=colour, va="top", linespacing=1.35,
                family=fonts.families, parse_math=False)  # fmt: skip


def _fonts(caption: Caption) -> FontChoice:
    words = [word.text for word in caption.words]
    return choose_fonts("".join([caption.text, *words, caption.file, caption.model]))
