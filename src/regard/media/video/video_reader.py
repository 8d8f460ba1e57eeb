"""Video clips of every common kind to the few frames that a network reads.

Two passes over the file: the first reads the packets' times and decodes nothing; the second
decodes, and keeps the chosen frames alone, made smaller. So a clip of any length takes the memory
of its chosen frames. Where the second pass meets other frames than the packets promised, the
choice is made again by the frames that were really shown, and decoded again: exact, though slower.
Of a long clip only the stretches from a key frame to each chosen frame are decoded, where its
container keeps exact times.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image

from regard.errors import MediaError
from regard.media.preprocess import ClipSpec
from regard.media.video.frame_orientation import LONG_SIDE
from regard.media.video.frame_sampling import Choice, Timeline, choose_frames
from regard.media.video.pyav import (
    MAX_FRAME_PIXELS,
    MAX_FRAMES,
    Decoded,
    decode_by_seeking,
    decode_frames,
    import_av,
    list_packets,
    refuse_size,
)
from regard.types import Clip

_SEEK_FROM = 2000  # frames; a shorter clip is decoded whole in less than some seconds
_ARRAY_RATE = 25.0  # frames per second of an array, which has no clock


def read_clip(
    source: Any,
    spec: ClipSpec,
    *,
    name: str | None = None,
    max_pixels: int = MAX_FRAME_PIXELS,
    max_frames: int = MAX_FRAMES,
    report: Callable[[int, int], None] | None = None,
) -> Clip:
    """Read the chosen frames of a clip: upright, RGB, on square pixels.

    Which frames: see `regard.media.video.frame_sampling`. They are counted in the order of
    showing; a rotation flag is applied, and frames that an edit list cuts away do not count.
    Frames whose long side has more than 640 pixels are kept smaller; `frame_size` tells what they
    were. Damaged parts are passed over with a note, as long as anything can be decoded.

    Args:
        source: a path, bytes, or an array (F, height, width, 3) uint8, taken at 25 frames per
            second.
        spec: which frames.
        name: what messages and results call it; the path where there is one.
        max_pixels: larger frames are refused, by the header where it tells.
        max_frames: longer clips are refused, before any frame is decoded.
        report: is told, while a file is decoded, how many of how many frames are.

    Returns:
        The clip. Its digest is that of the file's bytes, or of shape and pixels of an array.

    Raises:
        MediaError: missing, damaged, without frames, or too long for choice "all";
            `MediaTooLarge`; `UnknownMedia` for no video.
        MissingExtra: PyAV is not installed.
    """
    if isinstance(source, str | Path):
        name = name or str(source)
        import_av()
        with _open(Path(source), name) as file:
            return _from_file(file, spec, name, (max_pixels, max_frames), report)
    if isinstance(source, bytes | bytearray | memoryview):
        import_av()
        digest = hashlib.sha256(source).hexdigest()  # by way of the BytesIO it would be copied
        limits = max_pixels, max_frames
        return _from_file(io.BytesIO(source), spec, name or "<bytes>", limits, report, digest)
    return _from_array(source, spec, name or "<array>", max_pixels)


@contextmanager
def _open(path: Path, name: str) -> Generator[BinaryIO]:
    try:
        if path.is_dir():
            raise MediaError(f"{name} is a folder; a video clip was wanted.")
        if path.exists() and not stat.S_ISREG(os.stat(path).st_mode):
            # A clip is read twice, and a pipe can be read only once, or never ends.
            raise MediaError(f"{name} is no ordinary file. Save the clip to one first.")
        file = path.open("rb")
    except OSError as error:
        raise MediaError(f"{name} cannot be opened: {error.strerror}.") from error
    except ValueError as error:  # a null byte in the name
        raise MediaError(f"{name!r} cannot be opened: {error}.") from error
    with file:
        yield file


def _from_file(
    file: BinaryIO,
    spec: ClipSpec,
    name: str,
    limits: tuple[int, int],
    report: Callable[[int, int], None] | None,
    digest: str = "",
) -> Clip:
    max_pixels, max_frames = limits
    try:
        digest = digest or hashlib.file_digest(cast("Any", file), "sha256").hexdigest()
        if not file.seek(0, os.SEEK_END):
            raise MediaError(f"{name} is empty (0 bytes). Bring the clip again.")
        listed, missing = list_packets(file, name, max_pixels, max_frames)
        decoded, choices, times = _decode(file, spec, name, max_pixels, listed, report)
    except OSError as error:
        raise MediaError(f"{name} cannot be read: {error.strerror or error}.") from error
    frames = [decoded.frames[choice.frame] for choice in choices]
    duration = max(times[-1], listed.seconds()[-1])  # decoding may have ended before the clip
    return Clip(
        "video",
        np.stack(_of_one_size(frames)),
        name,
        digest,
        _notes(decoded, frames, missing),
        times=tuple(float(times[c.frame]) for c in choices),
        spans=tuple((float(times[c.start]), float(times[c.stop])) for c in choices),
        duration=float(duration),
        frame_size=decoded.size,
    )


def _decode(
    file: BinaryIO,
    spec: ClipSpec,
    name: str,
    max_pixels: int,
    listed: Timeline,
    report: Callable[[int, int], None] | None,
) -> tuple[Decoded, list[Choice], np.ndarray]:
    """Return the chosen frames, the choice, and the times of all frames and of their end."""
    # One frame more than is chosen from tells when the last chosen one ends.
    stop = spec.first_frames + 1 if spec.first_frames else None
    total = min(stop or len(listed), len(listed))
    told = None if report is None else lambda done: report(min(done, total), total)
    timeline = listed
    if len(listed) >= _SEEK_FROM:
        times = listed.seconds()
        choices = choose_frames(times[:-1], spec, name)
        wanted = {c.frame for c in choices}
        if decoded := decode_by_seeking(file, wanted, name, max_pixels, listed, report=told):
            if told is not None:
                told(total)
            return decoded, choices, times
    for _ in range(3):
        choices = choose_frames(timeline.seconds()[:-1], spec, name) if len(timeline) else []
        wanted = {c.frame for c in choices}
        decoded = decode_frames(file, wanted, name, max_pixels, stop=stop, report=told)
        if not len(decoded.timeline):
            raise MediaError(f"no frame of {name} can be decoded: it is damaged, or cut off.")
        decoded.timeline.even = listed.even
        times = decoded.timeline.seconds()
        if choices == choose_frames(times[:-1], spec, name):
            return decoded, choices, times
        timeline = decoded.timeline
    raise MediaError(f"{name} changes while it is read. Copy it first.")


def _of_one_size(frames: list[np.ndarray]) -> list[np.ndarray]:
    """Bring frames of a clip whose size changes to that of the first."""
    height, width = frames[0].shape[:2]
    return [
        frame
        if frame.shape[:2] == (height, width)
        else np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
        for frame in frames
    ]


def _notes(decoded: Decoded, frames: list[np.ndarray], missing: int) -> tuple[str, ...]:
    notes = list(decoded.notes)
    if decoded.damaged:
        notes.append(f"{decoded.damaged} damaged frames passed over or mended")
    if missing or decoded.broken_off:
        cut = f", {missing} frames of its header missing" if missing else ""
        notes.append(f"the file is cut off{cut}")
    if len({frame.shape for frame in frames}) > 1:
        notes.append("its frames change in size; all are shown in that of the first")
    return tuple(notes)


def _from_array(source: Any, spec: ClipSpec, name: str, max_pixels: int) -> Clip:
    values = np.asarray(source)
    if values.ndim != 4 or values.shape[3] != 3 or values.dtype != np.uint8:
        shape = f"{values.dtype}{values.shape}" if values.ndim else type(source).__name__
        raise MediaError(
            f"{name} is {shape}; a clip was wanted: a path, bytes, or an array (frames, height, "
            "width, 3) uint8."
        )
    if not values.size:
        raise MediaError(f"{name} has the shape {values.shape}; wanted at least one frame.")
    height, width = values.shape[1:3]
    refuse_size(height, width, name, max_pixels)
    times = np.arange(len(values) + 1) / _ARRAY_RATE
    choices = choose_frames(times[:-1], spec, name)
    return Clip(
        "video",
        np.stack([_reduced(values[c.frame]) for c in choices]),
        name,
        _array_digest(values),
        (f"an array, taken at {_ARRAY_RATE:g} frames per second",),
        times=tuple(float(times[c.frame]) for c in choices),
        spans=tuple((float(times[c.start]), float(times[c.stop])) for c in choices),
        duration=float(times[-1]),
        frame_size=(height, width),
    )


def _array_digest(values: np.ndarray) -> str:
    sha = hashlib.sha256(str(values.shape).encode())
    for frame in values:  # never a second copy of a long clip
        sha.update(frame.tobytes())
    return sha.hexdigest()


def _reduced(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    scale = LONG_SIDE / max(height, width)
    if scale >= 1:
        return frame
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))


__all__ = ["read_clip"]
