"""A clip's caption as a self-contained HTML fragment: a click on a word seeks to its peak frame.

The clip is embedded as a small video. Where that is not possible, its frames stand in for it as
still pictures, and the page says so. Words, controls and scales are those of the picture's viewer
(`html`); the script adds to the viewer's.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from regard.errors import MediaError, MissingExtra
from regard.explain import html
from regard.explain.clip.clip_maps import EVEN_LABEL, SECONDS_SCALE_NOTE, ClipMaps, shown_frames
from regard.explain.drawing import attention_label, chosen_label, coverage_label
from regard.media import digest_of
from regard.media.video.frames import upright_frame
from regard.media.video.pyav import VideoFile, import_av
from regard.types import Caption, Clip, Grid

if TYPE_CHECKING:
    from regard.faithfulness.occlusion import Occlusion

_SHOTS = 40  # frames in the page's strip, and the words' peaks
_THUMB, _STILL = 160, 400  # pixels of a shot's longer side, beside a film and without one
_QUALITY = 80  # of a JPEG
_FRAGMENTS = html.Fragments("clip.html")
_TICKS = 7  # maximum number of ticks on the axis of seconds


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
        occlusion: occlusion of the caption, frame by frame.
        again: whether an earlier fragment of the page embeds the same clip, which is then
            taken from there.
        smooth: whether maps are smoothed until the reader chooses.

    Raises:
        ConfigError: the caption does not hold its clip.
    """
    maps = ClipMaps(caption)
    clip, cells = maps.clip, maps.cells
    film, reason = (None, "") if again else _film(clip)
    shots = _shots(maps)
    tops = {"map": (maps.scale(smooth=False), maps.scale(smooth=True))}
    if occlusion is not None:
        fall = max(html.FALL_LEAST, float(occlusion.falls.max(initial=0.0)))
        tops["mattered"] = (fall, fall)
    # Without maps the script writes the scale on the legend of words × seconds, which is the same.
    scale = ""
    if cells is not None:
        scale = html.scale_html(tops["map"][smooth], cells, smooth=True, checked=smooth)
    words = html.words_html([_word(maps, t, occlusion) for t in range(len(caption.words))], tops)
    foot = [attention_label(caption.trace), *maps.notes,
            "" if cells is None else coverage_label(cells), chosen_label(caption),
            SECONDS_SCALE_NOTE, caption.model]  # fmt: skip
    still = cells or _whole_frame(clip)
    return html.assets_html() + html.assets_html("clip") + _FRAGMENTS.fill(
        "clip", whole=" whole" if cells is None else "", text=caption.text,
        map=html.map_data(still, smooth=cells is not None), clip=_clip_data(maps),
        screen=_screen(clip, film, still, shots, reason, again=again), words=words,
        controls=html.controls_html(occluded=occlusion is not None), scale=scale,
        output=html.output_html(), heat=_heat(maps), foot=html.footer_html(foot),
        strip=_strip(clip, shots, _THUMB if film or again else _STILL),
    )  # fmt: skip


def weights_table(caption: Caption) -> str:
    """Return words × seconds as a table of numbers, also for screen readers."""
    maps = ClipMaps(caption)
    shots = _shots(maps)
    head = "".join(f"<th scope='col'>{maps.clip.times[frame]:.1f} s</th>" for frame in shots)
    rows = "".join(
        f"<tr><th scope='row'>{html.escaped(word.text)}</th>"
        + "".join(f"<td>{row[frame]:.2f}</td>" for frame in shots)
        + "</tr>"
        for word, row in zip(caption.words, maps.weights, strict=True)
    )
    return _FRAGMENTS.fill("weights", head=head, rows=rows)


def _film(clip: Clip) -> tuple[Film | None, str]:
    """Return the clip as a film, or the reason why it cannot be made."""
    try:
        return encode_film(clip), ""
    except (MediaError, MissingExtra, OSError) as error:
        return None, " ".join(str(error).split()).rstrip(".")


def _whole_frame(clip: Clip) -> Grid:
    """Return a grid of one cell that covers a frame."""
    height, width = map(float, clip.frame_size)
    return Grid(("rows", "cols"), (1, 1), (height, width), ((0.0, height), (0.0, width)))


def _shots(maps: ClipMaps) -> list[int]:
    """Choose the frames of the page's strip: evenly spread ones and every word's peak."""
    even = shown_frames(len(maps.clip.spans), _SHOTS, None)
    return sorted({*even, *(peak for peak in maps.peaks if peak is not None)})


def _word(maps: ClipMaps, t: int, occlusion: Occlusion | None) -> html.PageWord:
    word, grid, times, weights = maps.caption.words[t], maps.grid, maps.clip.times, maps.weights[t]
    peak, chosen = maps.peaks[t], maps.chosen[t]
    when = EVEN_LABEL
    if peak is not None:
        when = f"looked most at {times[peak]:.1f} s: {weights[peak]:.1f}× uniform"
    if chosen is not None:
        when += f" · chose {times[chosen]:.1f} s"
    real = replace(word, alpha=word.alpha[: len(grid.spans)])  # without frames of padding
    # Without a peak some frame must be shown all the same.
    frame = int(weights.argmax()) if chosen is None else chosen
    return html.page_word(real, occlusion, t, before=when, real_cells=grid.real_cells, frame=frame)


def _clip_data(maps: ClipMaps) -> str:
    clip = maps.clip
    spans = [[round(t, 4) for t in span] for span in clip.spans]
    times = {"shown": [round(t, 4) for t in clip.times], "spans": spans}
    return html.attribute(times | {"duration": round(clip.duration, 4), "top": maps.top})


def _screen(
    clip: Clip, film: Film | None, grid: Grid, shots: list[int], reason: str, *, again: bool
) -> str:
    """Return the player: a video, a still that stands in for it, and a layer for maps."""
    name = html.escaped(Path(clip.name).name)
    video = ""
    if film is not None or again:
        source = ""
        if film is not None:
            source = f"src='{html.data_uri(film.data, film.kind)}' "
        video = _FRAGMENTS.fill("video", source=source, name=name)
    still = html.image_uri(clip.pixels[shots[0]], _STILL, _QUALITY)
    fault = reason and f"No player: {reason}. The frames that were read are shown instead."
    return _FRAGMENTS.fill(
        "screen", clip=clip, video=video, name=name, still=still, layer=html.layer_html(grid),
        fault=fault, still_hidden=" hidden" if video else "",
        run_hidden="" if video else " hidden", fault_hidden="" if fault else " hidden",
    )  # fmt: skip


def _strip(clip: Clip, shots: list[int], side: int) -> str:
    """Return the frames that the model read, each a button that seeks to it."""
    buttons = "".join(
        _FRAGMENTS.fill(
            "shot", frame=frame, number=frame + 1, count=len(clip.spans), tab=-1 if at else 0,
            seconds=clip.times[frame], picture=html.image_uri(clip.pixels[frame], side, _QUALITY),
        )
        for at, frame in enumerate(shots)
    )  # fmt: skip
    some = "" if len(shots) == len(clip.spans) else f", {len(shots)} of {len(clip.spans)} shown"
    return _FRAGMENTS.fill("strip", some=some, buttons=buttons)


def _heat(maps: ClipMaps) -> str:
    """Return words × seconds: a canvas that the script draws, with names, peaks and an axis."""
    caption, clip, peaks, weights = maps.caption, maps.clip, maps.peaks, maps.weights
    count = max(1, len(caption.words))
    names = "".join(f"<span>{html.escaped(word.text)}</span>" for word in caption.words)
    dots = "".join(
        f"<em style='left:{clip.times[peak] / clip.duration:.3%};top:{(t + 0.5) / count:.3%}'></em>"
        for t, peak in enumerate(peaks)
        if peak is not None
    )
    ticks = "".join(
        f"<span style='left:{at / clip.duration:.3%}'>{at:g}</span>" for at in _ticks(clip.duration)
    )
    label = "; ".join(
        f"{word.text}: {EVEN_LABEL}"
        if peak is None
        else f"{word.text}: most at {clip.times[peak]:.1f} s, {weights[t, peak]:.1f} times uniform"
        for t, (word, peak) in enumerate(zip(caption.words, peaks, strict=True))
    )
    return _FRAGMENTS.fill(
        "heat", count=count, names=names, label=label, dots=dots, ticks=ticks, top=maps.top,
        bar=html.bar_html(maps.top),
    )  # fmt: skip


def _ticks(duration: float) -> list[float]:
    """Return whole steps of 1, 2 or 5 times a power of ten, at most seven."""
    rough = max(duration, 1e-3) / (_TICKS - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
    return [round(i * step, 6) for i in range(int(duration / step + 1e-9) + 1)]


# The clip as a small video

MAX_SECONDS, MAX_BYTES = 120.0, 12_000_000
"""The longest and largest film that a page embeds."""
MAX_HEIGHT, MAX_WIDTH = 360, 640
"""The largest size of its frames in pixels."""
_TICK = Fraction(1, 90_000)
_KEY_EVERY = 12  # distance of key frames: a seek decodes no more
_CODECS = (
    ("libx264", "mp4", "video/mp4", {"crf": "27", "preset": "veryfast"}),
    ("libvpx-vp9", "webm", "video/webm", {"crf": "36", "b": "0", "cpu-used": "8",
                                          "deadline": "realtime"}),
    ("libvpx", "webm", "video/webm", {"crf": "14", "b": "900k", "cpu-used": "8",
                                      "deadline": "realtime"}),
)  # fmt: skip
"""Encoder, container, MIME type, options; the first that this PyAV supports is used."""


@dataclass(frozen=True)
class Film:
    """A small video.

    Attributes:
        data: its bytes.
        kind: its MIME type.
    """

    data: bytes
    kind: str


def encode_film(
    clip: Clip, *, max_seconds: float = MAX_SECONDS, max_bytes: int = MAX_BYTES
) -> Film:
    """Return the whole clip, read again from its file, as a small video.

    Args:
        clip: whose name is the path of its file.
        max_seconds: length limit of the clip.
        max_bytes: size limit of the film.

    Raises:
        MediaError: the clip did not come from a file, the file has changed, or a limit is
            exceeded.
        MissingExtra: PyAV is not installed.
    """
    path = Path(clip.name)
    if not path.is_file() or digest_of(clip.name) != clip.digest:
        raise MediaError("the clip's file no longer exists, or has changed")
    with path.open("rb") as file:
        video = VideoFile(file, clip.name)
        listed, _ = video.list_packets()
        _check_length(float(listed.seconds()[-1]), max_seconds)
        # The packets' times may be guesses (see `VideoFile.list_packets`); the frames' are not.
        decoded = video.decode(set())
        decoded.timeline.even = listed.even
        times = decoded.timeline.seconds()
        _check_length(float(times[-1]), max_seconds)
        return _encoded(video, clip, times, max_bytes)


def _check_length(seconds: float, most: float) -> None:
    if seconds > most:
        raise MediaError(f"the clip lasts {seconds:.0f} s, but a page holds at most {most:.0f} s")


def _encoded(video: VideoFile, clip: Clip, times: np.ndarray, max_bytes: int) -> Film:
    av = import_av()
    codec, container, kind, options = _codec(av)
    size = _size(clip.frame_size)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv420p"
        stream.time_base = stream.codec_context.time_base = _TICK
        stream.codec_context.gop_size = _KEY_EVERY
        stream.codec_context.max_b_frames = 0  # B-frames would need an edit list
        for (frame, source), seconds in zip(video.each_frame(), times, strict=False):
            upright = Image.fromarray(upright_frame(frame, source, [])[0])
            scaled = upright.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            small = av.VideoFrame.from_ndarray(np.asarray(scaled))
            small.pts, small.time_base = round(float(seconds) / _TICK), _TICK
            out.mux(stream.encode(small))
            _check_size(buffer.tell(), max_bytes)
        out.mux(stream.encode(None))
    _check_size(buffer.tell(), max_bytes)  # closing the container writes its last part
    return Film(buffer.getvalue(), kind)


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise MediaError(
            f"as a small video the clip takes more than {most / 1e6:g} MB, the most that "
            "a page can hold"
        )


def _codec(av: Any) -> tuple[str, str, str, dict[str, str]]:
    for codec in _CODECS:
        if codec[0] in av.codecs_available:
            return codec
    names = ", ".join(codec[0] for codec in _CODECS)
    raise MediaError(f"this PyAV has none of the encoders {names}")


def _size(frame: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) within the limits, both even as the encoders require."""
    height, width = frame
    scale = min(1.0, MAX_HEIGHT / height, MAX_WIDTH / width)
    return max(2, 2 * round(height * scale / 2)), max(2, 2 * round(width * scale / 2))
