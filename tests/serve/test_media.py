"""Clips and scans go to a model of their medium, and are refused by what their headers say."""

from __future__ import annotations

import gzip
from typing import Any

import numpy as np
import pytest

from regard.errors import ConfigError
from regard.media import medium_of_bytes
from regard.serve import create_app
from tests.helpers import clips, scan_files, toys

PICTURE = ("photo.jpg", toys.jpeg(0), "image/jpeg")
CLIP = ("clip.mp4", clips.clip_bytes(12), "video/mp4")
SCAN = ("scan.nii.gz", gzip.compress(scan_files.nifti(scan_files.voxels())), "application/gzip")


@pytest.fixture
def every(serving: Any, models: Any) -> Any:
    """A service of pictures and scans, with limits of one's own."""
    return lambda **settings: serving(
        captioners={"soft": models["soft"], "scans": toys.volume_captioner()}, **settings
    )


def send(service: Any, *files: tuple[str, bytes, str], path: str = "caption", **data: str) -> Any:
    sent = [("files", one) for one in files]
    return service("POST", f"/v1/{path}", files=sent, data={"min_length": "2"} | data)


def test_each_file_goes_to_a_model_of_its_medium(every: Any) -> None:
    service = every()
    answer = send(service, SCAN, PICTURE, CLIP)
    assert answer.status_code == 200, answer.text
    records = answer.json()["captions"]
    assert [one["medium"] for one in records] == ["volume", "image", "video"]
    assert [one["file"] for one in records] == ["scan.nii.gz", "photo.jpg", "clip.mp4"]
    assert [one["grid"]["axes"][0] for one in records] == ["slices", "rows", "frames"]
    alone = [send(service, one).json()["captions"][0] for one in (SCAN, PICTURE, CLIP)]
    for one, other in zip(records, alone, strict=True):
        assert one["caption"] == other["caption"]
        np.testing.assert_allclose(one["alpha"], other["alpha"], atol=1e-5)
    report = send(service, SCAN, path="explain", occlusion="false")
    assert report.status_code == 200
    assert "not for clinical use" not in report.headers
    listed = service("GET", "/v1/models").json()["models"]
    assert [one["medium"] for one in listed] == ["image", "volume"]


def test_a_model_that_does_not_read_a_file_says_so(every: Any) -> None:
    service = every()
    answer = send(service, SCAN, PICTURE, model="soft")
    failed, good = answer.json()["captions"]
    assert (answer.status_code, good["medium"]) == (200, "image")
    assert "the file is a scan" in failed["error"]
    assert "Name a model for scans" in failed["error"]
    assert send(service, PICTURE, model="scans").status_code == 415
    page = service("POST", "/page/caption", files=[("files", SCAN)])
    assert (page.status_code, "takes pictures" in page.json()["error"]) == (415, True)


@pytest.mark.parametrize(
    ("file", "setting", "enough", "less", "said"),
    [
        (PICTURE, "max_pixels", 2400, 2399, "60×40 pixels"),
        (CLIP, "max_frames", 12, 11, "more than 11 frames"),
        # FFmpeg counts what it allocates, which is more than is shown.
        (CLIP, "max_pixels", 100_000, clips.SIZE[0] * clips.SIZE[1] - 1, "frames of"),
        (SCAN, "max_voxels", 336, 335, "6×7×8 voxels"),
    ],
    ids=["pixels", "frames", "frame size", "voxels"],
)
def test_what_is_too_large_is_refused_by_its_header(
    every: Any, file: tuple[str, bytes, str], setting: str, enough: int, less: int, said: str
) -> None:
    assert send(every(**{setting: enough}), file).status_code == 200
    answer = send(every(**{setting: less}), file)
    assert answer.status_code == 413
    assert said in answer.json()["error"].replace("8×7×6", "6×7×8")


def test_a_service_of_scans_alone(serving: Any) -> None:
    service = serving(captioners={"scans": toys.volume_captioner()})
    assert send(service, SCAN).status_code == 200
    answer = send(service, PICTURE)
    assert (answer.status_code, "the file is a picture" in answer.json()["error"]) == (415, True)
    with pytest.raises(ConfigError, match="no model"):
        create_app({})


@pytest.mark.parametrize(
    ("name", "head", "medium"),
    [
        ("x", CLIP[1][:400], "video"),
        ("x.jpg", CLIP[1][:400], "video"),
        ("x.mp4", PICTURE[1][:400], "image"),
        ("x.nii", PICTURE[1][:400], "image"),
        ("x", scan_files.nifti(scan_files.voxels())[:352], "volume"),
        ("x.nii.gz", SCAN[1][:352], "volume"),
        ("x.DCM", b"", "volume"),
        ("x.ts", b"G@\x00\x10", "video"),
        ("../../etc/passwd", b"root:", "image"),
        ("", b"", "image"),
    ],
)
def test_bytes_say_the_medium_and_then_the_name(name: str, head: bytes, medium: str) -> None:
    assert medium_of_bytes(name, head) == medium
