"""Frames of a clip: the choice of frames, and conversion to upright RGB.

Frames are counted in the order in which they are shown, and chosen by their times alone. They are
cut into chunks, and one frame stands for each chunk:

- "chunks": `numpy.array_split(range(n), K)`, K chunks of nearly equal length, the longer ones
  first (n chunks of one frame if n < K);
- "seconds": the frames shown in each interval of `every` seconds; an interval in which no new
  frame appears belongs to the frame that is still on the screen. If there are more than K
  intervals, the frames are cut as for "chunks";
- "all": every frame is its own chunk; more than K are refused.

The frame of a chunk is `chunk[len(chunk) // 2]` ("middle") or `chunk[0]` ("first", as in the
released code of Yao et al. 2015). With `first_frames`, only so many frames are cut into chunks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from regard.errors import MediaError
from regard.media.preprocess import ClipSpec

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

LONG_SIDE = 640
"""Largest long side in pixels at which frames are kept; networks read far fewer pixels."""
HDR_CURVES = {16: "PQ", 18: "HLG"}
"""Transfer functions of high dynamic range, by their numbers in H.273."""
_UNTAGGED = 2  # the matrix of H.273 that is not known
_ASPECTS = (Fraction(1, 8), Fraction(8))  # of a pixel; values beyond are taken for mistakes


@dataclass
class Timeline:
    """Display times of the frames of a stream, in ticks of its clock.

    Attributes:
        tick: seconds.
        pts: time stamp of each frame, in display order; None if unknown.
        durations: duration of each frame; 0 if unknown.
        rate: frames per second, stored in the file or guessed by FFmpeg; 0 if unknown.
        keys: numbers of the key frames, from which decoding can begin.
        even: the file has a rate but no time for each frame (AVI). FFmpeg guesses times from the
            order of B-frames, and these guesses are not used.
    """

    tick: float
    rate: float
    pts: list[int | None] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    even: bool = False

    def __len__(self) -> int:
        return len(self.pts)

    def seconds(self) -> np.ndarray:
        """Return (n + 1,) increasing seconds: when each frame is shown, and when the last one ends.

        The first is 0. A frame without a time, or with one that is not after the frame before,
        follows that by one frame at the file's rate.
        """
        step = 1 / self.rate if self.rate > 0 else self.tick
        if self.even:
            return np.arange(len(self) + 1) * step
        times: list[float] = []
        origin = next((p for p in self.pts if p is not None), 0)
        for pts in self.pts:
            at = None if pts is None else (pts - origin) * self.tick
            if times and (at is None or at <= times[-1]):
                at = times[-1] + step
            times.append(at or 0.0)
        last = self.durations[-1] * self.tick if self.durations else 0
        times.append((times[-1] if times else 0.0) + (last if last > 0 else step))
        return np.array(times) - times[0]


class Choice(NamedTuple):
    """One frame that is read, and the chunk of frames that it represents.

    Attributes:
        frame: its number in display order, from 0.
        start: first frame of its chunk.
        stop: first frame after its chunk.
    """

    frame: int
    start: int
    stop: int


def choose_frames(times: np.ndarray, spec: ClipSpec, name: str) -> list[Choice]:
    """Return the frames of a clip that are read.

    Args:
        times: (n,) seconds at which each frame is shown, from the first one, rising.
        spec: choice, take, frames, first_frames and every are used.
        name: name of the clip, for messages.

    Raises:
        MediaError: the choice is "all", and the clip has more than K frames.
    """
    if spec.first_frames:
        times = times[: spec.first_frames]
    count = len(times)
    if spec.choice == "all" and count > spec.frames:
        raise MediaError(
            f"{name} has {count} frames, but all frames of clips of at most {spec.frames} are "
            "read. Set encoder.video.choice to chunks or seconds, or raise encoder.video.frames."
        )
    chunks = _intervals(times, spec.every) if spec.choice == "seconds" else None
    if chunks is None or len(chunks) > spec.frames:
        chunks = np.array_split(np.arange(count), min(count, spec.frames))
    which = [len(chunk) // 2 if spec.take == "middle" else 0 for chunk in chunks]
    return [
        Choice(int(chunk[at]), int(chunk[0]), int(chunk[-1]) + 1)
        for chunk, at in zip(chunks, which, strict=True)
    ]


def _intervals(times: np.ndarray, every: float) -> list[np.ndarray]:
    # A frame at 2.9999999 s belongs to 3 s: time stamps are whole ticks, intervals are not.
    number = np.floor(times / every + 1e-6)
    steps = np.diff(number)
    # A frame that stays on the screen through an interval without a new one is its own chunk:
    # it is what that interval shows.
    cuts = np.union1d(np.flatnonzero(steps) + 1, np.flatnonzero(steps > 1))
    return np.split(np.arange(len(times)), cuts[cuts > 0])


def upright_frame(
    frame: VideoFrame, stream: VideoStream, notes: list[str]
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return a frame's upright pixels and its display size.

    Args:
        frame: as decoded.
        stream: its pixel aspect ratio is used.
        notes: decisions are appended.

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
        # Without a tag FFmpeg takes BT.601, of standard definition.
        src_colorspace="ITU709" if _is_untagged_hd(frame) else None,
    )
    pixels = small.to_ndarray()
    if transparent:  # it is laid over white, as pictures are
        alpha = pixels[..., 3:] / 255
        pixels = np.rint(pixels[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    whole = apply_display_matrix(np.empty((height, width, 0), np.uint8), matrix)
    return apply_display_matrix(pixels, matrix), (whole.shape[0], whole.shape[1])


def _is_untagged_hd(frame: VideoFrame) -> bool:
    untagged = frame.colorspace == _UNTAGGED and not frame.format.is_rgb
    return untagged and (frame.width >= 1280 or frame.height > 576)


def _square_size(frame: VideoFrame, stream: VideoStream, notes: list[str]) -> tuple[int, int]:
    """Return (height, width) on square pixels, before the display matrix is applied."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if aspect == 1 or aspect <= 0:
        return frame.height, frame.width
    width = frame.width
    if _ASPECTS[0] <= aspect <= _ASPECTS[1]:
        note = f"pixels of {aspect} to 1 made square"
        width = max(1, round(width * aspect))
    else:
        note = f"pixels of {aspect} to 1 not believed, taken as square"
    if note not in notes:
        notes.append(note)
    return frame.height, width


def _display_matrix(frame: VideoFrame) -> np.ndarray | None:
    """Return the (2, 2) part of a frame's display matrix that turns and mirrors it."""
    try:
        for data in cast("Any", frame.side_data):
            if data.type.name == "DISPLAYMATRIX":
                return np.frombuffer(bytes(data), np.int32, 9).reshape(3, 3)[:2, :2]
    except ValueError:  # side data of a kind that PyAV does not know; it knows the angle
        angle = math.radians(frame.rotation)
        cos, sin = math.cos(angle), math.sin(angle)
        return np.array([[cos, -sin], [sin, cos]])
    return None


def apply_display_matrix(pixels: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Rotate and mirror pixels by a display matrix, to the nearest quarter turn.

    Args:
        pixels: (height, width, ...).
        matrix: (2, 2); the point (x, y) is shown at (x, y) @ matrix. None: no change.
    """
    if matrix is None:
        return pixels
    (a, b), (c, d) = matrix.astype(float)
    if abs(a) + abs(d) < abs(b) + abs(c):  # x and y change places
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    if a < 0:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels[::-1] if d < 0 else pixels)
