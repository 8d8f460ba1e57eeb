"""A caption as a self-contained HTML fragment: hover over, tap or tab through its words.

The fragment contains its picture, style and script; it loads no files. Notebooks show it through
`Caption._repr_html_`, and the other pages are made of the same pieces.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from regard.explain.drawing import (
    SCALE_NOTE,
    attention_label,
    beta_label,
    candidate_label,
    chosen_label,
    coverage_label,
    grid_label,
    named_label,
    picture_of,
    smoothing_label,
)
from regard.explain.maps import (
    OPACITY,
    absolute_scale,
    as_picture,
    colours,
    relative_map,
    smoothing,
)
from regard.types import Caption, Grid, Word

if TYPE_CHECKING:
    from regard.faithfulness.occlusion import Occlusion

_SIDE = 448  # pixels of the embedded picture's longer side
_ENLARGE = 8  # points per cell that the page computes; the browser interpolates between them
FALL_LEAST = 0.25
"""Least top of the scale of occlusion, in nats: a fall of p by a fifth."""
_STOPS = 33  # samples of the colour map in a page


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
        caption, occlusion = as_picture(caption), None
    pixels, grid, alpha = picture_of(caption), caption.grid, caption.trace.alpha
    tops = {"map": (absolute_scale(alpha, grid), absolute_scale(alpha, grid, smooth=choice))}
    if occlusion is not None:
        tops["mattered"] = falls_scale(occlusion.falls, grid)
    words = words_html(
        [page_word(word, occlusion, t) for t, word in enumerate(caption.words)], tops
    )
    foot = [attention_label(caption.trace), grid_label(grid), coverage_label(grid),
            chosen_label(caption), SCALE_NOTE, caption.model, *caption.notices]  # fmt: skip
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
    """Return a text that is safe between tags and in quoted attributes."""
    return html.escape(text, quote=True)


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
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escaped(title)}</title>{head}</head><body><main>{body}</main></body></html>"
    )


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
    return (
        f"<div class='wide'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def footer_html(notes: Iterable[str]) -> str:
    """Return a fragment's footer; empty notes are left out."""
    return f"<footer>{escaped(' · '.join(filter(None, notes)))}</footer>"


def map_data(grid: Grid, *, smooth: bool) -> str:
    """Return the script's settings for drawing maps, as the value of `data-map`.

    Args:
        grid: grid of the maps.
        smooth: whether smoothing can be chosen.
    """
    (top, bottom), (left, right) = grid.extent
    height, width = grid.source_size
    data: dict[str, Any] = {
        "grid": grid.shape,
        "place": [left / width, top / height, (right - left) / width, (bottom - top) / height],
        "opacity": OPACITY,
        "colours": colour_stops(_STOPS),
    }
    if smooth:
        kernels = (smoothing(cells, _ENLARGE) for cells in grid.shape)
        data["kernels"] = [[[round(w, 4) for w in row] for row in k.tolist()] for k in kernels]
    return attribute(data)


def attribute(data: Any) -> str:
    """Return values as JSON that is safe in a quoted attribute."""
    return escaped(json.dumps(data, ensure_ascii=False, separators=(",", ":")))


def colour_stops(count: int) -> list[list[int]]:
    """Return colours of the maps at even shares of the scale, as (r, g, b) of 8 bits."""
    return np.rint(255 * colours(np.linspace(0, 1, count))[0]).astype(int).tolist()


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
    (top, bottom), (left, right) = grid.extent
    height, width = grid.source_size
    place = (
        f"left:{left / width:.4%};top:{top / height:.4%};"
        f"width:{(right - left) / width:.4%};height:{(bottom - top) / height:.4%}"
    )
    return f"<canvas style='{place}' aria-hidden='true'></canvas><i></i>"


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
        relative = [round(float(value), 2) for value in relative_map(word.alpha).ravel()]
        data = {"map": relative, "note": word.note, "others": word.others, "cell": word.cell}
        if word.falls is not None:
            data["mattered"] = [round(float(value), 4) for value in word.falls.ravel()]
        if word.frame is not None:
            data["frame"] = word.frame
        label = "; ".join([word.note, *(f"{text} {p:.2f}" for text, p in word.others)])
        names = " ".join(name for name in ("marked", "first", "named") if getattr(word, name))
        classes = f" class='{names}'" if names else ""
        buttons.append(
            f"<button type='button'{classes} aria-pressed='false' "
            f"aria-label='{escaped(f'{word.text}: {label}')}' data-word='{attribute(data)}'>"
            f"{escaped(word.text)}</button>"
        )
    data_tops = f"data-tops='{json.dumps(tops)}'"
    return f"<div class='words' dir='auto' {data_tops}>{' '.join(buttons)}</div>"


def bar_html(top: float) -> str:
    """Return the colour bar of a scale in multiples of uniform, with a mark at 1."""
    opacities = colours(np.linspace(0, 1, 9))[1]
    stops = ",".join(
        f"rgba({','.join(map(str, stop))},{opacity:.2f})"
        for stop, opacity in zip(colour_stops(9), opacities, strict=True)
    )
    return (
        f"<div class='bar' style='background-image:linear-gradient(90deg,{stops})'>"
        f"<b style='left:{1 / top:.1%}'></b></div>"
    )


def scale_html(top: float, grid: Grid, *, smooth: bool, checked: bool = True) -> str:
    """Return the colour bar in multiples of uniform, and the choice of smoothing.

    Args:
        top: top of the scale.
        grid: grid of the maps.
        smooth: whether the reader can choose between smoothed and raw.
        checked: whether smoothed is chosen at first.
    """
    drawn = (
        f"<label><input type='checkbox' class='smooth'{' checked' if checked else ''}> smoothed: "
        f"{smoothing_label(grid)}</label>"
        if smooth
        else "<span>raw cells</span>"
    )
    return (
        f"<div class='scale'><div>{bar_html(top)}"
        f"<div class='ends'><span>0</span><span class='middle'>white: 1 = uniform</span>"
        f"<span class='top'>{top:.1f}×</span></div></div>{drawn}</div>"
    )


def controls_html(*, occluded: bool) -> str:
    """Return the buttons of a viewer: play, opacity, and which of two maps is shown.

    Args:
        occluded: whether there is a second map, of an occlusion.
    """
    layers = (
        "<label>show <select><option value='map'>where it looked</option>"
        "<option value='mattered'>what mattered</option></select></label>"
        if occluded
        else ""
    )
    return (
        "<div class='controls'><button type='button' class='play' aria-label='play the words'>▶"
        "</button><label>opacity <input type='range' class='opacity' min='0' max='100' "
        f"value='{round(100 * OPACITY)}'></label>{layers}</div>"
    )


def falls_scale(falls: np.ndarray, grid: Grid) -> tuple[float, float]:
    """Return the tops, raw and smoothed, of one scale in nats for all words of a caption.

    Args:
        falls: (T, *grid) of log p; values below 0 are not drawn.
        grid: grid of the cells.
    """
    raw = float(falls.max(initial=0.0))
    rows, cols = (smoothing(cells) for cells in grid.shape)
    smooth = float((rows @ falls.reshape(-1, *grid.shape) @ cols.T).max(initial=0.0))
    return max(FALL_LEAST, raw), max(FALL_LEAST, smooth)


def output_html() -> str:
    """Return the element that shows the chosen word's numbers."""
    return (
        "<output aria-live='polite'>Point at a word, tap it, or go through the words with the "
        "arrow keys; Escape shows the picture alone.</output>"
    )


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
        f"nats · peak {word.peak:.1%}{beta_label(word, ' · ')}{named_label(word, ' · ')}"
    )


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
