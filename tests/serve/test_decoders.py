"""Files are decoded in other processes: alike, within limits, and none dies with another."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from regard.errors import MediaError, MediaTooLarge, UnknownMedia
from regard.media import read_image
from regard.media.isolate import MissingReader, describe, read_result, write_message
from regard.media.scan.scan_reader import read_scan
from regard.media.video.video_reader import read_clip
from regard.serve.decoders import Decoders
from regard.serve.requests import RequestError, Upload, status_of
from regard.serve.settings import Settings
from regard.types import Media
from tests.helpers import clips, scan_files, toys

SPEC = toys.captioner().reader.spec


def read(decoders: Decoders, content: bytes, spec: Any = SPEC, **settings: Any) -> Media:
    upload = Upload("a file.jpg", content)
    return asyncio.run(decoders.read(upload, spec, Settings(**settings)))


@pytest.fixture
def own() -> Iterator[Decoders]:
    """Two processes that a test may kill."""
    made = Decoders(2, 4 * 2**30)
    yield made
    made.close()


def assert_same(one: Media, other: Media) -> None:
    assert type(one) is type(other)
    for field in fields(one):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        else:
            assert ours == theirs, field.name


def test_what_comes_back_is_what_was_read_here(decoders: Decoders) -> None:
    name = "a file.jpg"
    assert_same(read(decoders, toys.jpeg()), read_image(toys.jpeg(), name=name))
    clip = clips.clip_bytes(12)
    wanted = read_clip(clip, clips.spec(), name=name)
    assert_same(read(decoders, clip, clips.spec()), wanted)
    assert wanted.times
    scan = scan_files.nifti(scan_files.voxels())
    wanted = read_scan(scan, scan_files.spec(), name=name)
    assert_same(read(decoders, scan, scan_files.spec()), wanted)
    assert wanted.affine.shape == (4, 4)


def test_limits_hold_before_anything_is_decoded(decoders: Decoders) -> None:
    with pytest.raises(MediaTooLarge, match="60×40 pixels"):
        read(decoders, toys.jpeg(), max_pixels=2399)
    assert read(decoders, toys.jpeg(), max_pixels=2400).size == (40, 60)
    clip = clips.clip_bytes(12)
    with pytest.raises(MediaTooLarge, match="more than 11 frames"):
        read(decoders, clip, clips.spec(), max_frames=11)
    assert len(read(decoders, clip, clips.spec(), max_frames=12).pixels) == 7
    with pytest.raises(MediaTooLarge, match="frames of"):
        read(decoders, clip, clips.spec(), max_pixels=100)
    scan = scan_files.nifti(scan_files.voxels((6, 7, 8)))
    with pytest.raises(MediaTooLarge, match="at most 335"):
        read(decoders, scan, scan_files.spec(), max_voxels=335)
    assert read(decoders, scan, scan_files.spec(), max_voxels=336).pixels.size == 336


def test_errors_come_back_as_what_they_are(decoders: Decoders) -> None:
    with pytest.raises(UnknownMedia, match="a file.jpg is not a picture"):
        read(decoders, b"nothing at all")
    with pytest.raises(MediaError, match="is empty"):
        read(decoders, b"")
    assert status_of(MissingReader("nibabel is not installed")) == 415


def working(decoders: Decoders) -> list[int]:
    """Start both processes, stop them as if they worked, and return them."""

    async def both() -> None:
        uploads = [Upload("x", toys.jpeg()) for _ in range(8)]
        await asyncio.gather(*(decoders.read(one, SPEC, Settings()) for one in uploads))

    while len(decoders.processes()) < 2:
        asyncio.run(both())
    for number in decoders.processes():
        os.kill(number, signal.SIGSTOP)
    return decoders.processes()


def test_a_process_that_dies_takes_one_file_along_and_no_other(own: Decoders) -> None:
    first, second = working(own)
    told: list[str] = []
    own._watch = told.append

    async def ask() -> list[Any]:
        uploads = [Upload(f"{i}.jpg", toys.jpeg(i)) for i in range(4)]
        asked = [asyncio.ensure_future(own.read(one, SPEC, Settings())) for one in uploads]
        await asyncio.sleep(0.3)
        os.kill(first, signal.SIGKILL)
        os.kill(second, signal.SIGCONT)
        return await asyncio.gather(*asked, return_exceptions=True)

    got = asyncio.run(ask())
    (failed,) = [one for one in got if isinstance(one, Exception)]
    assert isinstance(failed, RequestError)
    assert failed.status == 500
    for number, one in enumerate(got):
        if one is not failed:
            assert_same(one, read_image(toys.jpeg(number), name=f"{number}.jpg"))
    assert told == ["crashed"]
    assert second in own.processes()
    assert first not in own.processes()


def test_a_process_that_hangs_is_ended_in_time(own: Decoders) -> None:
    working(own)
    told: list[str] = []
    own._watch = told.append
    began = time.monotonic()
    with pytest.raises(RequestError, match="more than 0.3 s") as late:
        read(own, toys.jpeg(), decode_seconds=0.3)
    assert late.value.status == 504
    assert time.monotonic() - began < 15
    assert told == ["late"]
    for number in own.processes():
        os.kill(number, signal.SIGCONT)
    assert read(own, toys.jpeg()).size == (40, 60)


def test_an_idle_process_that_died_is_replaced_and_nobody_notices(own: Decoders) -> None:
    for number in working(own):
        os.kill(number, signal.SIGKILL)
    while own.processes():
        time.sleep(0.01)
    for _ in range(3):
        assert read(own, toys.jpeg()).size == (40, 60)


def test_a_hunger_for_memory_is_one_files(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resource")
    small = Decoders(1, 500 * 2**20)
    try:
        large = scan_files.nifti(np.zeros((2, 2, 2), np.float32))
        head = bytearray(large)
        head[42:48] = np.array([600, 600, 600], "<i2").tobytes()  # 864 MB of float32
        with pytest.raises(MediaTooLarge, match="memory"):
            read(small, bytes(head) + bytes(1000), scan_files.spec(), max_voxels=2**30)
        assert read(small, toys.jpeg()).size == (40, 60)
    finally:
        small.close()


def test_a_process_does_not_learn_the_keys(own: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGARD_API_KEYS", "a:secret")
    read(own, toys.jpeg())
    (number,) = own.processes()
    with open(f"/proc/{number}/environ", "rb") as file:
        assert b"REGARD_API_KEYS" not in file.read()


@pytest.mark.parametrize(
    "change",
    [{"shape": [10**6, 10**6, 3]}, {"shape": [0]}, {"dtype": "object"}, {"shape": [1] * 9}],
)
def test_a_result_that_lies_is_not_believed(change: dict[str, Any]) -> None:
    import io

    stream = io.BytesIO()
    header, pixels = describe(read_image(toys.picture()))
    write_message(stream, header | change, pixels)
    stream.seek(0)
    with pytest.raises((ValueError, TypeError)):
        read_result(stream, 10_000)


def test_ends_leave_no_thread_and_no_process() -> None:
    made = Decoders(1, 0)
    made.warm()
    assert read(made, toys.jpeg()).size == (40, 60)
    (number,) = made.processes()
    before = threading.active_count()
    made.close()
    assert not os.path.exists(f"/proc/{number}")
    assert threading.active_count() < before
