"""Three planes of a scan for every word, through its peak: as a montage, and for an animation."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image, ImageDraw, ImageFont

from regard.errors import ConfigError
from regard.explain.drawing import (
    BESIDE_BAR,
    CHOSEN,
    INK,
    MARGIN,
    NARROWEST,
    OUTLINE,
    QUIET,
    SCALE_NOTE,
    SMALL,
    WARNING,
    WORD_SIZE,
    Canvas,
    PanelGrid,
    Title,
    beta_label,
    choose_fonts,
    footer,
    footer_height,
    map_notes,
    wrapped,
)
from regard.explain.scan.volume_maps import (
    Point,
    SlicePlane,
    orientation_notes,
    peak_label,
    peak_of,
    position_label,
    scan_of,
    scan_scale,
    three_planes,
)
from regard.media import cell_bounds, world_of
from regard.pipeline import NOT_CLINICAL
from regard.text.words import word_class
from regard.types import Caption, Grid, Scan, Word

MOST_WORDS = 24
"""Default limit on the words of a montage; captions of scans can be very long."""
_GAP, _BETWEEN, _HEAD = 0.06, 0.35, 0.62  # inches: planes, groups, a group's heading
_TALLEST = 3.6  # inches of a plane
_LONG_TITLE, _LONG_TITLE_SIZE = 160, 12.0  # letters from which a title is smaller; its points
_NOTICE_SIZE, _LETTER = 9.0, 7.5  # points
_THREE_FROM = 9  # groups; fewer stand two in a row
_BARS = (1, 2, 5, 10, 20, 50, 100, 200)  # possible lengths of a scale bar in millimetres
_HOLE = 0.035  # of the scan's longest side is left free where the lines of the cross meet
_THIN_OUTLINE = [withStroke(linewidth=1.5, foreground=f"{OUTLINE}80")]
_OUTLINE = [withStroke(linewidth=1.8, foreground=OUTLINE)]

_LONGEST = 260  # pixels of the scan's longest side in an animation
_PIXEL_GAP, _PIXEL_LETTER = 6, 13


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
        width: width of the figure in inches, at least 8.
        most: maximum number of words, function words left out first; 0 draws all.

    Returns:
        A matplotlib figure; it is neither shown nor registered with pyplot.

    Raises:
        ConfigError: the caption does not hold its scan, or an option is out of range.
    """
    scan = scan_of(caption)
    if width < NARROWEST or columns < 0 or most < 0:
        raise ConfigError(
            f"Cannot draw a montage of width {width} with {columns} columns and at most {most} "
            f"words: the width must be at least {NARROWEST:g} inches, the others at least 1, or 0 "
            "to choose."
        )
    words = chosen_words(caption.words, most)
    # The file's name is not drawn: scans are often named after patients.
    fonts = choose_fonts(
        "".join([caption.text, *(w.text for w in words), caption.model, *caption.notices])
    )
    size = {"size": _LONG_TITLE_SIZE} if len(caption.text) > _LONG_TITLE else {}
    title = Title.from_caption(caption, fonts, width, **size)
    left_out = len(caption.words) - len(words)
    drawn = [*map_notes(caption, smooth=smooth), f"{left_out} words not drawn" if left_out else ""]
    foot_text = footer(caption, fonts, width - BESIDE_BAR, drawn, [caption.model, *scan.notes],
                       "\n".join([SCALE_NOTE, *orientation_notes(caption.grid, scan)]))  # fmt: skip
    count = len(words) + 1
    groups, scale = _arranged(count, caption.grid, width, columns, title.bottom + 0.12)
    foot = groups.bottom(count)
    canvas = Canvas(width, foot + footer_height(foot_text) + 0.65, fonts, title)
    _draw_scan(canvas, groups, scale, caption.grid, scan)
    top = scan_scale(caption.trace.alpha, caption.grid, smooth=smooth)
    for index, word in enumerate(words, start=1):
        middle = _middle(caption.grid.extent)
        planes = _word_planes(caption.grid, scan, word, top, middle, smooth=smooth)
        notes = (_numbers(word, caption.grid), peak_label(word, caption.grid))
        cross = peak_of(word, caption.grid) is not None
        _group(canvas, groups, index, planes, scale, word.text, notes, cross=cross)
    canvas.colour_bar(MARGIN, foot + 0.16, top)
    notice = wrapped(fonts.drawable(" ".join(scan_notices(caption))), width - BESIDE_BAR,
                     _NOTICE_SIZE)  # fmt: skip
    left = MARGIN + BESIDE_BAR
    canvas.write(left, foot - 0.05, notice, _NOTICE_SIZE, WARNING, weight="bold")
    below = foot + (notice.count("\n") + 1) * 0.19
    canvas.write(left, below, foot_text, SMALL, QUIET, linespacing=1.5)
    return canvas.figure


def scan_notices(caption: Caption) -> tuple[str, ...]:
    """Return the notices that every reader of a scan's caption must see."""
    return tuple(dict.fromkeys((NOT_CLINICAL, *caption.notices)))


def chosen_words(words: tuple[Word, ...], most: int) -> tuple[Word, ...]:
    """Return at most `most` words in the caption's order, function words left out first."""
    if not most or len(words) <= most:
        return words
    order = sorted(range(len(words)), key=lambda t: (word_class(words[t].text) == "function", t))
    return tuple(words[t] for t in sorted(order[:most]))


def _middle(extent: Iterable[tuple[float, float]]) -> Point:
    return tuple((start + stop) / 2 for start, stop in extent)


def _word_planes(
    grid: Grid, scan: Scan, word: Word, top: float, flat: Point, **options: Any
) -> tuple[SlicePlane, ...]:
    """Return the planes through a word's peak; through the point `flat` where it has none."""
    peak = peak_of(word, grid)
    cell = None if word.location is None else cell_bounds(grid, word.location)
    point = flat if peak is None else peak.place
    return three_planes(scan, grid, point, alpha=word.alpha, top=top, cell=cell, **options)


def _draw_scan(canvas: Canvas, groups: PanelGrid, scale: float, grid: Grid, scan: Scan) -> None:
    """Draw the scan alone, as the first group."""
    middle = _middle((0, size) for size in grid.source_size)
    voxels = " × ".join(f"{n}" for n in scan.pixels.shape[::-1])
    spacing = " × ".join(f"{mm:.3g}" for mm in scan.spacing[::-1])
    notes = (f"{voxels} voxels of {spacing} mm",
             f"planes through its middle {position_label(world_of(grid, middle))}")  # fmt: skip
    planes = three_planes(scan, grid, middle)
    _group(canvas, groups, 0, planes, scale, "scan", notes, cross=False, colour=QUIET)


def _numbers(word: Word, grid: Grid) -> str:
    """Return a word's numbers; the peak in multiples of uniform, because scans have many cells."""
    peak = word.peak * grid.real_cells
    return f"p {math.exp(word.logprob):.2f}   peak {peak:.1f}× uniform{beta_label(word)}"


def _arranged(
    groups: int, grid: Grid, width: float, columns: int, top: float
) -> tuple[PanelGrid, float]:
    """Return the places of the groups, and inches per millimetre."""
    columns = min(columns or (2 if groups < _THREE_FROM else 3), groups)
    high, back, wide = grid.source_size  # millimetres along slices, rows, cols
    room = (width - 2 * MARGIN - (columns - 1) * _BETWEEN) / columns
    scale = min((room - 2 * _GAP) / (2 * wide + back), _TALLEST / max(high, back))
    return PanelGrid(columns, room, scale * max(high, back), _HEAD, _BETWEEN, top), scale


def _group(
    canvas: Canvas, groups: PanelGrid, index: int, planes: tuple[SlicePlane, ...], scale: float,
    word: str, notes: tuple[str, str], *, cross: bool, colour: str = INK,
) -> None:  # fmt: skip
    left, top = groups.corner(index)
    word = canvas.fonts.drawable(word)
    size = min(WORD_SIZE, groups.wide * 100 / len(word or "-"))
    canvas.write(left, top, word, size, colour)
    small = min(SMALL, groups.wide * 72 / 0.55 / max(map(len, notes)))
    canvas.write(left, top + 0.25, "\n".join(notes), small, QUIET, linespacing=1.35)
    for plane in planes:
        high, wide = (mm * scale for mm in plane.size)
        axis = canvas.axes(left, top + _HEAD, wide, high, f"{index} {plane.name}")
        _draw_plane(axis, plane, cross=cross)
        left += wide + _GAP
    _scale_bar(canvas.figure.axes[-3], planes[0], scale)


def _draw_plane(axis: Axes, plane: SlicePlane, *, cross: bool) -> None:
    high, wide = plane.size
    axis.imshow(plane.picture, extent=(0, wide, high, 0), interpolation="antialiased",
                aspect="auto")  # fmt: skip
    axis.set(xlim=(0, wide), ylim=(high, 0))
    places = ((0, 0.5, 3, 0, "left", "center"), (1, 0.5, -3, 0, "right", "center"),
              (0.5, 1, 0, -2, "center", "top"), (0.5, 0, 0, 3, "center", "bottom"))  # fmt: skip
    for letter, (x, y, across, up, ha, va) in zip(plane.edges, places, strict=True):
        axis.annotate(letter, (x, y), (across, up), "axes fraction", "offset points", ha=ha, va=va,
                      size=_LETTER, color="white", path_effects=_OUTLINE)  # fmt: skip
    if cross:
        line: dict[str, Any] = {"color": "white", "linewidth": 0.7, "path_effects": _THIN_OUTLINE}
        for x, y in _cross(plane.point, plane.size, _HOLE * max(high, wide)):
            axis.plot(x, y, **line)
    if plane.box is not None:
        above, left, below, right = plane.box
        axis.add_patch(Rectangle((left, above), right - left, below - above, fill=False,
                                 edgecolor=CHOSEN, linewidth=1.4))  # fmt: skip


def _cross(
    point: tuple[float, float], size: tuple[float, float], hole: float
) -> tuple[tuple[tuple[float, float], tuple[float, float]], ...]:
    """Return (xs, ys) of four lines to a point, with a hole around it, so that it stays visible."""
    (down, across), (high, wide) = point, size
    return (
        ((0, across - hole), (down, down)),
        ((across + hole, wide), (down, down)),
        ((across, across), (0, down - hole)),
        ((across, across), (down + hole, high)),
    )


def _scale_bar(axis: Axes, plane: SlicePlane, scale: float) -> None:
    high, wide = plane.size
    length = max((mm for mm in _BARS if mm <= 0.3 * wide), default=_BARS[0])
    left, down = 0.05 / scale, high - 0.06 / scale
    axis.plot([left, left + length], [down, down], color="white", linewidth=1.6,
              solid_capstyle="butt", path_effects=_OUTLINE)  # fmt: skip
    axis.annotate(f"{length} mm", (left, down), (0, 2.5), "data", "offset points", size=5.5,
                  color="white", path_effects=_OUTLINE)  # fmt: skip


# Animation


def scan_frames(caption: Caption, scan: Scan, *, smooth: bool) -> list[tuple[np.ndarray, str]]:
    """Return (picture, text) of the scan alone and then of every word, at the word's peak.

    Args:
        caption: caption of the scan.
        scan: the scan.
        smooth: smoothed maps or raw cells.
    """
    grid = caption.grid
    middle = _middle((0, size) for size in grid.source_size)
    alone = three_planes(scan, grid, middle, pixels=_LONGEST)
    frames = [(_joined(alone, cross=False), caption.text)]
    top = scan_scale(caption.trace.alpha, grid, smooth=smooth)
    for word in caption.words:
        planes = _word_planes(grid, scan, word, top, middle, smooth=smooth, pixels=_LONGEST)
        frames.append((_joined(planes, cross=peak_of(word, grid) is not None), word.text))
    return frames


def _joined(planes: tuple[SlicePlane, ...], *, cross: bool) -> np.ndarray:
    """Return the planes side by side on black, with letters and a cross at the point."""
    pictures = [_annotated(plane, cross=cross) for plane in planes]
    width = sum(picture.width for picture in pictures) + _PIXEL_GAP * (len(pictures) - 1)
    joined = Image.new("RGB", (width, max(picture.height for picture in pictures)))
    left = 0
    for picture in pictures:
        joined.paste(picture, (left, 0))
        left += picture.width + _PIXEL_GAP
    return np.asarray(joined)


def _annotated(plane: SlicePlane, *, cross: bool) -> Image.Image:
    picture = Image.fromarray(plane.picture)
    pen = ImageDraw.Draw(picture)
    wide, high = picture.size
    down, across = (
        at / size * pixels
        for at, size, pixels in zip(plane.point, plane.size, (high, wide), strict=True)
    )
    if cross:
        for (x, x_end), (y, y_end) in _cross((down, across), (high, wide), _LONGEST / 25):
            pen.line((x, y, x_end, y_end), fill="white")
    if plane.box is not None:
        top, left, bottom, right = plane.box
        y, x = high / plane.size[0], wide / plane.size[1]
        pen.rectangle((left * x, top * y, right * x, bottom * y), outline=CHOSEN, width=2)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), _PIXEL_LETTER)
    places = ((4, high / 2, "lm"), (wide - 4, high / 2, "rm"), (wide / 2, 3, "ma"),
              (wide / 2, high - 3, "md"))  # fmt: skip
    for letter, (x, y, anchor) in zip(plane.edges, places, strict=True):
        pen.text((x, y), letter, fill="white", font=font, anchor=anchor, stroke_width=2,
                 stroke_fill=OUTLINE)  # fmt: skip
    return picture
