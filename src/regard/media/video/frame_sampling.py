"""Which frames of a clip are read: a rule over the times of its frames, nothing decoded.

Frames are counted in the order in which they are shown. They are cut into chunks, and one frame
stands for each chunk:

- "chunks": `numpy.array_split(range(n), K)`, K chunks of nearly equal length, the longer ones
  first (n chunks of one frame where n < K);
- "seconds": the frames shown in each interval of `every` seconds; an interval in which no new
  frame appears belongs to the frame that is still on the screen. More than K of them: as "chunks";
- "all": every frame is a chunk of its own; more than K are refused.

The frame of a chunk is `chunk[len(chunk) // 2]` ("middle") or `chunk[0]` ("first", as in the
released code of Yao et al. 2015). With `first_frames`, only so many frames are cut into chunks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from regard.errors import MediaError
from regard.media.preprocess import ClipSpec


@dataclass
class Timeline:
    """When the frames of a stream are shown, in ticks of its clock.

    Attributes:
        tick: seconds.
        pts: of each frame, in the order of showing; None where the file does not say.
        durations: of each frame; 0 where unknown.
        rate: frames per second, as the file says or FFmpeg guesses; 0 where it does not.
        keys: numbers of the frames from which decoding can begin.
        even: the file has no time for a frame, only the rate (AVI); FFmpeg's guesses at them, from
            the order of B-frames, are not taken.
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
        """Return (n + 1,) seconds, rising: when each frame is shown, and when the last one ends.

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
    """One frame that is read, and the frames that it stands for.

    Attributes:
        frame: its number in the order of showing, from 0.
        start: first frame of its chunk.
        stop: first frame after its chunk.
    """

    frame: int
    start: int
    stop: int


def choose_frames(times: np.ndarray, spec: ClipSpec, name: str) -> list[Choice]:
    """Choose the frames of a clip.

    Args:
        times: (n,) seconds at which each frame is shown, from the first one, rising.
        spec: choice, take, frames, first_frames and every are read.
        name: of the clip, for messages.

    Raises:
        MediaError: "all" was wanted, of a clip with more than K frames.
    """
    if spec.first_frames:
        times = times[: spec.first_frames]
    count = len(times)
    if spec.choice == "all" and count > spec.frames:
        raise MediaError(
            f"{name} has {count} frames, and all of at most {spec.frames} were wanted. Set "
            "encoder.video.choice to chunks or seconds, or raise encoder.video.frames."
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
    # A frame at 2.9999999 s was meant for 3 s: time stamps are whole ticks, intervals are not.
    number = np.floor(times / every + 1e-6)
    steps = np.diff(number)
    # A frame that is still on the screen through an interval without a new one stands alone: it
    # is what is seen there.
    cuts = np.union1d(np.flatnonzero(steps) + 1, np.flatnonzero(steps > 1))
    return np.split(np.arange(len(times)), cuts[cuts > 0])
