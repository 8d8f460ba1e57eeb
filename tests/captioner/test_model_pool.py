"""Every file goes to a model of its medium."""

from pathlib import Path

import numpy as np
import pytest

from regard.captioner import Captioner, Failure
from regard.config import VideoConfig
from regard.errors import ConfigError
from regard.media import medium_of
from regard.model_pool import ModelPool
from regard.types import Caption
from tests.helpers import toys
from tests.helpers.toy_media import clip


@pytest.mark.parametrize(
    ("name", "content", "medium"),
    [
        ("a.jpg", b"", "image"),
        ("a.MP4", b"", "video"),
        ("a.nii.gz", b"", "volume"),
        ("a.nii", b"", "volume"),
        ("a.dcm", b"", "volume"),
        ("nothing", b"\0" * 128 + b"DICM", "volume"),
        ("nothing", b"\0" * 344 + b"n+1\0", "volume"),
        ("nothing", b"\0\0\0\x20ftypisom", "video"),
        ("nothing", b"\0\0\0\x20ftypavif", "image"),
        ("nothing", b"RIFF\0\0\0\0AVI LIST", "video"),
        ("nothing", b"RIFF\0\0\0\0WEBPVP8 ", "image"),
        ("nothing", b"\x1a\x45\xdf\xa3", "video"),
        ("nothing", b"", "image"),
    ],
)
def test_the_medium_is_known_by_name_or_by_the_first_bytes(
    tmp_path: Path, name: str, content: bytes, medium: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert medium_of(str(tmp_path / name)) == medium


def test_a_folder_is_a_volume_and_a_missing_file_a_picture(tmp_path: Path) -> None:
    assert medium_of(str(tmp_path)) == "volume"
    assert medium_of(str(tmp_path / "missing")) == "image"


def test_files_keep_their_order_and_a_wrong_medium_fails_alone(tmp_path: Path) -> None:
    toys.captioner().save(tmp_path / "model")
    (tmp_path / "a.jpg").write_bytes(toys.jpeg())
    (tmp_path / "b.nii.gz").write_bytes(b"")
    (tmp_path / "c.jpg").write_bytes(toys.jpeg(1))
    files = [str(tmp_path / name) for name in ("a.jpg", "b.nii.gz", "c.jpg")]
    pool = ModelPool(str(tmp_path / "model"))
    found = list(pool.caption_many(files, beam=1))
    assert [type(one) for one in found] == [Caption, Failure, Caption]
    assert [one.file for one in found] == files
    assert isinstance(found[1], Failure)
    assert "captions pictures" in str(found[1].error)
    assert files[1] in str(found[1].error)
    assert pool.captioner("image") is pool.captioner("image")


def test_covering_a_clip_is_less_work_than_covering_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys.captioner().save(tmp_path / "model")
    readings: list[int] = []
    monkeypatch.setattr(
        Captioner, "accelerated", lambda _, pictures, cores: readings.append(pictures)
    )
    for medium in ("image", "video"):
        for covered in (False, True):
            ModelPool(str(tmp_path / "model"), files=4, covered=covered).captioner(medium)
    assert readings == [4, 200, 4, 12]


@pytest.fixture(scope="module")
def model() -> Captioner:
    return toys.captioner()


def test_a_model_of_pictures_captions_clips(model: Captioner) -> None:
    """Its attention runs over frames × cells; padding of a short clip gets none."""
    clips = model.for_clips(VideoConfig(frames=5, grid="spatio_temporal"))
    assert (model.medium, clips.medium) == ("image", "video")
    caption = clips.caption(clip(3), beam=2, min_length=2)
    assert caption.medium == "video"
    assert caption.grid.axes == ("frames", "rows", "cols")
    alpha = caption.trace.alpha
    assert alpha.shape[1] == 5 * 4
    np.testing.assert_allclose(alpha.sum(1), 1, atol=1e-5)
    assert (alpha[:, 3 * 4 :] == 0).all()
    record = caption.to_json()
    assert record["grid"]["spans"] == [[0.0, 0.5], [0.5, 1.0], [1.0, 1.5]]
    tight = model.for_clips(VideoConfig(frames=3, grid="spatio_temporal"))
    again = tight.caption(clip(3), beam=2, min_length=2)
    assert again.text == caption.text
    np.testing.assert_allclose(again.trace.alpha, alpha[:, : 3 * 4], atol=1e-5)


def test_a_clip_of_one_frame_is_captioned_as_its_picture(model: Captioner) -> None:
    one = clip(1)
    wanted = model.caption(one.pixels[0], beam=3, min_length=2)
    found = model.for_clips(VideoConfig(frames=4, grid="spatio_temporal")).caption(
        one, beam=3, min_length=2
    )
    assert found.text == wanted.text
    np.testing.assert_allclose(found.trace.alpha[:, :4], wanted.trace.alpha, atol=1e-5)


def test_batches_of_clips_equal_one_by_one(model: Captioner) -> None:
    clips = model.for_clips(VideoConfig(frames=4))
    media = [clip(n, seed=n) for n in (4, 2, 3)]
    together = clips.caption(media, beam=3, min_length=2)
    for one, found in zip(media, together, strict=True):
        alone = clips.caption(one, beam=3, min_length=2)
        assert alone.text == found.text
        np.testing.assert_allclose(alone.trace.alpha, found.trace.alpha, atol=1e-5)


def test_clips_need_a_model_that_can(model: Captioner) -> None:
    clips = model.for_clips()
    with pytest.raises(ConfigError, match="captions clips already"):
        clips.for_clips()
    placed = toys.captioner(position="learned")
    with pytest.raises(ConfigError, match="position code"):
        placed.for_clips()


def test_what_was_read_as_another_medium_is_refused(model: Captioner) -> None:
    failure = next(iter(model.caption_many([clip(2)])))
    assert isinstance(failure, Failure)
    assert "read as a clip" in str(failure.error)


def test_what_knows_pictures_only_says_so(model: Captioner) -> None:
    from regard.audit.mistakes import audit
    from regard.data import CaptionDataset

    clips = model.for_clips()
    with pytest.raises(ConfigError, match="audit is of pictures"):
        audit(clips, CaptionDataset((), "none"))
