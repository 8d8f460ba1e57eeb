"""The film in a page: every frame of the clip, upright, at the clip's own seconds."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from regard.errors import MediaError
from regard.explain.clip.player import encode_film
from regard.media.video.video_reader import read_clip
from regard.types import Clip
from tests.helpers.clips import clip_bytes, number_of, painted, spec

av = pytest.importorskip("av")


def read(folder: Path, data: bytes, name: str = "clip.mp4") -> Clip:
    (folder / name).write_bytes(data)
    return read_clip(folder / name, spec())


def shown(data: bytes) -> tuple[list[int], list[float]]:
    """The numbers of a film's frames and the seconds at which they are shown."""
    with av.open(io.BytesIO(data)) as film:
        frames = list(film.decode(video=0))
    return [number_of(f.to_ndarray(format="rgb24")) for f in frames], [f.time for f in frames]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"b_frames": 2, "rate": 30},
        {"times": [10, 11, 14, 30, 31, 40, 70, 71, 90, 100], "tick": Fraction(1, 20)},
        {"frames": [np.rot90(painted(i)).copy() for i in range(10)], "turn": (-90, False, False)},
        {"container": "avi", "codec": "mpeg4", "b_frames": 0},
        {"container": "webm", "codec": "libvpx-vp9", "rate": 10},
    ],
    ids=["plain", "b-frames", "variable rate", "turned", "avi", "webm"],
)
def test_every_frame_at_its_second(tmp_path: Path, settings: dict) -> None:
    clip = read(tmp_path, clip_bytes(**({"frames": 10} | settings)))
    film = encode_film(clip)
    numbers, times = shown(film.data)
    assert film.kind == "video/mp4"
    assert numbers == list(range(10))
    assert times[0] == 0
    for frame, time in zip(map(number_of, clip.pixels), clip.times, strict=True):
        assert times[frame] == pytest.approx(time, abs=1e-4)


def test_large_frames_become_small_and_even(tmp_path: Path) -> None:
    frames = [np.full((725, 401, 3), shade, np.uint8) for shade in (50, 60)]
    clip = read(tmp_path, clip_bytes(frames, codec="mpeg4", container="mov"))
    with av.open(io.BytesIO(encode_film(clip).data)) as film:
        stream = film.streams.video[0]
        assert (stream.height, stream.width) == (360, 200)
        assert not film.streams.audio


def test_limits_and_changed_files_are_named(tmp_path: Path) -> None:
    clip = read(tmp_path, clip_bytes(50))
    with pytest.raises(MediaError, match="lasts 2 s, but a page holds at most 1 s"):
        encode_film(clip, max_seconds=1)
    with pytest.raises(MediaError, match="takes more than 0.002 MB"):
        encode_film(clip, max_bytes=2000)
    (tmp_path / "clip.mp4").write_bytes(clip_bytes(49))
    with pytest.raises(MediaError, match="no longer exists, or has changed"):
        encode_film(clip)
    with pytest.raises(MediaError, match="no longer exists, or has changed"):
        encode_film(read_clip(clip_bytes(5), spec()))  # bytes have no file
