"""Safe decoding of video streams with PyAV: local bytes only, bounded work, upright RGB frames.

FFmpeg opens any file or URL that a playlist or reference inside a file names. Here it opens
nothing: it gets an open Python file and a list of allowed containers, and requests for other files
are refused.

PyAV leaves FFmpeg's log off unless a program turns it on, for the whole process. This module does
not touch that switch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from regard.errors import MediaError, MediaTooLarge, UnknownMedia, needs_extra
from regard.media.source_file import refuse_size
from regard.media.video.frames import HDR_CURVES, Timeline, upright_frame

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_FRAME_PIXELS = 8192 * 4352
"""Largest frame that is decoded: 8K."""
MAX_FRAMES = 4_000_000
"""Most frames that are counted: 18 hours at 60 frames a second. A forged index claims more."""

_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpegts,mpeg,mpegvideo,ogg,asf,gif,apng,"
    "h264,hevc,m4v,ivf,obu,yuv4mpegpipe,nut,mxf,dv,rm,wtv,swf,h261,h263,vc1,mjpeg"
)
_SEEKABLE = {"mp4", "matroska"}  # each packet is a frame with its own time, and there is an index
_SUPPORTED = "Use MP4, MOV, MKV, WebM, AVI, MPEG, FLV, WMV, OGV, GIF or a similar format."

OnFrame = Callable[[int], None]
"""Called with the number of frames that are passed or decoded."""


@dataclass
class DecodedFrames:
    """The requested frames, and facts found while decoding.

    Attributes:
        frames: pixels, (height, width, 3) uint8, of the requested frames by number.
        size: (height, width) of the first of them before it was scaled down.
        timeline: timeline of all frames that were decoded.
        damaged: packets that could not be decoded, and frames that were repaired.
        broken_off: whether the file could not be read to its end.
        notes: decisions about the pixels.
        hdr: a note if the frames are of high dynamic range.
    """

    timeline: Timeline
    frames: dict[int, np.ndarray] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
    damaged: int = 0
    broken_off: bool = False
    notes: list[str] = field(default_factory=list)
    hdr: str = ""

    def keep(self, number: int, frame: VideoFrame, stream: VideoStream) -> None:
        """Store the upright pixels of a frame."""
        pixels, size = upright_frame(frame, stream, self.notes)
        if not self.frames:
            self.size = size
            if curve := HDR_CURVES.get(frame.color_trc):
                self.hdr = f"its colours are HDR ({curve}), shown without tone mapping: pale"
        self.frames[number] = pixels


def import_av() -> Any:
    """Return the module `av`.

    Raises:
        MissingExtra: PyAV is not installed.
    """
    with needs_extra("av", "video", "reading video clips"):
        import av
    return av


@dataclass(frozen=True)
class VideoFile:
    """A clip's file; each of the methods reads it from its beginning.

    They raise `UnknownMedia` if it is not a video of a supported kind, and `MediaError` if it is
    damaged or holds no video; `MediaTooLarge` for its frames.

    Attributes:
        file: opened for reading bytes.
        name: for messages.
        max_pixels: larger frames are refused.
    """

    file: BinaryIO
    name: str
    max_pixels: int = MAX_FRAME_PIXELS

    @contextmanager
    def _opened(self) -> Generator[tuple[InputContainer, VideoStream]]:
        """Open the video stream."""
        av = import_av()
        self.file.seek(0)
        try:
            container = av.open(
                self.file,
                "r",
                options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"},
                metadata_errors="replace",  # titles in an old encoding do not matter
                buffer_size=2**17,
                io_open=_refuse,
            )
        except Exception as error:  # PyAV's own code raises many kinds of error on untrusted bytes
            text = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UnknownMedia(
                f"{self.name} is not a video that can be read, or is cut off: "
                f"{str(text).rstrip('.')}. {_SUPPORTED}"
            ) from error
        with container:
            stream = _video_stream(container, self.name)
            self._check_size(stream.codec_context)
            stream.codec_context.options = {"max_pixels": str(self.max_pixels)}
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = 2
            yield container, stream

    def _check_size(self, shown: VideoFrame | VideoCodecContext) -> None:
        refuse_size(shown.height, shown.width, self.name, self.max_pixels, what="frames of ")

    def _check_count(self, count: int, most: int = MAX_FRAMES) -> None:
        if count > most:
            raise MediaTooLarge(f"{self.name} has more than {most} frames. Cut it into pieces.")

    def list_packets(self, max_frames: int = MAX_FRAMES) -> tuple[Timeline, int]:
        """Return the times of the frames from the packets alone, and how many packets are missing.

        This is exact if every packet is a frame with a time. Elsewhere it is a guess (hidden frames
        of VP8, packed ones of old AVI files): compare it with what is decoded. Packets that an edit
        list cuts away do not count.

        Returns:
            The times, and how many packets the file's header promised and did not hold.
        """
        with self._opened() as (container, stream):
            timeline = _timeline(stream)
            kind, promised, found = container.format.name, stream.frames, 0
            rows: list[tuple[int, int, bool]] = []
            stored: list[int] = []
            for packet in _packets(container, stream, DecodedFrames(timeline)):
                if packet.pts is None and packet.dts is None and not packet.size:
                    continue
                found += 1
                stored.append(packet.dts or 0)
                if not packet.is_discard:
                    time = (packet.dts or 0) if packet.pts is None else packet.pts
                    rows.append((time, packet.duration or 0, packet.is_keyframe))
                self._check_count(found, max_frames)
        rows.sort()
        timeline.pts, timeline.durations = [row[0] for row in rows], [row[1] for row in rows]
        timeline.keys = [at for at, row in enumerate(rows) if row[2]]
        # An AVI whose packets follow each other without a gap has left no frame out.
        ticks_are_frames = abs(timeline.tick * timeline.rate - 1) < 1e-6
        whole = bool(stored) and stored[-1] - stored[0] == found - 1
        timeline.even = kind == "avi" and ticks_are_frames and whole
        return timeline, max(0, promised - found)

    def decode(
        self, wanted: set[int], *, stop: int | None = None, report: OnFrame | None = None
    ) -> DecodedFrames:
        """Decode a clip, and keep some of its frames.

        Args:
            wanted: the numbers of the frames to keep, in display order.
            stop: number of frames after which to end; None: at the clip's end.
            report: called with the number of frames that are decoded.
        """
        with self._opened() as (container, stream):
            decoded = DecodedFrames(_timeline(stream))
            for frame in _frames(container, stream, decoded):
                number = len(decoded.timeline)
                decoded.timeline.pts.append(frame.pts)
                decoded.timeline.durations.append(frame.duration or 0)
                decoded.damaged += frame.is_corrupt
                self._check_count(number)
                if number in wanted:
                    self._check_size(frame)
                    decoded.keep(number, frame, stream)
                if report is not None:
                    report(number + 1)
                if stop is not None and number + 1 >= stop:
                    break
        return decoded

    def decode_by_seeking(
        self, wanted: set[int], listed: Timeline, *, report: OnFrame | None = None
    ) -> DecodedFrames | None:
        """Decode only from the key frame before each requested frame.

        It is exact or gives up: every frame that is decoded on the way must have exactly the time
        that `list_packets` gave for its number.

        Args:
            wanted: the numbers of the frames to keep, in display order.
            listed: the times of all frames.
            report: called with the number of frames that are passed or decoded.

        Returns:
            The frames; None if the times differ, or if the file is damaged or of a kind whose times
            are guessed.
        """
        with self._opened() as (container, stream):
            decoded = DecodedFrames(listed)
            if not _SEEKABLE & set(container.format.name.split(",")):
                return None
            key, at, frames = 0, 0, _frames(container, stream, decoded)
            for number in sorted(wanted):
                begin = max((k for k in listed.keys if k <= number), default=0)
                if begin > at:
                    time = listed.pts[begin]
                    assert time is not None
                    container.seek(time, stream=stream)
                    key, at, frames = begin, begin, _frames(container, stream, decoded)
                for frame in frames:
                    # Frames that are shown before the key frame are incomplete after a seek.
                    if frame.pts is None or (at == key and frame.pts < (listed.pts[key] or 0)):
                        continue
                    if frame.pts != listed.pts[at] or decoded.damaged or frame.is_corrupt:
                        return None
                    at += 1
                    if at > number:
                        self._check_size(frame)
                        decoded.keep(number, frame, stream)
                        if report is not None:
                            report(at)
                        break
                else:
                    return None
        return decoded

    def each_frame(self) -> Iterator[tuple[VideoFrame, VideoStream]]:
        """Decode a clip frame by frame in display order; damaged frames are skipped."""
        with self._opened() as (container, stream):
            for frame in _frames(container, stream, DecodedFrames(_timeline(stream))):
                self._check_size(frame)
                yield frame, stream


def _refuse(url: str, flags: int, options: dict[str, str]) -> Any:
    raise PermissionError(f"it asks for another file, {url!r}, which is not opened")


def _video_stream(container: InputContainer, name: str) -> VideoStream:
    streams = [s for s in container.streams.video if "attached_pic" not in str(s.disposition)]
    if not streams:
        kinds = sorted({s.type for s in container.streams})
        raise MediaError(f"{name} holds no video, only {' and '.join(kinds) or 'nothing'}.")
    best = container.streams.best("video")
    stream = next((s for s in streams if best is not None and s.index == best.index), streams[0])
    if cast("Any", stream.codec_context) is None:
        raise MediaError(
            f"{name} holds video of a kind that cannot be decoded here. Save it again as MP4 "
            "(H.264)."
        )
    return stream


def _timeline(stream: VideoStream) -> Timeline:
    rate = stream.average_rate or stream.guessed_rate or 0
    return Timeline(float(stream.time_base or Fraction(1, 25)), float(rate))


def _packets(
    container: InputContainer, stream: VideoStream, decoded: DecodedFrames
) -> Iterator[Packet[VideoStream]]:
    try:
        yield from container.demux(stream)
    except Exception:  # PyAV raises an IndexError for a stream that appears late
        decoded.broken_off = True


def _frames(
    container: InputContainer, stream: VideoStream, decoded: DecodedFrames
) -> Iterator[VideoFrame]:
    """Decode packets; damaged ones are counted and skipped."""
    for packet in _packets(container, stream, decoded):
        try:
            yield from packet.decode()
        except Exception:
            decoded.damaged += 1
    if decoded.broken_off:  # the empty packet that flushes the last frames did not come
        try:
            yield from stream.codec_context.decode(None)
        except Exception:
            decoded.damaged += 1
