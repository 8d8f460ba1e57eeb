"""A scan's three planes as one picture, for each word in turn: what an animation shows."""

from __future__ import annotations

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from regard.explain.scan.volume_maps import Plane, peak_of, scan_scale, three_planes
from regard.media import cell_bounds, cell_centre
from regard.types import Caption, Scan

_LONGEST = 260  # pixels of the scan's longest side
_GAP = 6  # pixels between planes
_LETTER = 13
_LINE, _CHOSEN, _OUTLINE = "#ffffff", "#ff4d4d", "#10141c"


def swept(caption: Caption, scan: Scan, *, smooth: bool) -> list[tuple[np.ndarray, str]]:
    """Return (picture, text) of the scan alone and then of every word, at the word's peak.

    Args:
        caption: of the scan.
        scan: the scan.
        smooth: smoothed maps or raw cells.
    """
    grid = caption.grid
    high, back, wide = grid.source_size
    middle = (high / 2, back / 2, wide / 2)
    drawn = [
        (_joined(three_planes(scan, grid, middle, pixels=_LONGEST), cross=False), caption.text)
    ]
    top = scan_scale(caption.trace.alpha, grid, smooth=smooth)
    for word in caption.words:
        peak = peak_of(word, grid)
        down, up, across = middle if peak is None else cell_centre(grid, peak.cell)
        cell = None if word.location is None else cell_bounds(grid, word.location)
        planes = three_planes(scan, grid, (down, up, across), alpha=word.alpha, top=top,
                              smooth=smooth, cell=cell, pixels=_LONGEST)  # fmt: skip
        drawn.append((_joined(planes, cross=peak is not None), word.text))
    return drawn


def _joined(planes: tuple[Plane, ...], *, cross: bool) -> np.ndarray:
    """Return the planes side by side on black, with letters and a cross at the point."""
    pictures = [_marked(plane, cross=cross) for plane in planes]
    width = sum(picture.width for picture in pictures) + _GAP * (len(pictures) - 1)
    joined = Image.new("RGB", (width, max(picture.height for picture in pictures)))
    left = 0
    for picture in pictures:
        joined.paste(picture, (left, 0))
        left += picture.width + _GAP
    return np.asarray(joined)


def _marked(plane: Plane, *, cross: bool) -> Image.Image:
    picture = Image.fromarray(plane.picture)
    pen = ImageDraw.Draw(picture)
    wide, high = picture.size
    down, across = (
        at / size * pixels
        for at, size, pixels in zip(plane.point, plane.size, (high, wide), strict=True)
    )
    if cross:
        hole = _LONGEST / 25
        for start, stop in ((0, across - hole), (across + hole, wide)):
            pen.line((start, down, stop, down), fill=_LINE)
        for start, stop in ((0, down - hole), (down + hole, high)):
            pen.line((across, start, across, stop), fill=_LINE)
    if plane.box is not None:
        top, left, bottom, right = plane.box
        y, x = high / plane.size[0], wide / plane.size[1]
        pen.rectangle((left * x, top * y, right * x, bottom * y), outline=_CHOSEN, width=2)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), _LETTER)
    places = ((4, high / 2, "lm"), (wide - 4, high / 2, "rm"), (wide / 2, 3, "ma"),
              (wide / 2, high - 3, "md"))  # fmt: skip
    for letter, (x, y, anchor) in zip(plane.edges, places, strict=True):
        pen.text((x, y), letter, fill=_LINE, font=font, anchor=anchor, stroke_width=2,
                 stroke_fill=_OUTLINE)  # fmt: skip
    return picture
