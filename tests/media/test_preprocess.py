"""Pictures as the network gets them."""

from typing import Any

import numpy as np
import pytest

from regard.errors import ConfigError
from regard.media import PreprocessingSpec, preprocess, read_image
from regard.media.preprocess import covered_extent, spec_digest
from tests.helpers import toys


def spec(**settings: Any) -> PreprocessingSpec:
    usual = {"resize": "squash", "interpolation": "bilinear"}
    numbers = {"size": 32, "mean": (127.0,) * 3, "std": (128.0,) * 3}
    return PreprocessingSpec(**(usual | numbers | settings))


def test_each_channel_is_shifted_and_scaled_by_its_own_numbers() -> None:
    pixels = np.empty((10, 20, 3), np.uint8)
    pixels[:] = (10, 20, 30)
    made = preprocess(read_image(pixels), spec(mean=(10.0, 10.0, 10.0), std=(1.0, 2.0, 4.0)))
    assert made.shape == (3, 32, 32)
    assert made.dtype == np.float32
    assert made.flags.c_contiguous
    for channel, wanted in zip(made, (0.0, 5.0, 5.0), strict=True):
        np.testing.assert_allclose(channel, wanted)


def test_a_picture_of_the_right_size_is_not_resampled() -> None:
    pixels = toys.picture(size=(32, 32))
    for resize in ("squash", "crop", "pad"):
        made = preprocess(read_image(pixels), spec(resize=resize))
        np.testing.assert_allclose(made, ((pixels - 127.0) / 128.0).transpose(2, 0, 1), rtol=1e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_shrinking_averages(interpolation: str) -> None:
    """Without antialiasing a fine chessboard would come out black or white, not grey."""
    board = (np.indices((256, 256)).sum(0) % 2 * 254).astype(np.uint8)
    made = preprocess(read_image(board), spec(interpolation=interpolation))
    assert np.abs(made).max() < 0.05


def test_crop_takes_the_middle() -> None:
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    made = preprocess(read_image(pixels), spec(resize="crop"))
    assert made[:, :, 1:-1].min() == 1.0  # the outermost column blends with its neighbour
    assert covered_extent((20, 60), spec(resize="crop")) == ((0, 20), (20, 40))


def test_padding_is_the_mean_and_so_zero_to_the_network() -> None:
    pixels = np.full((10, 20, 3), 255, np.uint8)
    made = preprocess(read_image(pixels), spec(resize="pad"))
    assert np.all(made[:, :8] == 0)
    assert np.all(made[:, 24:] == 0)
    assert np.all(made[:, 8:24] == 1)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1)])
def test_extreme_shapes(resize: str, size: tuple[int, int]) -> None:
    made = preprocess(read_image(np.full(size, 255, np.uint8)), spec(resize=resize))
    assert made.shape == (3, 32, 32)
    assert made.max() == 1.0


def test_the_digest_tells_specifications_apart_and_outlives_the_process() -> None:
    assert spec_digest(spec()) == spec_digest(spec())
    others = [
        spec(resize="pad"),
        spec(interpolation="bicubic"),
        spec(size=64),
        spec(std=(1.0,) * 3),
    ]
    assert len({spec_digest(s) for s in (spec(), *others)}) == 5
    # Annotation stores on disk are keyed by it: it may not change from version to version.
    assert spec_digest(spec()) == "015563ee442b098bc67ce967c3dc177d82195d3fc54c1a107c913e5adece59dc"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"resize": "stretch"}, "stretch"),
        ({"interpolation": "nearest"}, "nearest"),
        ({"size": 0}, "at least 1"),
        ({"std": (1.0, 0.0, 1.0)}, "above 0"),
        ({"mean": (1.0,)}, "a list of 3 numbers"),
    ],
)
def test_specifications_that_make_no_sense(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        spec(**wrong)
