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
from collections.abc import Sequence
from importlib.resources import files

import numpy as np
from PIL import Image

from regard.errors import ConfigError
from regard.explain.maps import absolute_scale
from regard.types import Caption, Grid, Word

_SIDE = 448  # pixels of the embedded picture's longer side


def caption_html(caption: Caption) -> str:
    """Return the caption with its picture as an HTML fragment.

    Maps are drawn as raw cells, on one absolute scale in multiples of uniform.

    Raises:
        ConfigError: the caption does not hold its picture.
    """
    if caption.pixels is None:
        raise ConfigError("this caption holds no picture to draw on; caption the file again.")
    words = [(word.text, word.alpha, _numbers(word)) for word in caption.words]
    body = words_html(words, absolute_scale(caption))
    shape = "×".join(map(str, caption.grid.shape))
    foot = f"where the decoder looked · {shape} cells, raw · one scale for the caption"
    return (
        f"{assets_html()}<div class='regard' role='group' aria-label='caption and attention'>"
        f"{picture_html(caption.pixels, caption.grid)}<p>{body}</p><output></output>"
        f"<footer>{html.escape(foot)}</footer></div>"
    )


def assets_html() -> str:
    """Return the style and script that every fragment needs; twice does no harm."""
    assets = files("regard.explain")
    style = (assets / "viewer.css").read_text("utf-8")
    script = (assets / "viewer.js").read_text("utf-8")
    return f"<style>{style}</style><script>{script}</script>"


def picture_html(pixels: np.ndarray, grid: Grid) -> str:
    """Return the picture with an empty layer for maps.

    Args:
        pixels: (height, width, 3) uint8.
        grid: whose cells the maps are drawn in.
    """
    picture = Image.fromarray(pixels)
    picture.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    (top, bottom), (left, right) = grid.extent
    height, width = grid.source_size
    place = json.dumps(
        [left / width, top / height, (right - left) / width, (bottom - top) / height]
    )
    return (
        f"<figure data-grid='{json.dumps(grid.shape)}' data-place='{place}'>"
        f"<img alt='' src='data:image/jpeg;base64,{data}'>"
        f"<canvas width='{picture.width}' height='{picture.height}'></canvas></figure>"
    )


def words_html(words: Sequence[tuple[str, np.ndarray, str]], scale: float) -> str:
    """Return words as buttons that carry their maps.

    Args:
        words: (text, weights in any shape, what is said of the word).
        scale: top of the colour scale in multiples of uniform.
    """
    buttons: list[str] = []
    for text, alpha, numbers in words:
        relative = json.dumps([round(float(a) * alpha.size, 2) for a in alpha.ravel()])
        buttons.append(
            f"<button type='button' data-map='{relative}' data-scale='{scale:.2f}' "
            f"data-note='{html.escape(numbers, quote=True)}' "
            f"aria-label='{html.escape(f'{text}: {numbers}', quote=True)}'>"
            f"{html.escape(text)}</button>"
        )
    return " ".join(buttons)


def _numbers(word: Word) -> str:
    beta = "" if word.beta is None else f", β {word.beta:.2f}"
    others = ", ".join(f"{text} {math.exp(value):.2f}" for text, value in word.alternatives)
    return (
        f"p {math.exp(word.logprob):.2f}, entropy {word.entropy:.2f} nats, peak {word.peak:.2f}"
        f"{beta}; alternatives: {others}"
    )
