"""The montage: for every word the three planes through the place that it looked at most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from regard.errors import ConfigError
from regard.explain import labels
from regard.explain.fonts import FontChoice, choose_fonts
from regard.explain.image.sheet import colour_bar, wrapped
from regard.explain.scan.volume_maps import (
    Plane,
    oblique_degrees,
    peak_of,
    scan_scale,
    three_planes,
)
from regard.media import cell_bounds, world_of
from regard.pipeline import NOT_CLINICAL
from regard.text.words import word_class
from regard.types import Caption, Grid, Scan, Word

MOST_WORDS = 24
"""Words that a montage draws unless told otherwise; captions of scans can be very long."""
_INK, _QUIET, _CHOSEN, _CROSS, _WARNING = "#1d2433", "#667085", "#ff4d4d", "#ffffff", "#b42318"
_MARGIN, _GAP, _BETWEEN, _HEAD, _LINE = 0.45, 0.06, 0.35, 0.62, 0.18  # inches
_BAR, _BESIDE_BAR = 2.6, 3.1  # inches
_NARROWEST = 8.0  # inches
_TALLEST = 3.6  # inches of a plane
_LONG_TITLE, _LONG_TITLE_SIZE = 160, 12.0  # letters from which a title is smaller; its points
_TITLE_SIZE, _WORD_SIZE, _SMALL, _LETTER = 19.0, 13.0, 8.0, 7.5  # points
_THREE_FROM = 9  # groups; fewer stand two in a row
_BARS = (1, 2, 5, 10, 20, 50, 100, 200)  # millimetres that a scale bar may be long
_HOLE = 0.035  # of the scan's longest side is left free where the lines of the cross meet
_THIN_OUTLINE = [withStroke(linewidth=1.5, foreground="#10141c80")]
_OUTLINE = [withStroke(linewidth=1.8, foreground="#10141c")]


@dataclass(frozen=True)
class _Layout:
    """Where things lie, in inches from the upper left corner."""

    width: float
    height: float
    columns: int
    group: tuple[float, float]
    scale: float  # inches a millimetre
    top: float
    foot: float

    def box(self, left: float, top: float, wide: float, high: float) -> tuple[float, ...]:
        bottom = self.height - top - high
        return left / self.width, bottom / self.height, wide / self.width, high / self.height

    def corner(self, index: int) -> tuple[float, float]:
        """Return (left, top) of a group, its heading included."""
        row, column = divmod(index, self.columns)
        wide, high = self.group
        left = _MARGIN + column * (wide + _BETWEEN)
        return left, self.top + row * (high + _BETWEEN)


def montage(
    caption: Caption, *, smooth: bool = True, columns: int = 0, width: float = 12.0,
    most: int = MOST_WORDS,
) -> Figure:  # fmt: skip
    """Draw where in a scan the decoder looked for each word.

    For every word the axial, coronal and sagittal plane through the cell of its greatest weight,
    all in one scale of millimetres and one scale of attention, in multiples of uniform.

    Args:
        caption: with its scan.
        smooth: smoothed maps; False shows the raw cells.
        columns: groups of three planes in a row; 0 chooses.
        width: of the figure in inches, at least 8.
        most: draw at most so many words, function words left out first; 0 draws all.

    Returns:
        A matplotlib figure; it is neither shown nor registered with pyplot.

    Raises:
        ConfigError: the caption does not hold its scan, or an option is out of range.
    """
    scan = caption.media
    if not isinstance(scan, Scan):
        raise ConfigError("this caption holds no scan to draw on; caption the file again.")
    if width < _NARROWEST or columns < 0 or most < 0:
        raise ConfigError(
            f"a montage of width {width}, {columns} columns and at most {most} words; width must "
            f"be at least {_NARROWEST:g} inches, the others at least 1, or 0 to let it choose."
        )
    words = chosen_words(caption.words, most)
    fonts = choose_fonts(
        "".join([caption.text, *(w.text for w in words), caption.model, *caption.notices])
    )
    size = _TITLE_SIZE if len(caption.text) <= _LONG_TITLE else _LONG_TITLE_SIZE
    title = wrapped(fonts.drawable(caption.text) or "(no words)", width, size)
    footer = _footer(caption, scan, fonts, width, smooth, len(words))
    layout = _arrange(len(words) + 1, caption.grid, width, columns, title, size, footer)
    figure = Figure(figsize=(width, layout.height), facecolor="white")
    _text(figure, layout, _MARGIN, 0.36, title, size, _INK, fonts)
    middle = tuple(size / 2 for size in caption.grid.source_size)
    alone = three_planes(scan, caption.grid, (middle[0], middle[1], middle[2]))
    voxels = " × ".join(f"{n}" for n in scan.pixels.shape[::-1])
    spacing = " × ".join(f"{mm:.3g}" for mm in scan.spacing[::-1])
    centre = labels.position(world_of(caption.grid, middle))
    _group(figure, layout, 0, alone, fonts, "scan",
           (f"{voxels} voxels of {spacing} mm", f"planes through its middle {centre}"),
           cross=False, colour=_QUIET)  # fmt: skip
    top = scan_scale(caption.trace.alpha, caption.grid, smooth=smooth)
    for index, word in enumerate(words, start=1):
        _word(figure, layout, index, caption, scan, word, fonts, top, smooth=smooth)
    colour_bar(figure, _four(layout.box(_MARGIN, layout.foot + 0.16, _BAR, 0.13)), top)
    left = _MARGIN + _BESIDE_BAR
    warning = wrapped(fonts.drawable(" ".join(notices(caption))), width - _BESIDE_BAR, 9.0)
    _text(figure, layout, left, layout.foot - 0.05, warning, 9.0, _WARNING, fonts, weight="bold")
    below = layout.foot + (warning.count("\n") + 1) * 0.19
    _text(figure, layout, left, below, footer, _SMALL, _QUIET, fonts, linespacing=1.5)
    return figure


def notices(caption: Caption) -> tuple[str, ...]:
    """Return what every reader must know of a scan's caption."""
    return tuple(dict.fromkeys((NOT_CLINICAL, *caption.notices)))


def chosen_words(words: tuple[Word, ...], most: int) -> tuple[Word, ...]:
    """Return at most so many words in the caption's order, function words left out first."""
    if not most or len(words) <= most:
        return words
    order = sorted(range(len(words)), key=lambda t: (word_class(words[t].text) == "function", t))
    return tuple(words[t] for t in sorted(order[:most]))


def _word(
    figure: Figure, layout: _Layout, index: int, caption: Caption, scan: Scan, word: Word,
    fonts: FontChoice, top: float, *, smooth: bool,
) -> None:  # fmt: skip
    grid = caption.grid
    peak = peak_of(word, grid)
    place = peak.place if peak else _middle(grid)
    cell = None if word.location is None else cell_bounds(grid, word.location)
    planes = three_planes(scan, grid, place, alpha=word.alpha, top=top, smooth=smooth, cell=cell)
    told = labels.peak(peak, grid)
    _group(figure, layout, index, planes, fonts, word.text, (_numbers(word, grid), told),
           cross=peak is not None)  # fmt: skip


def _numbers(word: Word, grid: Grid) -> str:
    """Return a word's numbers; the peak in multiples of uniform, for scans have many cells."""
    beta = "" if word.beta is None else f"   β {word.beta:.2f}"
    peak = word.peak * grid.real_cells
    return f"p {math.exp(word.logprob):.2f}   peak {peak:.1f}× uniform{beta}"


def _middle(grid: Grid) -> tuple[float, float, float]:
    slices, rows, cols = ((start + stop) / 2 for start, stop in grid.extent)
    return slices, rows, cols


def _arrange(
    groups: int, grid: Grid, width: float, columns: int, title: str, size: float, footer: str
) -> _Layout:
    columns = min(columns or (2 if groups < _THREE_FROM else 3), groups)
    high, back, wide = grid.source_size  # millimetres along slices, rows, cols
    room = (width - 2 * _MARGIN - (columns - 1) * _BETWEEN) / columns
    scale = min((room - 2 * _GAP) / (2 * wide + back), _TALLEST / max(high, back))
    top = 0.36 + (title.count("\n") + 1) * size * 1.25 / 72 + 0.12
    group = (room, _HEAD + scale * max(high, back))
    rows = math.ceil(groups / columns)
    foot = top + rows * (group[1] + _BETWEEN)
    height = foot + (footer.count("\n") + 1) * _LINE + 0.65
    return _Layout(width, height, columns, group, scale, top, foot)


def _group(
    figure: Figure, layout: _Layout, index: int, planes: tuple[Plane, ...], fonts: FontChoice,
    word: str, numbers: tuple[str, str], *, cross: bool, colour: str = _INK,
) -> None:  # fmt: skip
    left, top = layout.corner(index)
    word = fonts.drawable(word)
    size = min(_WORD_SIZE, layout.group[0] * 100 / len(word or "-"))
    _text(figure, layout, left, top, word, size, colour, fonts)
    small = min(_SMALL, layout.group[0] * 72 / 0.55 / max(map(len, numbers)))
    _text(figure, layout, left, top + 0.25, "\n".join(numbers), small, _QUIET, fonts,
          linespacing=1.35)  # fmt: skip
    for plane in planes:
        high, wide = (mm * layout.scale for mm in plane.size)
        box = _four(layout.box(left, top + _HEAD, wide, high))
        axis = figure.add_axes(box, label=f"{index} {plane.name}")
        _draw(axis, plane, layout.scale, cross=cross)
        left += wide + _GAP
    _scale_bar(figure.axes[-3], planes[0], layout.scale)


def _draw(axis: Axes, plane: Plane, scale: float, *, cross: bool) -> None:
    high, wide = plane.size
    axis.imshow(plane.picture, extent=(0, wide, high, 0), interpolation="antialiased",
                aspect="auto")  # fmt: skip
    axis.set_xlim(0, wide)
    axis.set_ylim(high, 0)
    axis.set_axis_off()
    for letter, x, y, across, up in zip(
        plane.edges, (0, 1, 0.5, 0.5), (0.5, 0.5, 1, 0), (3, -3, 0, 0), (0, 0, -2, 3), strict=True
    ):
        axis.annotate(letter, (x, y), (across, up), "axes fraction", "offset points",
                      ha=("left", "right", "center")[0 if x == 0 else 1 if x == 1 else 2],
                      va=("bottom", "top", "center")[0 if y == 0 else 1 if y == 1 else 2],
                      size=_LETTER, color="white", path_effects=_OUTLINE)  # fmt: skip
    if cross:
        _cross(axis, plane, _HOLE * max(high, wide))
    if plane.box is not None:
        above, left, below, right = plane.box
        axis.add_patch(Rectangle((left, above), right - left, below - above, fill=False,
                                 edgecolor=_CHOSEN, linewidth=1.4))  # fmt: skip


def _cross(axis: Axes, plane: Plane, hole: float) -> None:
    """Draw lines through the point, with a hole around it, so that it stays visible."""
    (high, wide), (down, across) = plane.size, plane.point
    line: dict[str, Any] = {"color": _CROSS, "linewidth": 0.7, "path_effects": _THIN_OUTLINE}
    axis.plot([0, across - hole], [down, down], **line)
    axis.plot([across + hole, wide], [down, down], **line)
    axis.plot([across, across], [0, down - hole], **line)
    axis.plot([across, across], [down + hole, high], **line)


def _scale_bar(axis: Axes, plane: Plane, scale: float) -> None:
    high, wide = plane.size
    length = max((mm for mm in _BARS if mm <= 0.3 * wide), default=_BARS[0])
    left, down = 0.05 / scale, high - 0.06 / scale
    axis.plot([left, left + length], [down, down], color="white", linewidth=1.6,
              solid_capstyle="butt", path_effects=_OUTLINE)  # fmt: skip
    axis.annotate(f"{length} mm", (left, down), (0, 2.5), "data", "offset points", size=5.5,
                  color="white", path_effects=_OUTLINE)  # fmt: skip


def _footer(
    caption: Caption, scan: Scan, fonts: FontChoice, width: float, smooth: bool, drawn: int
) -> str:
    left_out = len(caption.words) - drawn
    parts = [
        labels.cells(caption.grid),
        labels.smoothed(caption.grid) if smooth else "raw",
        labels.FRAMED if any(word.location is not None for word in caption.words) else "",
        labels.covered(caption.grid),
        f"{left_out} words not drawn" if left_out else "",
    ]
    # The file's name stays out: scans are often named after patients.
    source = [caption.model, *scan.notes, fonts.note]
    lines = [
        labels.looked(caption.trace),
        ", ".join(filter(None, parts)),
        labels.SCALE,
        *labels.scan_notes(caption.grid, oblique_degrees(scan)),
        "  ·  ".join(filter(None, source)),
    ]
    return "\n".join(wrapped(fonts.drawable(x), width - _BESIDE_BAR, _SMALL) for x in lines)


def _text(
    figure: Figure, layout: _Layout, left: float, top: float, text: str, size: float, colour: str,
    fonts: FontChoice, **options: Any,
) -> None:  # fmt: skip
    x, y, _, _ = layout.box(left, top, 0, 0)
    figure.text(x, y, text, size=size, color=colour, va="top", family=fonts.families,
                parse_math=False, **options)  # fmt: skip


def _four(box: tuple[float, ...]) -> tuple[float, float, float, float]:
    left, bottom, wide, high = box
    return left, bottom, wide, high
