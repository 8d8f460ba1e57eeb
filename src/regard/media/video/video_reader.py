"""Reader of video clips: only the frames that a network reads.

It passes over the file twice: first it reads the times of the packets and decodes nothing, then
it decodes, and keeps only the chosen frames, scaled down. Memory thus depends only on the number
of chosen frames. If the second pass finds other frames than the packets promised, the frames
are chosen and decoded again from those that were really shown: exact, but slower. Of a long clip
only the stretches from a key frame to each chosen frame are decoded, if its container keeps exact
times.
"""

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
from regard.media.source_file import refuse_empty, refuse_size
from regard.media.video import pyav
from regard.media.video.frames import LONG_SIDE, Choice, Timeline, choose_frames
from regard.media.video.truncation import is_cut_off
from regard.types import Clip

_SEEK_FROM = 2000  # frames; decoding a shorter clip whole takes only some seconds
_ARRAY_RATE = 25.0  # frames per second of an array, which has no clock
_Report = Callable[[int, int], None] | None


def read_clip(
    source: Any,
    spec: ClipSpec,
    *,
    name: str | None = None,
    max_pixels: int = pyav.MAX_FRAME_PIXELS,
    max_frames: int = pyav.MAX_FRAMES,
    report: _Report = None,
) -> Clip:
    """Read the chosen frames of a clip: upright, RGB, on square pixels.

    `regard.media.video.frames` describes the choice. Frames are counted in display order; a
    rotation flag is applied, and frames that an edit list cuts away do not count.
    Frames whose long side has more than 640 pixels are scaled down; `frame_size` gives their
    original size. Damaged parts are skipped with a note, as long as anything can be decoded.

    Args:
        source: a path, bytes, or an array (F, height, width, 3) uint8, taken at 25 frames per
            second.
        spec: which frames to read.
        name: used in messages and results; the path by default.
        max_pixels: larger frames are rejected, based on the header if it gives their size.
        max_frames: longer clips are rejected before any frame is decoded.
        report: called while a file is decoded, with the frames done and the frames in all.

    Returns:
        The clip. Its digest is that of the file's bytes, or of shape and pixels of an array.

    Raises:
        MediaError: missing, damaged, without frames, or too long for choice "all";
            `MediaTooLarge`; `UnknownMedia` if it is not a video.
        MissingExtra: PyAV is not installed.
    """
    if isinstance(source, str | Path):
        name = name or str(source)
        pyav.import_av()
        with _open(Path(source), name) as file:
            return _from_file(pyav.VideoFile(file, name, max_pixels), spec, max_frames, report)
    if isinstance(source, bytes | bytearray | memoryview):
        pyav.import_av()
        digest = hashlib.sha256(source).hexdigest()  # reading it from the BytesIO would copy it
        video = pyav.VideoFile(io.BytesIO(source), name or "<bytes>", max_pixels)
        return _from_file(video, spec, max_frames, report, digest)
    return _from_array(source, spec, name or "<array>", max_pixels)


@contextmanager
def _open(path: Path, name: str) -> Generator[BinaryIO]:
    try:
        if path.is_dir():
            raise MediaError(f"{name} is a folder; expected a video clip.")
        if path.exists() and not stat.S_ISREG(os.stat(path).st_mode):
            # A clip is read twice; a pipe can be read only once, or never ends.
            raise MediaError(f"{name} is not a regular file. Save the clip to one first.")
        file = path.open("rb")
    except OSError as error:
        raise MediaError(f"{name} cannot be opened: {error.strerror}.") from error
    except ValueError as error:  # a null byte in the name
        raise MediaError(f"{name!r} cannot be opened: {error}.") from error
    with file:
        yield file


def _from_file(
    video: pyav.VideoFile, spec: ClipSpec, max_frames: int, report: _Report, digest: str = ""
) -> Clip:
    try:
        digest = digest or hashlib.file_digest(cast("Any", video.file), "sha256").hexdigest()
        refuse_empty(video.file.seek(0, os.SEEK_END), video.name)
        listed, missing = video.list_packets(max_frames)
        decoded, choices, times = _decode(video, spec, listed, report)
        decoded.broken_off |= is_cut_off(video.file)
    except OSError as error:
        raise MediaError(f"{video.name} cannot be read: {error.strerror or error}.") from error
    frames = [decoded.frames[choice.frame] for choice in choices]
    warnings = _warnings(decoded, missing)
    duration = max(times[-1], listed.seconds()[-1])  # decoding may have ended before the clip
    return _clip(
        _of_one_size(frames),
        choices,
        times,
        name=video.name,
        digest=digest,
        notes=(*decoded.notes, *warnings, *_size_note(frames)),
        warnings=warnings,
        duration=float(duration),
        frame_size=decoded.size,
    )


def _decode(
    video: pyav.VideoFile, spec: ClipSpec, listed: Timeline, report: _Report
) -> tuple[pyav.DecodedFrames, list[Choice], np.ndarray]:
    """Return the chosen frames, the choice, and the times of all frames and of their end."""
    # The frame after those that are chosen from tells when the last chosen one ends.
    stop = spec.first_frames + 1 if spec.first_frames else None
    total = min(stop or len(listed), len(listed))
    progress = None if report is None else lambda done: report(min(done, total), total)
    timeline = listed
    if len(listed) >= _SEEK_FROM:
        times = listed.seconds()
        choices = choose_frames(times[:-1], spec, video.name)
        wanted = {c.frame for c in choices}
        if decoded := video.decode_by_seeking(wanted, listed, report=progress):
            if progress is not None:
                progress(total)
            return decoded, choices, times
    for _ in range(3):
        choices = choose_frames(timeline.seconds()[:-1], spec, video.name) if len(timeline) else []
        wanted = {c.frame for c in choices}
        decoded = video.decode(wanted, stop=stop, report=progress)
        if not len(decoded.timeline):
            raise MediaError(f"no frame of {video.name} can be decoded: it is damaged, or cut off.")
        decoded.timeline.even = listed.even
        times = decoded.timeline.seconds()
        if choices == choose_frames(times[:-1], spec, video.name):
            return decoded, choices, times
        timeline = decoded.timeline
    raise MediaError(f"{video.name} changes while it is read. Copy it first.")


def _of_one_size(frames: list[np.ndarray]) -> list[np.ndarray]:
    """Scale all frames of a clip whose size changes to the size of the first."""
    height, width = frames[0].shape[:2]
    return [
        frame
        if frame.shape[:2] == (height, width)
        else np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
        for frame in frames
    ]


def _warnings(decoded: pyav.DecodedFrames, missing: int) -> tuple[str, ...]:
    notes = [decoded.hdr] if decoded.hdr else []
    if decoded.damaged:
        notes.append(f"{decoded.damaged} damaged frames skipped or repaired")
    if missing or decoded.broken_off:
        cut = f", {missing} frames of its header missing" if missing else ""
        notes.append(f"the file is cut off{cut}")
    return tuple(notes)


def _size_note(frames: list[np.ndarray]) -> tuple[str, ...]:
    if len({frame.shape for frame in frames}) == 1:
        return ()
    return ("its frames change in size; all are shown in that of the first",)


def _from_array(source: Any, spec: ClipSpec, name: str, max_pixels: int) -> Clip:
    values = np.asarray(source)
    if values.ndim != 4 or values.shape[3] != 3 or values.dtype != np.uint8:
        shape = f"{values.dtype}{values.shape}" if values.ndim else type(source).__name__
        raise MediaError(
            f"{name} is {shape}; expected a clip: a path, bytes, or an array (frames, height, "
            "width, 3) uint8."
        )
    if not values.size:
        raise MediaError(f"{name} has the shape {values.shape}; expected at least one frame.")
    height, width = values.shape[1:3]
    refuse_size(height, width, name, max_pixels, what="frames of ")
    times = np.arange(len(values) + 1) / _ARRAY_RATE
    choices = choose_frames(times[:-1], spec, name)
    sha = hashlib.sha256(str(values.shape).encode())
    for frame in values:  # one by one: a long clip is not copied
        sha.update(frame.tobytes())
    return _clip(
        [_scaled_down(values[c.frame]) for c in choices],
        choices,
        times,
        name=name,
        digest=sha.hexdigest(),
        notes=(f"an array, taken at {_ARRAY_RATE:g} frames per second",),
        duration=float(times[-1]),
        frame_size=(height, width),
    )


def _clip(frames: list[np.ndarray], choices: list[Choice], times: np.ndarray, **facts: Any) -> Clip:
    shown = tuple(float(times[c.frame]) for c in choices)
    spans = tuple((float(times[c.start]), float(times[c.stop])) for c in choices)
    return Clip("video", np.stack(frames), times=shown, spans=spans, **facts)


def _scaled_down(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    scale = LONG_SIDE / max(height, width)
    if scale >= 1:
        return frame
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))
