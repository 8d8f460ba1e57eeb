"""Clips with painted frame numbers: chosen frames, their times, and files that are no clips."""

import io
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regard.errors import MediaError
from regard.media import read_media
from regard.media.video import pyav, video_reader
from regard.media.video.frames import Choice, choose_frames
from regard.media.video.video_reader import read_clip
from regard.types import Clip
from tests.helpers import clips

av = pytest.importorskip("av")

ALT_REF = {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "b": "200k"}
KINDS = {
    "mp4": {},
    "mp4 B-frames": {"b_frames": 3},
    "mp4 MPEG-4 B-frames": {"codec": "mpeg4", "b_frames": 2},
    "mov": {"container": "mov", "codec": "mjpeg", "pixel_format": "yuvj420p"},
    "avi": {"container": "avi", "codec": "mpeg4"},
    "avi B-frames": {"container": "avi", "codec": "mpeg4", "b_frames": 2},
    "avi H.264 B-frames": {"container": "avi", "b_frames": 3},
    "webm VP8 with hidden frames": {"container": "webm", "codec": "libvpx", "options": ALT_REF},
    "webm VP9": {"container": "webm", "codec": "libvpx-vp9", "options": {"deadline": "realtime"}},
    "mkv": {"container": "matroska", "codec": "ffv1"},
    "gif": {"container": "gif", "codec": "gif"},
    "transport stream": {"container": "mpegts", "b_frames": 3},
    "program stream": {"container": "mpeg", "codec": "mpeg2video", "b_frames": 2},
    "flv": {"container": "flv", "b_frames": 2},
}
each_kind = pytest.mark.parametrize("kind", list(KINDS))


@each_kind
@pytest.mark.parametrize("take", ["middle", "first"])
def test_the_chosen_frames_are_those_of_the_rule(kind: str, take: str) -> None:
    clip = read_clip(clips.clip_bytes(40, **KINDS[kind]), clips.spec(7, take=take))
    assert clips.numbers_of(clip.pixels) == clips.chosen(40, 7, take)
    np.testing.assert_allclose(clip.times, np.array(clips.chosen(40, 7, take)) / 25, atol=1e-3)
    starts = [*clips.chosen(40, 7, "first"), 40]
    np.testing.assert_allclose(clip.spans, np.array([starts[:-1], starts[1:]]).T / 25, atol=1e-3)
    assert clip.duration == pytest.approx(1.6, abs=1e-3)
    assert clip.frame_size == clips.SIZE
    assert clip.notes == ()


@each_kind
def test_seeking_gives_the_same_clip_or_declines(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = clips.clip_bytes(100, **KINDS[kind])
    plain = read_clip(content, clips.spec(5))
    monkeypatch.setattr(video_reader, "_SEEK_FROM", 1)
    sought = read_clip(content, clips.spec(5))
    assert np.array_equal(plain.pixels, sought.pixels)
    np.testing.assert_allclose(sought.times, plain.times, atol=1e-9)
    np.testing.assert_allclose(sought.spans, plain.spans, atol=1e-9)


def test_a_long_clip_is_decoded_only_around_its_chosen_frames(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "long.mp4"
    path.write_bytes(clips.clip_bytes(video_reader._SEEK_FROM, b_frames=2, gop=20))
    kept = []
    decode = pyav._frames

    def counted(*args: object) -> object:
        for frame in decode(*args):  # type: ignore[arg-type]
            kept.append(frame.pts)
            yield frame

    monkeypatch.setattr(pyav, "_frames", counted)
    clip = read_clip(path, clips.spec(4))
    assert clips.numbers_of(clip.pixels) == clips.chosen(video_reader._SEEK_FROM, 4)
    assert len(kept) < 4 * 30


UNEVEN = [i * 40 + (i % 3) * 7 + (i > 20) * 1000 for i in range(40)]
"""Milliseconds, with a second of standstill after frame 20."""


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_variable_frame_rate_keeps_its_own_times(container: str) -> None:
    content = clips.clip_bytes(
        40, container=container, b_frames=2, tick=Fraction(1, 1000), times=UNEVEN
    )
    clip = read_clip(content, clips.spec(7))
    assert clips.numbers_of(clip.pixels) == clips.chosen(40, 7)
    assert clip.times == pytest.approx([UNEVEN[i] / 1000 for i in clips.chosen(40, 7)])
    starts = [UNEVEN[i] / 1000 for i in clips.chosen(40, 7, "first")]
    assert [span[0] for span in clip.spans] == pytest.approx(starts)
    assert [span[1] for span in clip.spans[:-1]] == pytest.approx(starts[1:])


def test_every_n_seconds_goes_by_the_time_of_frames_not_their_number() -> None:
    content = clips.clip_bytes(40, tick=Fraction(1, 1000), times=UNEVEN)
    clip = read_clip(content, clips.spec(9, choice="seconds", take="first", every=0.5))
    shown = np.array(UNEVEN) / 1000
    inside = [np.flatnonzero(np.floor(shown / 0.5) == n) for n in range(6)]
    # Where none is new, the one that is still on the screen.
    seen = [i[0] if len(i) else np.flatnonzero(shown < n * 0.5)[-1] for n, i in enumerate(inside)]
    expected = sorted(set(map(int, seen)))
    assert clips.numbers_of(clip.pixels) == expected
    assert clip.times == pytest.approx(shown[expected])
    assert [s[1] for s in clip.spans[:-1]] == [s[0] for s in clip.spans[1:]]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_rotation_and_mirroring_are_undone(degrees: int, mirrored: bool) -> None:
    # The player turns the stored frame counter-clockwise by -degrees, then mirrors it.
    upright = [clips.painted(i) for i in range(10)]
    stored = [np.rot90(f[:, ::-1] if mirrored else f, degrees // 90) for f in upright]
    shown = read_clip(
        clips.clip_bytes(
            [np.ascontiguousarray(f) for f in stored], turn=(-degrees, mirrored, False)
        ),
        clips.spec(3),
    )
    assert clips.numbers_of(shown.pixels) == clips.chosen(10, 3)
    assert shown.frame_size == clips.SIZE
    assert shown.pixels.shape[1:3] == clips.SIZE


@pytest.mark.parametrize(
    ("orientation", "corner"), [(1, (0, 0)), (3, (1, 1)), (6, (0, 1)), (8, (1, 0))]
)
@pytest.mark.parametrize("container", ["mov", "avi", "matroska"])
def test_frames_that_say_themselves_how_they_are_turned(
    container: str, orientation: int, corner: tuple[int, int]
) -> None:
    """Motion JPEG of cameras: EXIF beside every frame, of a kind that PyAV has no name for."""
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :32] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    jpeg, content = io.BytesIO(), io.BytesIO()
    Image.fromarray(picture).save(jpeg, "JPEG", exif=exif)
    with av.open(content, "w", format=container) as out:
        stream = out.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuvj420p"
        for at in range(3):
            packet = av.Packet(jpeg.getvalue())
            packet.pts = packet.dts = at
            packet.time_base, packet.stream = Fraction(1, 10), stream
            packet.is_keyframe = True
            out.mux(packet)
    frame = read_clip(content.getvalue(), clips.spec(2)).pixels[0].mean(-1)
    height, width = frame.shape[0] // 2, frame.shape[1] // 2
    means = frame.reshape(2, height, 2, width).mean((1, 3))
    assert np.unravel_index(int(means.argmax()), (2, 2)) == corner
    assert np.sort(means.ravel())[2] < 20


def test_a_transparent_clip_lies_over_white() -> None:
    content = io.BytesIO()
    with av.open(content, "w", format="mov") as out:
        stream = out.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "rgba"
        for alpha in (0, 128, 255):
            pixels = np.full((32, 32, 4), (10, 10, 10, alpha), np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        out.mux(stream.encode())
    found = read_clip(content.getvalue(), clips.spec(3)).pixels.mean((1, 2, 3))
    np.testing.assert_allclose(found, [255, 132, 10], atol=2)


def test_a_frame_that_stays_on_the_screen_is_read() -> None:
    """A recording of a screen: nothing moves from 0.9 to 5 seconds."""
    times = np.array([*np.arange(10) / 10, 5.0, 5.1])
    found = choose_frames(times, clips.spec(9, choice="seconds", every=1.0), "clip.mp4")
    assert [tuple(choice) for choice in found] == [(4, 0, 9), (9, 9, 10), (11, 10, 12)]


def test_a_rotation_written_by_hand_into_the_track_header() -> None:
    # (a, b, u, c, d, v, x, y, w) of a telephone held upright: x' = -y, y' = x.
    content = bytearray(
        clips.clip_bytes([np.ascontiguousarray(np.rot90(clips.painted(i))) for i in range(5)])
    )
    at = content.index(b"tkhd") + 4 + 40  # version 0: 40 bytes before the matrix
    one = 1 << 16
    matrix = np.array([0, one, 0, -one, 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    content[at : at + 36] = matrix
    assert clips.numbers_of(read_clip(bytes(content), clips.spec(5)).pixels) == [0, 1, 2, 3, 4]


def cut_first(content: bytes, frames: int) -> bytes:
    """Let the edit list begin so many frames (of 512 ticks, 40 ms) later."""
    edited = bytearray(content)
    at = content.index(b"elst") + 4 + 4 + 4  # version and flags; number of entries
    duration, start = np.frombuffer(content, ">i4", 2, at)
    edited[at : at + 8] = np.array([duration - 40 * frames, start + 512 * frames], ">i4").tobytes()
    return bytes(edited)


@pytest.mark.parametrize("seek_from", [1, 10**6])
@pytest.mark.parametrize("b_frames", [0, 3])
def test_frames_that_an_edit_list_cuts_do_not_count(
    b_frames: int, seek_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_reader, "_SEEK_FROM", seek_from)
    content = cut_first(clips.clip_bytes(40, b_frames=b_frames), 5)  # in the middle of a group
    clip = read_clip(content, clips.spec(7))
    assert clips.numbers_of(clip.pixels) == [i + 5 for i in clips.chosen(35, 7)]
    assert clip.times == pytest.approx([i / 25 for i in clips.chosen(35, 7)])
    assert clip.duration == pytest.approx(1.4)


def test_pixels_that_are_not_square_are_made_so() -> None:
    clip = read_clip(clips.clip_bytes(5, aspect=Fraction(4, 3)), clips.spec(5))
    assert clip.pixels.shape == (5, 64, 128, 3)
    assert clip.frame_size == (64, 128)
    assert clip.notes == ("pixels of 4/3 to 1 made square",)
    assert clips.numbers_of(clip.pixels) == [0, 1, 2, 3, 4]


def test_large_frames_are_kept_smaller_and_their_size_is_told() -> None:
    frames = [clips.painted(i, (360, 1280)) for i in range(3)]
    for source in (clips.clip_bytes(frames, codec="mpeg4"), np.stack(frames)):
        clip = read_clip(source, clips.spec(3))
        assert clip.pixels.shape == (3, 180, 640, 3)
        assert clip.frame_size == (360, 1280)
        assert clips.numbers_of(clip.pixels) == [0, 1, 2]


def test_colours_survive() -> None:
    red, green = np.zeros((2, 64, 96, 3), np.uint8)
    red[..., 0], green[..., 1] = 220, 200
    clip = read_clip(clips.clip_bytes([red, green]), clips.spec(2))
    np.testing.assert_allclose(clip.pixels[:, 32, 48], [[220, 0, 0], [0, 200, 0]], atol=8)


def test_an_array_is_taken_at_25_frames_per_second_and_says_so() -> None:
    frames = np.stack([clips.painted(i) for i in range(10)])
    clip = read_clip(frames, clips.spec(4, take="first"))
    assert clips.numbers_of(clip.pixels) == [0, 3, 6, 8]
    assert clip.times == pytest.approx((0, 0.12, 0.24, 0.32))
    assert clip.duration == pytest.approx(0.4)
    assert "25 frames per second" in clip.notes[0]
    assert clip.digest != read_clip(frames[::-1], clips.spec(4)).digest


def test_only_the_first_frames_and_the_whole_duration() -> None:
    clip = read_clip(clips.clip_bytes(40), clips.spec(4, first_frames=20))
    assert clips.numbers_of(clip.pixels) == clips.chosen(20, 4)
    assert clip.spans[-1][1] == pytest.approx(20 / 25)
    assert clip.duration == pytest.approx(40 / 25)


def test_rules_of_choice() -> None:
    times = np.arange(10) / 10

    def choose(frames: int, **settings: object) -> list[Choice]:
        return choose_frames(times, clips.spec(frames, **settings), "clip.mp4")

    assert choose(3) == [(2, 0, 4), (5, 4, 7), (8, 7, 10)]
    assert choose(20) == [(i, i, i + 1) for i in range(10)]
    assert choose(9, choice="seconds", every=0.4) == [(2, 0, 4), (6, 4, 8), (9, 8, 10)]
    # More intervals than frames are wanted: equal parts instead.
    assert choose(2, choice="seconds", every=0.1) == choose(2)
    assert choose(10, choice="all") == [(i, i, i + 1) for i in range(10)]
    assert choose(5, choice="all", first_frames=5) == [(i, i, i + 1) for i in range(5)]
    with pytest.raises(MediaError, match=r"10 frames.*at most 9.*chunks or seconds"):
        choose(9, choice="all")


def test_one_frame_is_a_clip() -> None:
    clip = read_clip(clips.clip_bytes(1), clips.spec(7))
    assert clips.numbers_of(clip.pixels) == [0]
    assert clip.times == (0.0,)
    assert clip.spans[0] == pytest.approx((0.0, 0.04))


def test_paths_bytes_and_digests_agree(tmp_path: Path) -> None:
    content = clips.clip_bytes(8)
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    spec = clips.spec(4)
    by_path, by_bytes = read_clip(path, spec), read_clip(content, spec, name="sent")
    assert by_path.digest == by_bytes.digest
    assert (by_path.name, by_bytes.name) == (str(path), "sent")
    assert np.array_equal(by_path.pixels, by_bytes.pixels)
    assert isinstance(read_media(str(path), spec), Clip)


def test_two_threads_read_at_once() -> None:
    content = clips.clip_bytes(40, b_frames=3)
    found: list[list[int]] = []

    def work() -> None:
        for _ in range(5):
            found.append(clips.numbers_of(read_clip(content, clips.spec()).pixels))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [clips.chosen(40, 7)] * 20


@pytest.mark.data
def test_real_clips(shared_data: Path) -> None:
    files = sorted((shared_data / "msvd" / "clips").glob("*.avi"))
    assert len(files) == 7
    for path in files:
        clip = read_clip(path, clips.spec(26, first_frames=240))
        assert clip.notes == ()
        assert len(clip.pixels) == 26
        assert max(clip.pixels.shape[1:3]) <= 640
        begin, end = map(int, path.stem.rsplit("_", 2)[1:])  # the name ends in its seconds
        assert clip.duration == pytest.approx(end - begin, abs=0.1)
        assert all(a < b for a, b in zip(clip.times, clip.times[1:], strict=False))


@pytest.mark.data
def test_a_real_clip_of_the_paper_s_length_takes_a_fraction_of_a_second(shared_data: Path) -> None:
    path = shared_data / "msvd" / "clips" / "778mkceE0UQ_40_46.avi"  # 360 frames of 640×480
    began = time.process_time()
    read_clip(path, clips.spec(26))
    assert time.process_time() - began < 2
