"""Clips whose frames carry their number, for tests that must know which frame they see."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from regard.media import ClipSpec, PreprocessingSpec

PICTURE = PreprocessingSpec(32, "squash", "bilinear", (127.0,) * 3, (128.0,) * 3)
SIZE = (64, 96)
"""(height, width) of the frames."""
_BLOCKS = 4  # a side; the corners tell which way is up, the other twelve are bits


def spec(frames: int = 7, **settings: Any) -> ClipSpec:
    """A specification of a clip; every frame's chunk and its middle, unless told otherwise."""
    plain = {"choice": "chunks", "take": "middle", "first_frames": 0, "every": 1.0}
    return ClipSpec(PICTURE, frames, **(plain | settings))


def painted(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A frame, (height, width, 3) uint8, with a number from 0 to 4095 in black and white blocks."""
    corners = {(0, 0): 1, (0, 3): 0, (3, 0): 0, (3, 3): 0}
    bits = iter(range(12))
    blocks = np.zeros((_BLOCKS, _BLOCKS), np.uint8)
    for place in np.ndindex(_BLOCKS, _BLOCKS):
        blocks[place] = corners[place] if place in corners else number >> next(bits) & 1
    rows, cols = (np.arange(side) * _BLOCKS // side for side in size)
    grey = np.where(blocks, 235, 20).astype(np.uint8)[rows][:, cols]
    return np.repeat(grey[..., None], 3, axis=2)


def number_of(pixels: np.ndarray) -> int:
    """Read the number of a frame back; fails where it is turned, mirrored or none of ours."""
    height, width = pixels.shape[:2]
    bits, number = iter(range(12)), 0
    for row, col in np.ndindex(_BLOCKS, _BLOCKS):
        middle = pixels[int((row + 0.5) * height / _BLOCKS), int((col + 0.5) * width / _BLOCKS)]
        shade = float(middle.mean())
        assert abs(shade - 127) > 50, f"block {row}, {col} is grey ({shade:.0f})"
        if (row, col) in ((0, 0), (0, 3), (3, 0), (3, 3)):
            assert (shade > 127) == ((row, col) == (0, 0)), "the frame is not upright"
        else:
            number |= (shade > 127) << next(bits)
    return number


def numbers_of(frames: np.ndarray) -> list[int]:
    """Read the numbers of a clip's frames."""
    return [number_of(frame) for frame in frames]


def clip_bytes(
    frames: int | Sequence[np.ndarray] = 40,
    *,
    container: str = "mp4",
    codec: str = "libx264",
    rate: Fraction | int = 25,
    times: Sequence[int] | None = None,
    tick: Fraction | None = None,
    options: dict[str, str] | None = None,
    b_frames: int = 0,
    gop: int = 12,
    pixel_format: str | None = None,
    turn: tuple[float, bool, bool] | None = None,
    aspect: Fraction | None = None,
) -> bytes:
    """Write a clip.

    Args:
        frames: how many painted ones, or the frames themselves.
        container: FFmpeg's name.
        codec: FFmpeg's name of the encoder.
        rate: frames per second.
        times: of each frame in ticks; None: at the rate.
        tick: seconds of `times`.
        options: of the codec.
        b_frames: at most so many in a row.
        gop: frames from one key frame to the next.
        pixel_format: None: the codec's usual.
        turn: (degrees, mirrored, upside down) of the display matrix.
        aspect: width of a pixel by its height.
    """
    import av

    pictures = [painted(i) for i in range(frames)] if isinstance(frames, int) else frames
    target = io.BytesIO()
    with av.open(target, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixel_format or ("rgb8" if codec == "gif" else "yuv420p")
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        if tick is not None:
            stream.codec_context.time_base = tick
            stream.time_base = tick
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if turn is not None:
            degrees, mirrored, upside_down = turn
            stream.set_display_rotation(degrees, hflip=mirrored, vflip=upside_down)
        for at, pixels in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = at if times is None else times[at]
            frame.time_base = tick or Fraction(1) / Fraction(rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return target.getvalue()


def sound_bytes(container: str = "mp4", codec: str = "aac") -> bytes:
    """Write a second of silence."""
    import av

    target = io.BytesIO()
    with av.open(target, "w", format=container) as out:
        stream = out.add_stream(codec, rate=16000)
        for at in range(16):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate = 16000
            frame.pts = at * 1024
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return target.getvalue()


def chosen(count: int, chunks: int, take: str = "middle") -> list[int]:
    """The rule of the released code, and its middle."""
    parts = np.array_split(np.arange(count), chunks)
    return [int(p[len(p) // 2 if take == "middle" else 0]) for p in parts if len(p)]
