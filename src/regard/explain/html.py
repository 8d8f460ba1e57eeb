"""A caption as a self-contained piece of HTML: hover, tap or tab through its words.

The fragment holds its picture, style and script; it loads nothing. Notebooks show it through
`Caption._repr_html_`, and the learning diary is made of the same pieces.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from regard.errors import ConfigError
from regard.explain import labels
from regard.explain.maps import OPACITY, absolute_scale, colours, relative_map, smoothing
from regard.explain.tiles import as_picture
from regard.types import Caption, Grid, Word

if TYPE_CHECKING:
    from regard.faithfulness.occlusion import Occlusion

_SIDE = 448  # pixels of the embedded picture's longer side
_ENLARGE = 8  # points per cell that the page computes; the browser fills in to its own pixels
MATTERED_LEAST = 0.25
"""The least top of a scale of what mattered, in nats: a fall of p by a fifth."""
_STOPS = 33  # colours that the page holds of the map's colours


@dataclass(frozen=True)
class ShownWord:
    """What a page knows of a word.

    Attributes:
        text: the word.
        alpha: its weights, in any shape, such that uniform is 1 over all of the shape's cells.
        note: its numbers, as a reader shall see them.
        others: alternatives and their probabilities.
        cell: flat index of the cell that hard attention chose; None otherwise.
        mattered: what covering each cell took from the word's log-probability, in nats, in the
            shape of alpha; None where it was not tried.
        marked: whether the word stands out, as one that a finding is about.
        first: whether its map is shown before a reader chooses a word.
        frame: of a clip, the frame that the word leads to; None of other media.
    """

    text: str
    alpha: np.ndarray
    note: str
    others: tuple[tuple[str, float], ...] = ()
    cell: int | None = None
    mattered: np.ndarray | None = None
    marked: bool = False
    first: bool = False
    frame: int | None = None


def caption_html(
    caption: Caption,
    occlusion: Occlusion | None = None,
    *,
    assets: bool = True,
    smooth: bool = True,
) -> str:
    """Return the caption with its picture as an HTML fragment.

    Every word is a button that shows its map, on one absolute scale in multiples of uniform,
    smoothed or raw as the reader chooses; with an occlusion, what mattered can be shown instead,
    on one scale in nats. A clip or a scan is laid out as one picture of raw cells (smoothing would
    carry attention from a frame or slice into the one beside it), without its occlusion.

    Args:
        caption: with its picture.
        occlusion: what covering each cell did to each word.
        assets: whether style and script come along; a page that holds them needs no others.
        smooth: whether maps are smoothed until the reader chooses.

    Raises:
        ConfigError: the caption does not hold its picture, or its grid is no picture's.
    """
    choice = caption.medium == "image"
    if not choice:
        caption, occlusion = as_picture(caption), None
    if caption.pixels is None:
        raise ConfigError("this caption holds no picture to draw on; caption the file again.")
    grid, alpha = caption.grid, caption.trace.alpha
    tops = {"map": (absolute_scale(alpha, grid), absolute_scale(alpha, grid, smooth=choice))}
    if occlusion is not None:
        tops["mattered"] = mattered_scale(occlusion.falls, grid)
    shown = [shown_word(word, occlusion, t) for t, word in enumerate(caption.words)]
    words = words_html(shown, tops)
    framed = any(word.location is not None for word in caption.words)
    foot = [labels.looked(caption.trace), labels.cells(grid), labels.covered(grid),
            labels.FRAMED if framed else "", labels.SCALE, caption.model,
            *caption.notices]  # fmt: skip
    return (
        f"{assets_html() if assets else ''}"
        f"<div class='regard' role='group' aria-label='{escaped(caption.text)}' "
        f"data-map='{map_data(grid, smooth=choice)}'>"
        f"{picture_html(caption.pixels, grid, Path(caption.file).name)}{words}"
        f"{controls_html(mattered=occlusion is not None)}"
        f"{scale_html(tops['map'][smooth], grid, smooth=choice, checked=smooth)}"
        f"{output_html()}<footer>{escaped(' · '.join(filter(None, foot)))}</footer></div>"
    )


def escaped(text: str) -> str:
    """Return a text that is safe between tags and in quoted attributes."""
    return html.escape(text, quote=True)


def assets_html() -> str:
    """Return the style and script that every fragment needs; twice does no harm."""
    assets = files("regard.explain")
    style = (assets / "viewer.css").read_text("utf-8")
    script = (assets / "viewer.js").read_text("utf-8")
    return f"<style>{style}</style><script>{script}</script>"


def map_data(grid: Grid, *, smooth: bool) -> str:
    """Return what the script must know to draw maps, as the value of `data-map`.

    Args:
        grid: of the maps.
        smooth: whether smoothing can be chosen.
    """
    (top, bottom), (left, right) = grid.extent
    height, width = grid.source_size
    data: dict[str, Any] = {
        "grid": grid.shape,
        "place": [left / width, top / height, (right - left) / width, (bottom - top) / height],
        "opacity": OPACITY,
        "colours": _stops().tolist(),
    }
    if smooth:
        kernels = (smoothing(cells, _ENLARGE) for cells in grid.shape)
        data["kernels"] = [[[round(w, 4) for w in row] for row in k.tolist()] for k in kernels]
    return escaped(json.dumps(data, separators=(",", ":")))


def picture_html(pixels: np.ndarray, grid: Grid, name: str, *, side: int = _SIDE) -> str:
    """Return the picture with an empty layer for maps, which lies where the cells lie.

    Args:
        pixels: (height, width, 3) uint8.
        grid: whose extent the layer takes.
        name: of the picture.
        side: pixels of the embedded picture's longer side.
    """
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    (top, bottom), (left, right) = grid.extent
    height, width = grid.source_size
    place = (
        f"left:{left / width:.4%};top:{top / height:.4%};"
        f"width:{(right - left) / width:.4%};height:{(bottom - top) / height:.4%}"
    )
    return (
        f"<figure><img alt='{escaped(name)}' src='data:image/jpeg;base64,{data}'>"
        f"<canvas style='{place}' aria-hidden='true'></canvas><i></i></figure>"
    )


def words_html(words: Sequence[ShownWord], tops: Mapping[str, Sequence[float]]) -> str:
    """Return a caption's words as buttons that carry their maps.

    Args:
        words: of one caption.
        tops: of the colour scales, raw, and smoothed where it can be chosen: "map" in multiples
            of uniform, "mattered" in nats.
    """
    buttons: list[str] = []
    for word in words:
        relative = [round(float(value), 2) for value in relative_map(word.alpha).ravel()]
        data = {"map": relative, "note": word.note, "others": word.others, "cell": word.cell}
        if word.mattered is not None:
            data["mattered"] = [round(float(value), 4) for value in word.mattered.ravel()]
        if word.frame is not None:
            data["frame"] = word.frame
        told = "; ".join([word.note, *(f"{text} {p:.2f}" for text, p in word.others)])
        buttons.append(
            f"<button type='button'{_classes(word)} aria-pressed='false' "
            f"aria-label='{escaped(f'{word.text}: {told}')}' "
            f"data-word='{escaped(json.dumps(data, ensure_ascii=False, separators=(',', ':')))}'>"
            f"{escaped(word.text)}</button>"
        )
    data_tops = f"data-tops='{json.dumps(tops)}'"
    return f"<div class='words' dir='auto' {data_tops}>{' '.join(buttons)}</div>"


def _classes(word: ShownWord) -> str:
    names = [name for name in ("marked", "first") if getattr(word, name)]
    return f" class='{' '.join(names)}'" if names else ""


def bar_html(top: float) -> str:
    """Return the colour bar of a scale in multiples of uniform, with a mark at 1."""
    share = np.linspace(0, 1, 9)
    stops = ",".join(
        f"rgba({','.join(map(str, stop))},{opacity:.2f})"
        for stop, opacity in zip(_rgb(share), colours(share)[1], strict=True)
    )
    return (
        f"<div class='bar' style='background-image:linear-gradient(90deg,{stops})'>"
        f"<b style='left:{1 / top:.1%}'></b></div>"
    )


def scale_html(top: float, grid: Grid, *, smooth: bool, checked: bool = True) -> str:
    """Return the colour bar in multiples of uniform, and what the maps are drawn with.

    Args:
        top: of the scale.
        grid: of the maps.
        smooth: whether the reader can choose between smoothed and raw.
        checked: whether smoothed is what is chosen at first.
    """
    drawn = (
        f"<label><input type='checkbox' class='smooth'{' checked' if checked else ''}> smoothed: "
        f"{labels.smoothed(grid)}</label>"
        if smooth
        else "<span>raw cells</span>"
    )
    return (
        f"<div class='scale'><div>{bar_html(top)}"
        f"<div class='ends'><span>0</span><span class='middle'>white: 1 = uniform</span>"
        f"<span class='top'>{top:.1f}×</span></div></div>{drawn}</div>"
    )


def controls_html(*, mattered: bool) -> str:
    """Return the buttons of a viewer: play, opacity, and which of two maps is shown.

    Args:
        mattered: whether there is a second map, of what mattered.
    """
    layers = (
        "<label>show <select><option value='map'>where it looked</option>"
        "<option value='mattered'>what mattered</option></select></label>"
        if mattered
        else ""
    )
    return (
        "<div class='controls'><button type='button' class='play' aria-label='play the words'>▶"
        "</button><label>opacity <input type='range' class='opacity' min='0' max='100' "
        f"value='{round(100 * OPACITY)}'></label>{layers}</div>"
    )


def mattered_scale(falls: np.ndarray, grid: Grid) -> tuple[float, float]:
    """Return the tops, raw and smoothed, of one scale in nats for all words of a caption.

    Args:
        falls: (T, *grid) of log p; what lies below 0 is drawn as nothing.
        grid: of the cells.
    """
    raw = float(falls.max(initial=0.0))
    rows, cols = (smoothing(cells) for cells in grid.shape)
    smooth = float((rows @ falls.reshape(-1, *grid.shape) @ cols.T).max(initial=0.0))
    return max(MATTERED_LEAST, raw), max(MATTERED_LEAST, smooth)


def output_html() -> str:
    """Return the place where the shown word's numbers stand."""
    return (
        "<output aria-live='polite'>Point at a word, tap it, or go through the words with the "
        "arrow keys; Escape shows the picture alone.</output>"
    )


def word_note(word: Word, cells: int | None = None) -> str:
    """Return a word's numbers as a reader shall see them.

    Args:
        word: the word.
        cells: that attention can lie on; None: all of its map.
    """
    beta = "" if word.beta is None else f" · β {word.beta:.2f}"
    sure = "" if word.confidence is None else f" · confidence {word.confidence:.0%}"
    return (
        f"p {math.exp(word.logprob):.2f}{sure} · entropy {word.entropy:.2f} of at most "
        f"{math.log(cells or word.alpha.size):.2f} nats · peak {word.peak:.1%}{beta}"
    )


def shown_word(
    word: Word,
    occlusion: Occlusion | None,
    t: int,
    place: str = "",
    *,
    real_cells: int | None = None,
) -> ShownWord:
    """Return what a page knows of a caption's word number t.

    Args:
        word: the word.
        occlusion: of the caption.
        t: its number.
        place: where it looked, in words.
        real_cells: that attention can lie on; None: all of its map. Uniform is 1 over them.
    """
    note = " · ".join(filter(None, [word_note(word, real_cells), place]))
    alpha = word.alpha * ((real_cells or word.alpha.size) / word.alpha.size)
    others = tuple(
        (labels.candidate(text), round(math.exp(value), 4)) for text, value in word.alternatives[:5]
    )
    if occlusion is None:
        return ShownWord(word.text, alpha, note, others, word.location)
    if math.isfinite(agreement := occlusion.correlation[t]):
        note += f" · agreement with what mattered {agreement:+.2f}"
    return ShownWord(word.text, alpha, note, others, word.location, occlusion.falls[t])


def _stops() -> np.ndarray:
    return _rgb(np.linspace(0, 1, _STOPS))


def _rgb(share: np.ndarray) -> np.ndarray:
    return np.rint(255 * colours(share)[0]).astype(int)
