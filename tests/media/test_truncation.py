"""Clips that end before their container says so, and colours of clips without tags."""

import io
from typing import Any

import numpy as np
import pytest

from regard.errors import MediaError
from regard.media.video.truncation import is_cut_off
from regard.media.video.video_reader import read_clip
from tests.helpers import clips

av = pytest.importorskip("av")

KINDS: dict[str, dict[str, Any]] = {
    "mp4": {"options": {}},
    "mov": {"container": "mov", "codec": "mpeg4"},
    "mkv": {"container": "matroska", "codec": "mpeg4"},
    "mkv raw": {"container": "matroska", "codec": "ffv1"},
    "webm": {"container": "webm", "codec": "libvpx", "options": {"deadline": "realtime"}},
    "avi": {"container": "avi", "codec": "mpeg4"},
    "flv": {"container": "flv", "codec": "flv"},
    "wmv": {"container": "asf", "codec": "wmv2"},
    "mpg": {"container": "mpeg", "codec": "mpeg2video"},
    "vob": {"container": "vob", "codec": "mpeg2video"},
    "mpeg-1": {"container": "mpeg", "codec": "mpeg1video"},
    "ts": {"container": "mpegts", "codec": "mpeg2video"},
    "gif": {"container": "gif", "codec": "gif"},
    "y4m": {"container": "yuv4mpegpipe", "codec": "wrapped_avframe"},
    "y4m 444": {"container": "yuv4mpegpipe", "codec": "wrapped_avframe", "pixel_format": "yuv444p"},
    "ivf": {"container": "ivf", "codec": "libvpx", "options": {"deadline": "realtime"}},
    "ogv": {"container": "ogg", "codec": "libvpx", "options": {"deadline": "realtime"}},
}
_MADE: dict[str, bytes] = {}


def made(kind: str) -> bytes:
    """Return a clip of 100 frames (4 s), which is written once."""
    if kind not in _MADE:
        try:
            _MADE[kind] = clips.clip_bytes(100, **KINDS[kind])
        except (ValueError, av.error.FFmpegError) as error:
            pytest.skip(f"PyAV cannot write {kind}: {error}")
    return _MADE[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_clip_is_not_cut_off(kind: str) -> None:
    assert not is_cut_off(io.BytesIO(made(kind)))
    assert read_clip(made(kind), clips.spec(3)).warnings == ()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.35, 2 / 3, 0.97])
def test_a_clip_that_is_cut_off_says_so_in_every_container(kind: str, share: float) -> None:
    length = int(len(made(kind)) * share) | 1
    # At most one of two places is between two packets, where a cut leaves no trace.
    cuts = [made(kind)[: length + more] for more in (0, 1)]
    cut = next(cut for cut in cuts if is_cut_off(io.BytesIO(cut)))
    assert any("cut off" in warning for warning in said_of(cut))


def said_of(content: bytes) -> tuple[str, ...]:
    """Return the warnings of a clip, or the error where its index came last."""
    try:
        return read_clip(content, clips.spec(3)).warnings
    except MediaError as error:
        return (str(error),)


def test_fragments_of_mp4_that_are_cut_off() -> None:
    import av

    target = io.BytesIO()
    flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    with av.open(target, "w", format="mp4", options=flags) as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(48):
            frame = av.VideoFrame.from_ndarray(clips.painted(number), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    content = target.getvalue()
    assert read_clip(content, clips.spec(3)).warnings == ()
    cut = read_clip(content[: len(content) * 2 // 3], clips.spec(3))
    assert any("cut off" in warning for warning in cut.warnings)


def test_a_segment_of_unknown_size_is_searched() -> None:
    """A live recording states no size of the whole, but those of its clusters."""
    content = bytearray(made("mkv"))
    at = content.index(b"\x18\x53\x80\x67") + 4
    content[at : at + 8] = b"\x01" + b"\xff" * 7
    assert not is_cut_off(io.BytesIO(content))
    assert is_cut_off(io.BytesIO(content[:-9]))


@pytest.mark.parametrize("content", [b"", b"x", bytes(5000), b"\x1a\x45\xdf\xa3", b"OggS", b"RIFF"])
def test_nonsense_raises_nothing(content: bytes) -> None:
    assert is_cut_off(io.BytesIO(content)) in (True, False)


@pytest.mark.parametrize(
    ("size", "matrix", "is_right"),
    [
        ((720, 1280), 2, True),
        ((1280, 720), 2, True),
        ((64, 96), 2, False),
        ((720, 1280), 5, False),
        ((64, 96), 1, True),
        ((32, 1280), 2, True),
        ((32, 1278), 2, False),
        ((578, 32), 2, True),
        ((576, 32), 2, False),
    ],
)
def test_an_untagged_clip_of_hd_size_is_bt709(
    size: tuple[int, int], matrix: int, *, is_right: bool
) -> None:
    """Its frames are written by BT.709 and tagged, or not tagged (2)."""
    import av

    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.colorspace = matrix
        pixels = np.full((*size, 3), (180, 60, 40), np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        frame.colorspace = matrix
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    found = read_clip(target.getvalue(), clips.spec(1)).pixels[0, 9, 9].astype(int)
    assert (np.abs(found - (180, 60, 40)).max() <= 5) == is_right


def test_hdr_is_said() -> None:
    import av

    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.color_trc = 18
        frame = av.VideoFrame.from_ndarray(clips.painted(3), format="rgb24")
        frame = frame.reformat(format="yuv420p")
        frame.color_trc = 18
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert "HDR (HLG)" in read_clip(target.getvalue(), clips.spec(1)).warnings[0]
