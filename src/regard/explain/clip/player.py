"""A clip's caption as a self-contained piece of HTML: a word seeks to the moment it looked at.

The clip lies in the page as a small video; where it cannot, its chosen frames stand in for it as
still pictures, and the page says so. Words, controls and scales are those of the picture's viewer
(`html`), whose script this one's joins.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from regard.errors import MediaError, MissingExtra
from regard.explain import labels
from regard.explain.clip.clip_maps import (
    Film,
    chosen_frame,
    clip_of,
    film_of,
    frame_grid,
    frame_scale,
    frame_weights,
    map_scale,
    peak_frame,
    real_alpha,
    shown_frames,
)
from regard.explain.html import (
    MATTERED_LEAST,
    ShownWord,
    assets_html,
    bar_html,
    controls_html,
    escaped,
    map_data,
    output_html,
    scale_html,
    word_note,
    words_html,
)
from regard.types import Caption, Clip, Grid

if TYPE_CHECKING:
    from regard.faithfulness.occlusion import Occlusion

_SHOTS = 40  # frames in the page's strip, and the words' peaks
_THUMB, _STILL = 160, 400  # pixels of a shot's longer side, beside a film and in its stead
_TICKS = 7  # on the axis of seconds, at most


def clip_html(
    caption: Caption,
    occlusion: Occlusion | None = None,
    *,
    again: bool = False,
    smooth: bool = True,
) -> str:
    """Return a clip's caption with a player, a film strip and words × seconds, as HTML.

    Args:
        caption: with its clip.
        occlusion: what covering each frame did to each word.
        again: whether an earlier fragment of the page holds the same clip's film, which is then
            taken from there.
        smooth: whether maps are smoothed until the reader chooses.

    Raises:
        ConfigError: the caption does not hold its clip.
    """
    clip, grid, still = clip_of(caption), caption.grid, frame_grid(caption.grid)
    weights = frame_weights(caption)
    peaks = [peak_frame(row) for row in weights]
    film, reason = (None, "") if again else _film(clip)
    shots = _shots(len(clip.spans), peaks)
    tops = {"map": (frame_scale(weights),) * 2}
    if still is not None:
        tops["map"] = (map_scale(caption, smooth=False), map_scale(caption, smooth=True))
    if occlusion is not None:
        tops["mattered"] = (max(MATTERED_LEAST, float(occlusion.falls.max(initial=0.0))),) * 2
    # Without maps the viewer writes its scale on the legend of words × seconds, which is the same.
    scale = ""
    if still is not None:
        scale = scale_html(tops["map"][smooth], still, smooth=True, checked=smooth)
    shown = [_shown(caption, t, weights[t], occlusion) for t in range(len(caption.words))]
    foot = [labels.looked(caption.trace), labels.frames(grid), labels.unread(grid),
            "" if still is None else labels.covered(still), _chosen(caption), labels.CLIP_SCALE,
            caption.model]  # fmt: skip
    return (
        f"{assets_html()}{_assets()}"
        f"<div class='regard clip{' whole' if still is None else ''}' role='group' "
        f"data-medium='clip' aria-label='{escaped(caption.text)}' "
        f"data-map='{map_data(still or _whole(clip), smooth=still is not None)}' "
        f"data-clip='{_clip_data(clip, weights)}'><div class='columns'><div>"
        f"{_screen(clip, film, still or _whole(clip), shots, reason, again=again)}"
        f"{words_html(shown, tops)}{controls_html(mattered=occlusion is not None)}"
        f"{scale}{output_html()}</div>"
        f"<div>{_strip(clip, shots, _THUMB if film or again else _STILL)}"
        f"{_heat(caption, weights, peaks)}</div></div>"
        f"<footer>{escaped(' · '.join(filter(None, foot)))}</footer></div>"
    )


def weights_table(caption: Caption) -> str:
    """Return words × seconds as a table of numbers, for readers of numbers and of Braille."""
    clip, weights = clip_of(caption), frame_weights(caption)
    shots = _shots(len(clip.spans), [peak_frame(row) for row in weights])
    head = "".join(f"<th scope='col'>{clip.times[frame]:.1f} s</th>" for frame in shots)
    rows = "".join(
        f"<tr><th scope='row'>{escaped(word.text)}</th>"
        + "".join(f"<td>{row[frame]:.2f}</td>" for frame in shots)
        + "</tr>"
        for word, row in zip(caption.words, weights, strict=True)
    )
    return (
        "<details><summary>Every word's weight on every frame</summary><div class='wide'><table>"
        "<caption>in multiples of uniform attention over the clip's frames</caption>"
        f"<thead><tr><th scope='col'>word</th>{head}</tr></thead><tbody>{rows}</tbody></table>"
        "</div></details>"
    )


def _film(clip: Clip) -> tuple[Film | None, str]:
    """Return the clip's film, or why there is none."""
    try:
        return film_of(clip), ""
    except (MediaError, MissingExtra, OSError) as error:
        return None, " ".join(str(error).split()).rstrip(".")


def _assets() -> str:
    folder = files("regard.explain")
    style, script = ((folder / f"clip.{kind}").read_text("utf-8") for kind in ("css", "js"))
    return f"<style>{style}</style><script>{script}</script>"


def _whole(clip: Clip) -> Grid:
    """Return the grid of one cell that is a whole frame."""
    height, width = map(float, clip.frame_size)
    return Grid(("rows", "cols"), (1, 1), (height, width), ((0.0, height), (0.0, width)))


def _chosen(caption: Caption) -> str:
    return labels.FRAMED if any(word.location is not None for word in caption.words) else ""


def _shots(count: int, peaks: Sequence[int | None]) -> list[int]:
    """Choose the frames of the page's strip: evenly spread ones and every word's peak."""
    return sorted({*shown_frames(count, _SHOTS, None), *(p for p in peaks if p is not None)})


def _shown(caption: Caption, t: int, weights: np.ndarray, occlusion: Occlusion | None) -> ShownWord:
    word, grid, clip = caption.words[t], caption.grid, clip_of(caption)
    word = replace(word, alpha=real_alpha(word, grid))
    peak, chosen = peak_frame(weights), chosen_frame(caption.words[t], grid)
    when = labels.EVEN
    if peak is not None:
        when = f"looked most at {clip.times[peak]:.1f} s: {weights[peak]:.1f}× uniform"
    if chosen is not None:
        when += f" · chose {clip.times[chosen]:.1f} s"
    note = f"{when} · {word_note(word, caption.grid.real_cells)}"
    if occlusion is not None and math.isfinite(agreement := occlusion.correlation[t]):
        note += f" · agreement with what mattered {agreement:+.2f}"
    return ShownWord(
        word.text,
        word.alpha,
        note,
        tuple((labels.candidate(o), round(math.exp(p), 4)) for o, p in word.alternatives[:5]),
        word.location,
        None if occlusion is None else occlusion.falls[t],
        # Where no frame stands out, some frame must be shown all the same.
        frame=int(weights.argmax()) if chosen is None else chosen,
    )


def _clip_data(clip: Clip, weights: np.ndarray) -> str:
    data = {
        "shown": [round(t, 4) for t in clip.times],
        "spans": [[round(t, 4) for t in span] for span in clip.spans],
        "duration": round(clip.duration, 4),
        "top": frame_scale(weights),
    }
    return escaped(json.dumps(data, separators=(",", ":")))


def _screen(
    clip: Clip, film: Film | None, grid: Grid, shots: list[int], reason: str, *, again: bool
) -> str:
    """Return what the clip is shown on: a video, and a still that stands in for it."""
    (top, bottom), (left, right) = grid.extent
    height, width = grid.source_size
    place = (
        f"left:{left / width:.4%};top:{top / height:.4%};"
        f"width:{(right - left) / width:.4%};height:{(bottom - top) / height:.4%}"
    )
    name = escaped(Path(clip.name).name)
    video = ""
    if film is not None or again:
        source = ""
        if film is not None:
            source = f"src='data:{film.kind};base64,{base64.b64encode(film.data).decode()}' "
        video = f"<video {source}muted playsinline preload='auto' aria-label='{name}'></video>"
    still = _jpeg(clip.pixels[shots[0]], _STILL)
    fault = reason and f"No player: {reason}. The frames that were read are shown instead."
    return (
        f"<figure style='aspect-ratio:{clip.frame_size[1]}/{clip.frame_size[0]}'>{video}"
        f"<img class='still' alt='{name}' src='{still}'{' hidden' if video else ''}>"
        f"<canvas style='{place}' aria-hidden='true'></canvas><i></i></figure>"
        f"<p class='fault'{'' if fault else ' hidden'}>{escaped(fault)}</p>"
        "<div class='film'>"
        f"<button type='button' class='run'{'' if video else ' hidden'}>▶ clip</button>"
        f"<input type='range' class='seek' min='0' max='{clip.duration:.3f}' step='0.001' "
        "value='0' aria-label='moment in the clip, in seconds'>"
        f"<span class='clock'>0.0 of {clip.duration:.1f} s</span></div>"
        "<div class='now'><span class='said'></span><div class='gauge'><b></b><s></s></div></div>"
    )


def _strip(clip: Clip, shots: list[int], side: int) -> str:
    """Return the frames that were read, each a button that seeks to it."""
    buttons = "".join(
        f"<button type='button' class='shot' data-frame='{frame}' "
        f"tabindex='{-1 if at else 0}' aria-label='frame {frame + 1} of {len(clip.spans)}, at "
        f"{clip.times[frame]:.1f} seconds'><img alt='' src='{_jpeg(clip.pixels[frame], side)}'>"
        f"<span class='weight'><b></b></span><span>{clip.times[frame]:.1f} s</span></button>"
        for at, frame in enumerate(shots)
    )
    some = "" if len(shots) == len(clip.spans) else f", {len(shots)} of {len(clip.spans)} shown"
    return (
        f"<h3>Frames that were read{some}</h3>"
        f"<div class='strip' role='group' aria-label='frames; arrow keys go through them'>{buttons}"
        "</div>"
    )


def _heat(caption: Caption, weights: np.ndarray, peaks: Sequence[int | None]) -> str:
    """Return words × seconds: a canvas that the script draws, with names, peaks and an axis."""
    clip, count = clip_of(caption), max(1, len(caption.words))
    names = "".join(f"<span>{escaped(word.text)}</span>" for word in caption.words)
    dots = "".join(
        f"<em style='left:{clip.times[peak] / clip.duration:.3%};top:{(t + 0.5) / count:.3%}'></em>"
        for t, peak in enumerate(peaks)
        if peak is not None
    )
    ticks = "".join(
        f"<span style='left:{at / clip.duration:.3%}'>{at:g}</span>" for at in _ticks(clip.duration)
    )
    told = "; ".join(
        f"{word.text}: {labels.EVEN}"
        if peak is None
        else f"{word.text}: most at {clip.times[peak]:.1f} s, {weights[t, peak]:.1f} times uniform"
        for t, (word, peak) in enumerate(zip(caption.words, peaks, strict=True))
    )
    top = frame_scale(weights)
    return (
        f"<h3>Words × seconds</h3><div class='heat' style='--rows:{count}'>"
        f"<div class='names' aria-hidden='true'>{names}</div><div class='field'>"
        f"<canvas role='img' aria-label='{escaped(told)}'></canvas>{dots}<u></u></div>"
        f"<div class='ticks' aria-hidden='true'>{ticks}</div></div>"
        f"<div class='legend'>{bar_html(top)}<div class='ends'><span>0</span>"
        "<span class='middle'>of a frame; white: 1 = uniform</span>"
        f"<span class='top'>{top:.1f}×</span></div></div>"
        "<div class='there' aria-live='polite'></div>"
    )


def _ticks(duration: float) -> list[float]:
    """Return whole steps of 1, 2 or 5 times a power of ten, at most seven."""
    rough = max(duration, 1e-3) / (_TICKS - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
    return [round(i * step, 6) for i in range(int(duration / step + 1e-9) + 1)]


def _jpeg(pixels: np.ndarray, side: int) -> str:
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
