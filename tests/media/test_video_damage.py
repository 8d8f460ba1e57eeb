"""What is no clip, or a damaged, endless or dangerous one: one clear error, or what is there."""

import io
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from regard.errors import MediaError, MediaTooLarge, UnknownMedia
from regard.media.video import pyav, video_reader
from regard.media.video.video_reader import read_clip
from tests.helpers import clips

av = pytest.importorskip("av")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"this is no video at all" * 100, "not a video that can be read"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "not a video that can be read"),
        (clips.sound_bytes(), "holds no video, only audio"),
        (clips.clip_bytes(20)[:900], "not a video that can be read, or is cut off"),
        (b"YUV4MPEG2 W9000 H8000 F25:1 C420\nFRAME\n" + bytes(99), "9000×8000"),
        (
            b"YUV4MPEG2 W100000 H100000 F25:1 C420\nFRAME\n" + bytes(99),
            "not a video that can be read",
        ),
    ],
)
def test_what_is_no_clip_is_one_clear_error(content: bytes, message: str) -> None:
    with pytest.raises(MediaError, match=message) as error:
        read_clip(content, clips.spec(), name="thing.mp4")
    assert "thing.mp4" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_files_folders_and_other_types(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"nowhere\.mp4 cannot be opened: No such file"):
        read_clip(tmp_path / "nowhere.mp4", clips.spec())
    with pytest.raises(MediaError, match="is a folder"):
        read_clip(tmp_path, clips.spec())
    with pytest.raises(MediaError, match="cannot be opened"):
        read_clip("a\0b.mp4", clips.spec())
    for wrong, what in ((None, "NoneType"), (np.zeros((2, 4, 4)), r"float64\(2, 4, 4\)")):
        with pytest.raises(MediaError, match=what):
            read_clip(wrong, clips.spec())
    with pytest.raises(MediaError, match="at least one frame"):
        read_clip(np.zeros((0, 4, 4, 3), np.uint8), clips.spec())


@pytest.mark.timeout(20)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(MediaError, match="not a regular file"):
        read_clip(tmp_path / "pipe.mp4", clips.spec())


def test_large_frames_are_refused_before_anything_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pyav, "_frames", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(MediaTooLarge, match="96×64"):
        read_clip(clips.clip_bytes(3), clips.spec(), max_pixels=96 * 64 - 1)
    with pytest.raises(MediaTooLarge, match="96×64"):
        read_clip(np.zeros((2, 64, 96, 3), np.uint8), clips.spec(), max_pixels=99)


def test_more_packets_than_are_allowed_are_refused() -> None:
    with pytest.raises(MediaTooLarge, match="more than 10 frames"):
        read_clip(clips.clip_bytes(20), clips.spec(), max_frames=10)


def packet_places(content: bytes) -> list[tuple[int, int]]:
    """Return (first byte, bytes) of each packet, in the order of the file."""
    with av.open(io.BytesIO(content)) as container:
        return [(p.pos, p.size) for p in container.demux(video=0) if p.size]


@pytest.mark.parametrize("seek_from", [1, 10**6])
@pytest.mark.parametrize(
    "kind",
    [
        {"codec": "mpeg4"},
        {"container": "matroska", "codec": "ffv1"},
        {"container": "avi", "codec": "mpeg4"},
    ],
)
def test_damage_in_the_middle_is_passed_over_with_a_note(
    kind: dict[str, str], seek_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_reader, "_SEEK_FROM", seek_from)
    content = bytearray(clips.clip_bytes(48, gop=16, **kind))
    for pos, size in packet_places(bytes(content))[14:20]:
        content[pos + 16 : pos + size] = b"\xa5" * (size - 16)
    clip = read_clip(bytes(content), clips.spec(3, take="first"))  # without damage 0, 16, 32
    assert any("damaged" in note for note in clip.notes)
    assert clips.number_of(clip.pixels[0]) == 0
    assert clips.number_of(clip.pixels[-1]) >= 32


def test_a_clip_that_is_cut_off_gives_what_is_there_and_says_so() -> None:
    content = clips.clip_bytes(48, container="avi", codec="mpeg4")
    half = content[: packet_places(content)[24][0]]
    clip = read_clip(half, clips.spec(4, take="first"))
    assert all("cut off" in note for note in clip.notes)
    assert clip.notes
    assert clips.numbers_of(clip.pixels) == [0, 6, 12, 18]


def test_where_nothing_decodes_it_is_an_error() -> None:
    content = bytearray(clips.clip_bytes(10, codec="mpeg4"))
    for pos, size in packet_places(bytes(content)):
        content[pos : pos + size] = b"\xa5" * size
    with pytest.raises(MediaError, match="no frame of broken can be decoded"):
        read_clip(bytes(content), clips.spec(), name="broken")


# Safety


@pytest.mark.parametrize("name", ["list.m3u8", "list.ffconcat", "list.mp4", "list.sdp", "list.mpd"])
def test_a_playlist_opens_neither_files_nor_connections(name: str, tmp_path: Path) -> None:
    (tmp_path / "other.mp4").write_bytes(clips.clip_bytes(3))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/clip.mp4"
        for target in (url, "other.mp4", str(tmp_path / "other.mp4")):
            text = {
                "list.m3u8": f"#EXTM3U\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
                "list.sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na={target}\n",
                "list.mpd": f'<?xml version="1.0"?><MPD><BaseURL>{target}</BaseURL></MPD>',
            }.get(name, f"ffconcat version 1.0\nfile '{target}'\n")
            (tmp_path / name).write_text(text)
            with pytest.raises(UnknownMedia, match="not a video that can be read"):
                read_clip(tmp_path / name, clips.spec())
        with pytest.raises(BlockingIOError):  # nobody called
            server.accept()


def test_a_container_that_asks_for_another_file_gets_none() -> None:
    with pytest.raises(PermissionError, match=r"another file, 'http://host/clip'"):
        pyav._refuse("http://host/clip", 0, {})


QUIET = """
import sys
import clips
from regard.errors import MediaError
from regard.media.video.video_reader import read_clip
import numpy as np, random, time

contents = [
    clips.clip_bytes(30, b_frames=2),
    clips.clip_bytes(30, container="avi", codec="mpeg4"),
    clips.clip_bytes(30, container="webm", codec="libvpx", options={"deadline": "realtime"}),
    clips.clip_bytes(30, container="mpegts"),
    clips.clip_bytes(10, container="gif", codec="gif"),
]
draw = random.Random(0)
read = refused = 0
sys.stderr.flush()
for round in range(40):
    content = bytearray(contents[round % len(contents)])
    for _ in range(draw.choice([1, 10, 200])):
        content[draw.randrange(len(content))] = draw.randrange(256)
    if round % 3 == 0:
        content = content[: draw.randrange(len(content))]
    try:
        clip = read_clip(bytes(content), clips.spec(5))
        assert len(clip.pixels) == len(clip.times) == len(clip.spans) <= 5
        assert all(a[1] == b[0] for a, b in zip(clip.spans, clip.spans[1:]))
        assert list(clip.times) == sorted(clip.times)
        assert np.isfinite(clip.duration)
        read += 1
    except MediaError:
        refused += 1
print(read, refused)
"""


def run(code: str, *, timeout: float) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(clips.__file__).parent), str(Path(video_reader.__file__).parents[3])]
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=True,
    )


def test_damaged_files_end_soon_in_a_clip_or_one_error_and_in_silence() -> None:
    done = run(QUIET, timeout=60)
    read, refused = map(int, done.stdout.split())
    assert read + refused == 40
    assert read >= 5
    assert refused >= 5
    assert done.stderr == ""


LONG = """
import io, resource, sys
import av, clips
from regard.media.video.video_reader import read_clip

source = io.BytesIO(clips.clip_bytes(50, container="matroska", codec="mjpeg",
                                     pixel_format="yuvj420p"))
long = io.BytesIO()
with av.open(source) as given, av.open(long, "w", format=sys.argv[1]) as out:
    stream = given.streams.video[0]
    copy = out.add_stream_from_template(stream)
    packets = [(bytes(p), p.pts, p.duration) for p in given.demux(stream) if p.size]
    for turn in range(400):
        for content, pts, duration in packets:
            packet = av.Packet(content)
            packet.pts = packet.dts = pts + turn * 2000
            packet.duration, packet.time_base = duration, stream.time_base
            packet.stream, packet.is_keyframe = copy, True
            out.mux(packet)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
clip = read_clip(long.getvalue(), clips.spec(26, choice="chunks"))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(clip.duration, after - before, *clips.numbers_of(clip.pixels))
"""


@pytest.mark.parametrize(("container", "megabytes"), [("matroska", 90), ("avi", 90)])
def test_a_clip_of_20000_frames_is_never_held_decoded(container: str, megabytes: int) -> None:
    # Decoded it would take 368 MB; an AVI is decoded whole, a Matroska file by seeking.
    code = LONG.replace("sys.argv[1]", repr(container))
    seconds, kilobytes, *numbers = run(code, timeout=120).stdout.split()
    assert float(seconds) == pytest.approx(800)
    assert [int(n) for n in numbers] == [i % 50 for i in clips.chosen(20000, 26)]
    assert int(kilobytes) < megabytes * 1000


def test_without_pyav_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"regard\[video\]"):
        read_clip(b"anything", clips.spec())
