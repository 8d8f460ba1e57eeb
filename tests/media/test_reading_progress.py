"""Whoever waits for a clip is told how far its reading is."""

from __future__ import annotations

from pathlib import Path

import pytest

from regard.captioner import Failure
from regard.media.video import video_reader
from regard.media.video.video_reader import read_clip
from tests.helpers import toys
from tests.helpers.clips import clip_bytes, spec

pytest.importorskip("av")


def test_every_decoded_frame_is_told() -> None:
    told: list[tuple[int, int]] = []
    read_clip(clip_bytes(20), spec(4), report=lambda *numbers: told.append(numbers))
    assert told == [(n, 20) for n in range(1, 21)]
    told.clear()
    read_clip(clip_bytes(20), spec(4, first_frames=8), report=lambda *n: told.append(n))
    assert told == [(n, 9) for n in range(1, 10)]


def test_seeking_tells_what_it_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_reader, "_SEEK_FROM", 1)
    told: list[tuple[int, int]] = []
    read_clip(clip_bytes(100), spec(4), report=lambda *numbers: told.append(numbers))
    assert told == [(13, 100), (38, 100), (63, 100), (88, 100), (100, 100)]


def test_captioning_names_the_clip_that_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(clip_bytes(6))
    told: list[tuple[str, int, int]] = []
    captioner = toys.captioner().for_clips()
    results = captioner.caption_many(
        [str(tmp_path / "a.mp4")], report=lambda *what: told.append(what), beam=1, max_length=2
    )
    assert not any(isinstance(result, Failure) for result in results)
    assert told == [(str(tmp_path / "a.mp4"), n, 6) for n in range(1, 7)]
