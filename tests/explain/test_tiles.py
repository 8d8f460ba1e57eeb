"""Clips and scans as one picture of tiles: every weight stays on what it was looked at with."""

from dataclasses import replace

import numpy as np
import pytest

from regard.explain.maps import as_picture, tiled
from regard.media import cell_bounds
from regard.media.preprocess import PreprocessingSpec
from regard.media.reader import clip_grid, scan_grid
from regard.types import AttentionTrace, Caption, Grid, Media, Word
from tests.helpers.toy_media import clip, scan

SPEC = PreprocessingSpec(32, "squash", "bilinear", (0.0,) * 3, (1.0,) * 3)


def said(media: Media, grid: Grid, cell: int) -> Caption:
    """A caption of one word that looked at one cell."""
    alpha = np.zeros((1, grid.cells), np.float32)
    alpha[0, cell] = 1
    word = Word("dog", -0.5, alpha[0].reshape(grid.shape), location=cell)
    trace = AttentionTrace(alpha, None, np.array([cell]), "hard", "argmax", grid)
    return Caption("dog", (word,), -0.5, True, trace, media.name, media.medium, "toy", 0.1,
                   media=media)  # fmt: skip


@pytest.mark.parametrize("count", [1, 4, 5, 12, 26])
@pytest.mark.parametrize("shape", [(30,), (30, 2, 3)], ids=["temporal", "spatio-temporal"])
def test_a_frames_weight_lies_on_that_frame(count: int, shape: tuple[int, ...]) -> None:
    media = clip(count)
    marked = count - 1
    pixels = np.zeros_like(media.pixels)
    pixels[marked] = 255
    media = replace(media, pixels=pixels)
    grid = clip_grid(media, SPEC, shape)
    per_frame = grid.cells // shape[0]
    shown = as_picture(said(media, grid, marked * per_frame))
    assert shown.grid.cells == grid.real_cells == count * per_frame  # no padding is drawn
    (top, bottom), (left, right) = cell_bounds(shown.grid, int(shown.words[0].alpha.argmax()))
    assert shown.pixels is not None
    under = shown.pixels[round(top) : round(bottom), round(left) : round(right)]
    assert under.mean() > 250
    assert shown.words[0].location == shown.words[0].alpha.argmax()
    assert shown.trace.location is not None
    assert shown.trace.location[0] == shown.words[0].location


def test_a_voxels_weight_lies_on_that_voxel_as_radiologists_draw_it() -> None:
    media = scan((4, 8, 8), (1.0, 1.0, 1.0))
    pixels = np.full((4, 8, 8), -5, np.float32)
    pixels[2, 6:8, 0:2] = 5  # the third slice, anterior, left
    media = replace(media, pixels=pixels)
    grid = scan_grid(media, ((0, 4), (0, 8), (0, 8)), (4, 4, 4))
    shown = as_picture(said(media, grid, int(np.ravel_multi_index((2, 3, 0), grid.shape))))
    (top, bottom), (left, right) = cell_bounds(shown.grid, int(shown.words[0].alpha.argmax()))
    assert shown.pixels is not None
    under = shown.pixels[round(top) : round(bottom), round(left) : round(right)]
    assert under.mean() > 200
    assert shown.pixels.mean() < 30
    picture, cells, order = tiled(media, grid)
    assert picture.medium == "image"
    assert sorted(order) == list(range(grid.cells))
    tile = cells.shape[0] // 2  # two rows of two tiles
    assert np.unravel_index(int(order.reshape(cells.shape)[tile, 3]), grid.shape) == (2, 3, 0)


def test_padding_around_a_scan_is_left_out_and_uniform_is_over_what_is_left() -> None:
    media = scan((4, 8, 8), (1.0, 1.0, 1.0))
    pixels = np.full((4, 8, 8), -5, np.float32)
    pixels[3, 0:2, 6:8] = 5  # the last slice, posterior, right
    media = replace(media, pixels=pixels)
    grid = scan_grid(media, ((-2, 6), (-4, 12), (0, 8)), (4, 4, 4))  # half of 64 cells lie outside
    assert grid.real_cells == 16
    shown = as_picture(said(media, grid, int(np.ravel_multi_index((2, 1, 3), grid.shape))))
    assert shown.grid.cells == grid.real_cells
    (top, bottom), (left, right) = cell_bounds(shown.grid, int(shown.words[0].alpha.argmax()))
    assert shown.pixels is not None
    under = shown.pixels[round(top) : round(bottom), round(left) : round(right)]
    assert under.max() > 200
    shown.pixels[round(top) : round(bottom), round(left) : round(right)] = 0
    assert shown.pixels.mean() < 10


def test_pictures_and_captions_without_their_source_stay_as_they_are() -> None:
    media = clip(3)
    caption = said(media, clip_grid(media, SPEC, (3,)), 0)
    light = caption.without_pixels()
    assert as_picture(light) is light
    picture = as_picture(caption)
    assert as_picture(picture) is picture
