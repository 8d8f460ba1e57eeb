"""A caption as a self-contained HTML fragment: hover over, tap or tab through its words.

The fragment contains its picture, style and script; it loads no files. Notebooks show it through
`Caption._repr_html_`, and the other pages are made of the same pieces.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from regard.explain import drawing, maps
from regard.text.vocabulary import END, SPECIALS, UNKNOWN
from regard.types import Caption, Grid, Word
from regard.util.shown_text import printable, printable_json

if TYPE_CHECKING:
    from regard.faithfulness.occlusion import Occlusion

_SIDE = 448  # pixels of the embedded picture's longer side
_ENLARGE = 8  # points per cell that the page computes; the browser interpolates between them
FALL_LEAST = 0.25
"""Least top of the scale of occlusion, in nats: a fall of p by a fifth."""
_STOPS = 33  # samples of the colour map in a page
_CANDIDATES = {SPECIALS[END]: "(end)", SPECIALS[UNKNOWN]: "(unknown word)"}
_BESIDE_TAG = re.compile(r"(?<=>)\s*\n\s*|\s*\n\s*(?=<)|^\s+|\s+$")
_TEMPLATE = re.compile(r'<template id="(\w+)">(.*?)</template>', re.DOTALL)


class Fragments(Formatter):
    """The fragments of an HTML file: its `<template id="...">` elements.

    A fragment has fields as in `str.format`; `{field!e}` also escapes the text. Line breaks
    beside a tag are left out, and others become spaces.
    """

    def __init__(self, name: str, package: str = "regard.explain") -> None:
        """Name the file, which is read at first use."""
        self._file = name, package

    @cached_property
    def _texts(self) -> dict[str, str]:
        found = _TEMPLATE.findall(asset(*self._file))
        return {key: re.sub(r"\s*\n\s*", " ", _BESIDE_TAG.sub("", text)) for key, text in found}

    def fill(self, fragment: str, /, **values: Any) -> str:
        """Return a fragment with its fields filled in."""
        return self.vformat(self._texts[fragment], (), values)

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        """Convert a field; "e" escapes it."""
        return (
            escaped(str(value)) if conversion == "e" else super().convert_field(value, conversion)
        )


VIEWER = Fragments("viewer.html")
"""Fragments that several pages have."""


@dataclass(frozen=True)
class PageWord:
    """A word on a page.

    Attributes:
        text: the word.
        alpha: its weights, in any shape, such that uniform is 1 over all of the shape's cells.
        note: its numbers, formatted for display.
        others: alternatives and their probabilities.
        cell: flat index of the cell that hard attention chose; None otherwise.
        falls: the fall of the word's log-probability with each cell covered, in nats, in the
            shape of alpha; None where it was not measured.
        marked: whether the word is highlighted because a finding is about it.
        first: whether its map is shown before a reader chooses a word.
        frame: for a clip, the frame that the word seeks to; None for other media.
        named: whether the pointer named it from what it looked at; it is then underlined.
    """

    text: str
    alpha: np.ndarray
    note: str
    others: tuple[tuple[str, float], ...] = ()
    cell: int | None = None
    falls: np.ndarray | None = None
    marked: bool = False
    first: bool = False
    frame: int | None = None
    named: bool = False


def caption_html(
    caption: Caption,
    occlusion: Occlusion | None = None,
    *,
    assets: bool = True,
    smooth: bool = True,
) -> str:
    """Return the caption with its picture as an HTML fragment.

    Every word is a button that shows its map, on one absolute scale in multiples of uniform,
    smoothed or raw as the reader chooses; with an occlusion, its falls can be shown instead, on
    one scale in nats. A clip or a scan is laid out as one picture of raw cells (smoothing would
    carry attention from a frame or slice into the one beside it), without its occlusion.

    Args:
        caption: with its picture.
        occlusion: occlusion of the caption.
        assets: whether style and script are included; once on a page is enough.
        smooth: whether maps are smoothed until the reader chooses.

    Raises:
        ConfigError: the caption does not hold its picture, or its grid is not a picture's.
    """
    choice = caption.medium == "image"
    if not choice:
        caption, occlusion = maps.as_picture(caption), None
    pixels, grid, alpha = drawing.picture_of(caption), caption.grid, caption.trace.alpha
    tops = {"map": tuple(maps.absolute_scale(alpha, grid, smooth=s) for s in (False, choice))}
    if occlusion is not None:
        tops["mattered"] = falls_scale(occlusion.falls, grid)
    words = words_html(
        [page_word(word, occlusion, t) for t, word in enumerate(caption.words)], tops
    )
    foot = [drawing.attention_label(caption.trace), drawing.grid_label(grid),
            drawing.coverage_label(grid), drawing.chosen_label(caption), drawing.SCALE_NOTE,
            caption.model, *caption.notices]  # fmt: skip
    return (
        f"{assets_html() if assets else ''}"
        f"<div class='regard' role='group' aria-label='{escaped(caption.text)}' "
        f"data-map='{map_data(grid, smooth=choice)}'>"
        f"{picture_html(pixels, grid, Path(caption.file).name)}{words}"
        f"{controls_html(occluded=occlusion is not None)}"
        f"{scale_html(tops['map'][smooth], grid, smooth=choice, checked=smooth)}"
        f"{output_html()}{footer_html(foot)}</div>"
    )


def escaped(text: str) -> str:
    """Return a text that is safe between tags and in quoted attributes, and reads in order."""
    return escape(printable(text), quote=True)


def asset(name: str, package: str = "regard.explain") -> str:
    """Return the text of a style, script or notice from a package."""
    return (files(package) / name).read_text("utf-8")


def assets_html(name: str = "viewer") -> str:
    """Return a style and script; those of "viewer" are needed by every fragment.

    A page may hold them twice.
    """
    return f"<style>{asset(f'{name}.css')}</style><script>{asset(f'{name}.js')}</script>"


def page_html(title: str, head: str, body: str) -> str:
    """Return a whole page.

    Args:
        title: as text.
        head: styles and scripts, as HTML.
        body: as HTML.
    """
    return VIEWER.fill("page", title=title, head=head, body=body)


def table_html(heads: Sequence[str], rows: Iterable[Sequence[str]], cell: str = "td") -> str:
    """Return a table that scrolls on its own.

    Args:
        heads: headings of the columns, as text.
        rows: as text.
        cell: the tag of a cell, with its attributes.
    """
    head = "".join(f"<th scope='col'>{escaped(name)}</th>" for name in heads)
    body = "".join(
        f"<tr>{''.join(f'<{cell}>{escaped(text)}</td>' for text in row)}</tr>" for row in rows
    )
    return VIEWER.fill("table", head=head, body=body)


def footer_html(notes: Iterable[str]) -> str:
    """Return a fragment's footer; empty notes are left out."""
    return f"<footer>{escaped(' · '.join(filter(None, notes)))}</footer>"


def map_data(grid: Grid, *, smooth: bool) -> str:
    """Return the script's settings for drawing maps, as the value of `data-map`.

    Args:
        grid: grid of the maps.
        smooth: whether smoothing can be chosen.
    """
    data: dict[str, Any] = {"grid": grid.shape, "place": _place(grid), "opacity": maps.OPACITY}
    data["colours"] = colour_stops(_STOPS)
    if smooth:
        kernels = (maps.smoothing(cells, _ENLARGE) for cells in grid.shape)
        data["kernels"] = [[[round(w, 4) for w in row] for row in k.tolist()] for k in kernels]
    return attribute(data)


def attribute(data: Any) -> str:
    """Return values as JSON that is safe in a quoted attribute."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return escaped(printable_json(text))


def colour_stops(count: int) -> list[list[int]]:
    """Return colours of the maps at even shares of the scale, as (r, g, b) of 8 bits."""
    return np.rint(255 * maps.colours(np.linspace(0, 1, count))[0]).astype(int).tolist()


def image_uri(pixels: np.ndarray, side: int, quality: int = 85) -> str:
    """Return a picture as the data URI of a JPEG whose longer side is at most `side`."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return data_uri(buffer.getvalue(), "image/jpeg")


def data_uri(data: bytes, kind: str) -> str:
    """Return bytes of a MIME type as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def layer_html(grid: Grid) -> str:
    """Return the empty layer for maps that lies over a picture where the grid's cells lie."""
    return VIEWER.fill("layer", place=_place(grid))


def _place(grid: Grid) -> list[float]:
    """Return left, top, width and height of the grid's cells, as shares of the source."""
    (top, bottom), (left, right) = grid.extent
    height, width = grid.source_size
    return [left / width, top / height, (right - left) / width, (bottom - top) / height]


def picture_html(pixels: np.ndarray, grid: Grid, name: str, *, side: int = _SIDE) -> str:
    """Return the picture with an empty layer for maps.

    Args:
        pixels: (height, width, 3) uint8.
        grid: grid of the maps.
        name: name of the picture.
        side: pixels of the embedded picture's longer side.
    """
    return (
        f"<figure><img alt='{escaped(name)}' src='{image_uri(pixels, side)}'>"
        f"{layer_html(grid)}</figure>"
    )


def words_html(words: Sequence[PageWord], tops: Mapping[str, Sequence[float]]) -> str:
    """Return a caption's words as buttons that carry their maps.

    Args:
        words: words of one caption.
        tops: tops of the colour scales, raw, and smoothed where it can be chosen: "map" in
            multiples of uniform, "mattered" (the falls of an occlusion) in nats.
    """
    buttons: list[str] = []
    for word in words:
        relative = [round(float(value), 2) for value in maps.relative_map(word.alpha).ravel()]
        data = {"map": relative, "note": word.note, "others": word.others, "cell": word.cell}
        if word.falls is not None:
            data["mattered"] = [round(float(value), 4) for value in word.falls.ravel()]
        if word.frame is not None:
            data["frame"] = word.frame
        label = "; ".join([word.note, *(f"{text} {p:.2f}" for text, p in word.others)])
        names = " ".join(name for name in ("marked", "first", "named") if getattr(word, name))
        classes = f" class='{names}'" if names else ""
        fields = {"word": word, "classes": classes, "label": label, "data": attribute(data)}
        buttons.append(VIEWER.fill("word", **fields))
    data_tops = f"data-tops='{json.dumps(tops)}'"
    return f"<div class='words' dir='auto' {data_tops}>{' '.join(buttons)}</div>"


def bar_html(top: float) -> str:
    """Return the colour bar of a scale in multiples of uniform, with a mark at 1."""
    opacities = maps.colours(np.linspace(0, 1, 9))[1]
    stops = ",".join(
        f"rgba({','.join(map(str, stop))},{opacity:.2f})"
        for stop, opacity in zip(colour_stops(9), opacities, strict=True)
    )
    return VIEWER.fill("bar", stops=stops, uniform=1 / top)


def scale_html(top: float, grid: Grid, *, smooth: bool, checked: bool = True) -> str:
    """Return the colour bar in multiples of uniform, and the choice of smoothing.

    Args:
        top: top of the scale.
        grid: grid of the maps.
        smooth: whether the reader can choose between smoothed and raw.
        checked: whether smoothed is chosen at first.
    """
    drawn = "<span>raw cells</span>"
    if smooth:
        mark = " checked" if checked else ""
        drawn = VIEWER.fill("smooth", checked=mark, how=drawing.smoothing_label(grid))
    return VIEWER.fill("scale", bar=bar_html(top), top=top, drawn=drawn)


def controls_html(*, occluded: bool) -> str:
    """Return the buttons of a viewer: play, opacity, and which of two maps is shown.

    Args:
        occluded: whether there is a second map, of an occlusion.
    """
    layers = VIEWER.fill("layers") if occluded else ""
    return VIEWER.fill("controls", opacity=100 * maps.OPACITY, layers=layers)


def falls_scale(falls: np.ndarray, grid: Grid) -> tuple[float, float]:
    """Return the tops, raw and smoothed, of one scale in nats for all words of a caption.

    Args:
        falls: (T, *grid) of log p; values below 0 are not drawn.
        grid: grid of the cells.
    """
    raw = float(falls.max(initial=0.0))
    rows, cols = (maps.smoothing(cells) for cells in grid.shape)
    smooth = float((rows @ falls.reshape(-1, *grid.shape) @ cols.T).max(initial=0.0))
    return max(FALL_LEAST, raw), max(FALL_LEAST, smooth)


def output_html() -> str:
    """Return the element that shows the chosen word's numbers."""
    return VIEWER.fill("output")


def word_note(word: Word, cells: int | None = None) -> str:
    """Return a word's numbers, formatted for display.

    Args:
        word: the word.
        cells: number of real cells; None: all of its map.
    """
    sure = "" if word.confidence is None else f" · confidence {word.confidence:.0%}"
    most = math.log(cells or word.alpha.size)
    return (
        f"p {math.exp(word.logprob):.2f}{sure} · entropy {word.entropy:.2f} of at most {most:.2f} "
        f"nats · peak {word.peak:.1%}{drawing.beta_label(word, ' · ')}"
        f"{drawing.named_label(word, ' · ')}"
    )


def candidate_label(text: str) -> str:
    """Return an alternative word for display."""
    return _CANDIDATES.get(text, text)


def page_word(
    word: Word,
    occlusion: Occlusion | None,
    t: int,
    *,
    before: str = "",
    after: str = "",
    real_cells: int | None = None,
    frame: int | None = None,
) -> PageWord:
    """Return a caption's word number t as a `PageWord`.

    Args:
        word: the word.
        occlusion: occlusion of the caption.
        t: its number.
        before: note before its numbers.
        after: note after its numbers.
        real_cells: number of real cells; None: all of its map. Uniform is 1 over them.
        frame: see `PageWord`.
    """
    note = " · ".join(filter(None, [before, word_note(word, real_cells), after]))
    alpha = word.alpha * ((real_cells or word.alpha.size) / word.alpha.size)
    others = tuple(
        (candidate_label(text), round(math.exp(value), 4)) for text, value in word.alternatives[:5]
    )
    falls = None
    if occlusion is not None:
        falls = occlusion.falls[t]
        if math.isfinite(agreement := occlusion.correlation[t]):
            note += f" · agreement with what mattered {agreement:+.2f}"
    named = word.source == "concept"
    return PageWord(word.text, alpha, note, others, word.location, falls, frame=frame, named=named)
