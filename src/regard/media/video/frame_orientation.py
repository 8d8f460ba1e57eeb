"""Decoded frames to upright RGB on square pixels, no larger than a network can use."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

LONG_SIDE = 640
"""Frames are kept with at most so many pixels on their long side; networks read far fewer."""
_ASPECTS = (Fraction(1, 8), Fraction(8))  # of a pixel; what lies beyond is a writer's mistake


def upright_frame(
    frame: VideoFrame, stream: VideoStream, notes: list[str]
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return a frame's pixels as they are shown, and the size that it is shown in.

    Args:
        frame: as decoded.
        stream: its aspect ratio of a pixel is read.
        notes: what had to be decided is added.

    Returns:
        (height, width, 3) uint8, RGB, at most 640 on the long side; (height, width) before
        that limit.
    """
    height, width = _square_size(frame, stream, notes)
    matrix = _display_matrix(frame)
    scale = min(1.0, LONG_SIDE / max(height, width))
    transparent = any(component.is_alpha for component in frame.format.components)
    small = frame.reformat(
        width=max(1, round(width * scale)),
        height=max(1, round(height * scale)),
        format="rgba" if transparent else "rgb24",
        interpolation="AREA" if scale < 1 else "BICUBIC",
    )
    pixels = small.to_ndarray()
    if transparent:
        pixels = _over_white(pixels)
    whole = turned(np.empty((height, width, 0), np.uint8), matrix)
    return turned(pixels, matrix), (whole.shape[0], whole.shape[1])


def _over_white(pixels: np.ndarray) -> np.ndarray:
    """Lay (height, width, 4) RGBA over white, as pictures are."""
    alpha = pixels[..., 3:] / 255
    return np.rint(pixels[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def _square_size(frame: VideoFrame, stream: VideoStream, notes: list[str]) -> tuple[int, int]:
    """Return (height, width) on square pixels, not yet turned."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if aspect == 1 or aspect <= 0:
        return frame.height, frame.width
    if not _ASPECTS[0] <= aspect <= _ASPECTS[1]:
        note = f"pixels of {aspect} to 1 not believed, taken as square"
        size = frame.height, frame.width
    else:
        note = f"pixels of {aspect} to 1 made square"
        size = frame.height, max(1, round(frame.width * aspect))
    if note not in notes:
        notes.append(note)
    return size


def _display_matrix(frame: VideoFrame) -> np.ndarray | None:
    """Return the (2, 2) part of a frame's display matrix that turns and mirrors it."""
    try:
        for data in cast("Any", frame.side_data):
            if data.type.name == "DISPLAYMATRIX":
                return np.frombuffer(bytes(data), np.int32, 9).reshape(3, 3)[:2, :2]
    except ValueError:  # PyAV does not know a kind that lies beside it; the angle it does know
        angle = math.radians(frame.rotation)
        cos, sin = math.cos(angle), math.sin(angle)
        return np.array([[cos, -sin], [sin, cos]])
    return None


def turned(pixels: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Turn and mirror pixels as a display matrix says, to the nearest quarter turn.

    Args:
        pixels: (height, width, ...).
        matrix: (2, 2); the point (x, y) is shown at (x, y) @ matrix. None: as it is.
    """
    if matrix is None:
        return pixels
    (a, b), (c, d) = matrix.astype(float)
    if abs(a) + abs(d) < abs(b) + abs(c):  # x and y change places
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    if a < 0:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels[::-1] if d < 0 else pixels)
