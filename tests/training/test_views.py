"""Views of training pictures."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from regard.config import DataConfig, EncoderConfig, Recipe
from regard.errors import ConfigError
from regard.training.inputs import check_views, crop, draw_views, is_mirrored, views_of
from regard.types import Media
from tests.helpers import toys


def picture(digest: str = "a") -> Media:
    """Return a picture each of whose pixels says where it is."""
    rows, cols = np.mgrid[:80, :120]
    return Media("image", np.stack([rows, cols, rows * 0], -1).astype(np.uint8), "x", digest)


def test_names() -> None:
    assert views_of(DataConfig()) == ["plain"]
    assert views_of(DataConfig(flip=True)) == ["plain", "flip"]
    assert views_of(DataConfig(crops=2)) == ["plain", "crop1", "crop2"]
    four = ["plain", "flip", "crop1", "crop2-flip", "crop3"]
    assert views_of(DataConfig(flip=True, crops=3)) == four
    assert [is_mirrored(view) for view in four] == [False, True, False, True, False]


def test_all_views_are_drawn_alike_and_again() -> None:
    config = DataConfig(flip=True, crops=2)
    drawn = draw_views(config, 4000, torch.Generator().manual_seed(3))
    assert drawn == draw_views(config, 4000, torch.Generator().manual_seed(3))
    counts = Counter(drawn)
    assert set(counts) == set(views_of(config))
    assert all(900 < count < 1100 for count in counts.values())


@pytest.mark.parametrize("view", ["plain", "flip"])
def test_whole_views_are_the_picture(view: str) -> None:
    media = picture()
    assert crop(media, view) is media


def test_a_part_is_a_rectangle_of_the_picture() -> None:
    for k in range(50):
        part = crop(picture(), f"crop{k + 1}").pixels
        height, width = part.shape[:2]
        assert 60 <= height <= 80
        assert 90 <= width <= 120
        top, left = int(part[0, 0, 0]), int(part[0, 0, 1])
        assert np.array_equal(part, picture().pixels[top : top + height, left : left + width])


def test_a_part_depends_on_the_picture_and_the_view_alone() -> None:
    one = crop(picture("a"), "crop1").pixels
    assert np.array_equal(one, crop(picture("a"), "crop1").pixels)
    others = (crop(picture("b"), "crop1").pixels, crop(picture("a"), "crop2").pixels)
    assert all(one.shape != x.shape or not np.array_equal(one, x) for x in others)


def test_a_part_of_one_pixel_is_that_pixel() -> None:
    media = Media("image", np.full((1, 1, 3), 7, np.uint8), "x", "a")
    assert crop(media, "crop1").pixels.tolist() == [[[7, 7, 7]]]


def test_clips_are_not_cut() -> None:
    with pytest.raises(ConfigError, match="only pictures can be cropped"):
        check_views(Recipe(encoder=EncoderConfig(medium="video"), data=DataConfig(crops=1)))


def test_a_model_trained_on_parts_of_pictures_captions_clips() -> None:
    model = toys.captioner()
    recipe = replace(model.config, data=replace(model.config.data, crops=2))
    model = model.with_components(config=recipe)
    clips = model.for_clips()
    assert clips.medium == "video"
    assert clips.config.data.crops == 2
