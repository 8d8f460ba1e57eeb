"""A clip's attention frame by frame, in multiples of uniform attention over its real frames.

Frames that a short clip lacks are padding: nothing is looked at there, nothing is drawn of them,
and "uniform" leaves them out.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from regard.errors import ConfigError, MediaError
from regard.explain.maps import SCALE_LEAST, absolute_scale
from regard.media import digest_of
from regard.media.video.frames import upright_frame
from regard.media.video.pyav import (
    MAX_FRAME_PIXELS,
    decode_frames,
    each_frame,
    import_av,
    list_packets,
)
from regard.types import Caption, Clip, Grid, Word

_STANDS_OUT = 1.05
"""A frame that no more than this many times uniform was looked at is no peak but a ripple."""


def clip_of(caption: Caption) -> Clip:
    """Return the clip that a caption holds.

    Raises:
        ConfigError: the caption does not hold its clip.
    """
    if not isinstance(caption.media, Clip):
        raise ConfigError("this caption holds no clip to draw on; caption the file again.")
    return caption.media


def real_alpha(word: Word, grid: Grid) -> np.ndarray:
    """Return a word's weights on a clip's real frames, (n,) or (n, rows, cols)."""
    return word.alpha[: len(grid.spans)]


def frame_weights(caption: Caption) -> np.ndarray:
    """Return every word's attention on every real frame, (T, n), in multiples of uniform 1/n.

    A frame's attention is the sum of its cells'.
    """
    grid, frames = caption.grid, len(caption.grid.spans)
    alpha = caption.trace.alpha[:, : grid.real_cells].astype(np.float64)
    cells = grid.real_cells // frames
    return alpha.reshape(len(alpha), frames, cells).sum(-1) * frames


def frame_scale(weights: np.ndarray) -> float:
    """Return the top of one scale for all of a caption's frame weights, at least 2."""
    return max(SCALE_LEAST, float(weights.max(initial=0.0)))


def frame_grid(grid: Grid) -> Grid | None:
    """Return the grid of one frame's cells on the frame; None of a grid of whole frames."""
    if len(grid.shape) == 1:
        return None
    height, width = grid.source_size[1:]
    return Grid(("rows", "cols"), grid.shape[1:], (height, width), grid.extent[1:])


def frame_map(word: Word, grid: Grid, frame: int) -> np.ndarray:
    """Return a word's weights on a frame's cells, (rows, cols), as if the frame were all.

    They sum to the frame's weight in multiples of 1/n, so that `relative_map` of them is in
    multiples of uniform attention over the cells of all frames.
    """
    return word.alpha[frame] * len(grid.spans)


def map_scale(caption: Caption, *, smooth: bool) -> float:
    """Return the top of one scale for the maps of all words on all frames.

    Args:
        caption: of a clip on a grid of (frames, rows, cols).
        smooth: whether smoothed maps or raw cells are drawn.
    """
    grid, still = caption.grid, frame_grid(caption.grid)
    assert still is not None
    alpha = caption.trace.alpha[:, : grid.real_cells] * len(grid.spans)
    return absolute_scale(alpha, still, smooth=smooth)


def chosen_frame(word: Word, grid: Grid) -> int | None:
    """Return the frame of the one cell that hard attention looked at; None otherwise."""
    if word.location is None:
        return None
    return int(np.unravel_index(word.location, grid.shape)[0])


def peak_frame(weights: np.ndarray) -> int | None:
    """Return the frame that a word looked at most; None where it looked at all alike.

    Args:
        weights: (n,) of one word, in multiples of uniform.
    """
    peak = int(weights.argmax())
    return peak if weights[peak] >= _STANDS_OUT else None


def shown_frames(count: int, most: int, peak: int | None) -> list[int]:
    """Choose at most so many of a clip's frames, spread evenly, the peak among them.

    The frames are cut into chunks as even as possible; the middle of each is shown, and in the
    peak's chunk the peak.

    Args:
        count: of frames.
        most: that are shown.
        peak: the frame that a word looked at most; None: there is none.
    """
    chunks = np.array_split(np.arange(count), min(count, most))
    middle = [int(chunk[len(chunk) // 2]) for chunk in chunks]
    if peak is None:
        return middle
    return [peak if peak in chunk else at for chunk, at in zip(chunks, middle, strict=True)]


MAX_SECONDS, MAX_BYTES = 120.0, 12_000_000
"""The longest and largest film that a page holds."""
MAX_HEIGHT, MAX_WIDTH = 360, 640
"""Of its frames, in pixels."""
_TICK = Fraction(1, 90_000)
_KEY_EVERY = 12  # frames from one that stands alone to the next: a seek decodes no more
_CODECS = (
    ("libx264", "mp4", "video/mp4", {"crf": "27", "preset": "veryfast"}),
    ("libvpx-vp9", "webm", "video/webm", {"crf": "36", "b": "0", "cpu-used": "8",
                                          "deadline": "realtime"}),
    ("libvpx", "webm", "video/webm", {"crf": "14", "b": "900k", "cpu-used": "8",
                                      "deadline": "realtime"}),
)  # fmt: skip
"""Encoder, container, MIME type, options; the first that this PyAV has is used."""


@dataclass(frozen=True)
class Film:
    """A small video.

    Attributes:
        data: its bytes.
        kind: its MIME type.
    """

    data: bytes
    kind: str


def film_of(clip: Clip, *, max_seconds: float = MAX_SECONDS, max_bytes: int = MAX_BYTES) -> Film:
    """Return the whole clip, read again from its file, as a small video.

    Args:
        clip: whose name is the path of its file.
        max_seconds: the longest clip that is taken.
        max_bytes: the largest film that is made.

    Raises:
        MediaError: it came from no file, the file is another by now, or a limit is passed.
        MissingExtra: PyAV is not installed.
    """
    path = Path(clip.name)
    if not path.is_file() or digest_of(clip.name) != clip.digest:
        raise MediaError("the clip's file is not there any more, or has changed")
    with path.open("rb") as file:
        listed, _ = list_packets(file, clip.name, MAX_FRAME_PIXELS)
        _refuse_length(float(listed.seconds()[-1]), max_seconds)
        # The packets' times may be guesses (see `list_packets`); the frames' are not.
        decoded = decode_frames(file, set(), clip.name, MAX_FRAME_PIXELS)
        decoded.timeline.even = listed.even
        times = decoded.timeline.seconds()
        _refuse_length(float(times[-1]), max_seconds)
        return _encoded(file, clip, times, max_bytes)


def _refuse_length(seconds: float, most: float) -> None:
    if seconds > most:
        raise MediaError(f"the clip lasts {seconds:.0f} s, and a page holds at most {most:.0f} s")


def _encoded(file: BinaryIO, clip: Clip, times: np.ndarray, max_bytes: int) -> Film:
    av = import_av()
    codec, container, kind, options = _codec(av)
    size = _size(clip.frame_size)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv420p"
        stream.time_base = stream.codec_context.time_base = _TICK
        stream.codec_context.gop_size = _KEY_EVERY
        stream.codec_context.max_b_frames = 0  # they would need an edit list
        for (frame, source), seconds in zip(each_frame(file, clip.name), times, strict=False):
            small = av.VideoFrame.from_ndarray(_scaled(upright_frame(frame, source, [])[0], size))
            small.pts, small.time_base = round(float(seconds) / _TICK), _TICK
            out.mux(stream.encode(small))
            _refuse_size(buffer.tell(), max_bytes)
        out.mux(stream.encode(None))
    _refuse_size(buffer.tell(), max_bytes)  # the container's last part is written at its end
    return Film(buffer.getvalue(), kind)


def _refuse_size(size: int, most: int) -> None:
    if size > most:
        raise MediaError(
            f"as a small video the clip takes more than {most / 1e6:g} MB, which is what a page "
            "holds at most"
        )


def _codec(av: Any) -> tuple[str, str, str, dict[str, str]]:
    for codec in _CODECS:
        if codec[0] in av.codecs_available:
            return codec
    names = ", ".join(codec[0] for codec in _CODECS)
    raise MediaError(f"this PyAV has none of the encoders {names}")


def _size(frame: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) within the limits, even as the encoders want it."""
    height, width = frame
    scale = min(1.0, MAX_HEIGHT / height, MAX_WIDTH / width)
    return max(2, 2 * round(height * scale / 2)), max(2, 2 * round(width * scale / 2))


def _scaled(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if pixels.shape[:2] == size:
        return pixels
    height, width = size
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)
