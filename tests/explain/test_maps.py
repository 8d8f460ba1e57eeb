"""Maps: one absolute scale, and cells where they lie on the picture."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from regard.errors import ConfigError
from regard.explain.maps import (
    SCALE_LEAST,
    absolute_scale,
    paint,
    relative_map,
    sigma_cells,
    smoothing,
    upsample,
)
from regard.media import cell_at, cell_bounds, preprocess, read_image
from regard.media.preprocess import PreprocessingSpec, covered_extent
from regard.media.reader import image_grid
from regard.types import Grid


def grid_of(shape: tuple[int, int], size: tuple[int, int], resize: str = "squash") -> Grid:
    spec = PreprocessingSpec(8, resize, "bilinear", (0.0,) * 3, (1.0,) * 3)
    return Grid(("rows", "cols"), shape, size, covered_extent(size, spec))


def test_relative_map_is_in_multiples_of_uniform() -> None:
    alpha = np.array([[0.5, 0.25], [0.25, 0.0]])
    np.testing.assert_array_equal(relative_map(alpha), [[2.0, 1.0], [1.0, 0.0]])


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 15),
    cols=st.integers(1, 15),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    smooth=st.booleans(),
    resize=st.sampled_from(["squash", "crop", "pad"]),
)
def test_a_flat_map_is_one_everywhere(
    rows: int, cols: int, size: tuple[int, int], smooth: bool, resize: str
) -> None:
    alpha = np.full((rows, cols), 1 / (rows * cols))
    drawn = upsample(alpha, grid_of((rows, cols), size, resize), size, smooth=smooth)
    assert drawn.shape == size
    covered = drawn[~np.isnan(drawn)]
    np.testing.assert_allclose(covered, 1.0, atol=1e-5)
    assert resize == "crop" or covered.size == drawn.size


@pytest.mark.parametrize("smooth", [False, True])
def test_a_flat_map_is_painted_flat_and_dim(smooth: bool) -> None:
    grid = grid_of((7, 7), (30, 40))
    alpha = np.full((1, 49), 1 / 49)
    top = absolute_scale(alpha, grid, smooth=smooth)
    assert top == SCALE_LEAST
    drawn = upsample(alpha.reshape(7, 7), grid, (30, 40), smooth=smooth)
    painted = paint(np.full((30, 40, 3), 90, np.uint8), drawn, top)
    assert (painted == painted[0, 0]).all()
    brightest = paint(np.full((30, 40, 3), 90, np.uint8), np.full((30, 40), top), top)
    assert painted[0, 0].mean() < brightest[0, 0].mean()


def test_raw_cells_keep_their_values_and_places() -> None:
    alpha = np.array([[0.1, 0.2, 0.3], [0.4, 0.0, 0.0]])
    drawn = upsample(alpha, grid_of((2, 3), (4, 6)), (4, 6), smooth=False)
    np.testing.assert_allclose(drawn, np.kron(alpha * 6, np.ones((2, 2))), rtol=1e-6)


def test_a_centre_crop_leaves_what_it_cut_off_without_a_value() -> None:
    alpha = np.array([[0.4, 0.3], [0.2, 0.1]])
    drawn = upsample(alpha, grid_of((2, 2), (4, 8), "crop"), (4, 8), smooth=False)
    assert np.isnan(drawn[:, :2]).all()
    assert np.isnan(drawn[:, 6:]).all()
    np.testing.assert_allclose(drawn[:, 2:6], np.kron(alpha * 4, np.ones((2, 2))), rtol=1e-6)


def test_padding_puts_only_the_middle_cells_on_the_picture() -> None:
    alpha = np.arange(16.0).reshape(4, 4) / 120
    drawn = upsample(alpha, grid_of((4, 4), (4, 8), "pad"), (4, 8), smooth=False)
    np.testing.assert_allclose(drawn, np.kron(alpha[1:3] * 16, np.ones((2, 2))), rtol=1e-6)


@pytest.mark.parametrize(("row", "col"), [(0, 0), (3, 5), (6, 6)])
def test_the_smoothed_peak_stays_in_its_cell(row: int, col: int) -> None:
    alpha = np.zeros((7, 7))
    alpha[row, col] = 1
    drawn = upsample(alpha, grid_of((7, 7), (70, 140)), (70, 140))
    y, x = np.unravel_index(drawn.argmax(), drawn.shape)
    assert (y // 10, x // 20) == (row, col)
    assert drawn.max() < 49


def test_smoothing_is_the_papers_on_its_grid() -> None:
    assert sigma_cells(14) == pytest.approx(1.25)  # 20 pixels of 16 a cell
    kernel = smoothing(14)
    assert kernel.shape == (224, 14)
    np.testing.assert_allclose(kernel.sum(1), 1)
    middle = kernel[:, 7]
    centre = (np.arange(224) + 0.5) / 16 - 7.5
    # A hat of width 1 (variance 1/6) followed by the Gaussian, in cells.
    spread = np.sqrt((middle * centre**2).sum() / middle.sum())
    assert spread == pytest.approx(np.sqrt(1.25**2 + 1 / 6), rel=0.01)


@pytest.mark.parametrize("cells", [1, 2, 3, 7, 14])
def test_smoothing_neither_loses_nor_makes_attention(cells: int) -> None:
    kernel = smoothing(cells)
    np.testing.assert_allclose(kernel.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(kernel.sum(0) / 16, 1, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    alpha=st.lists(st.floats(0, 1), min_size=49, max_size=49).filter(lambda a: sum(a) > 0.1),
    size=st.tuples(st.integers(120, 400), st.integers(120, 400)),
)
def test_upsampling_conserves_mass_to_a_hundredth(
    alpha: list[float], size: tuple[int, int]
) -> None:
    weights = np.array(alpha).reshape(7, 7) / sum(alpha)
    for smooth in (True, False):
        drawn = upsample(weights, grid_of((7, 7), size), size, smooth=smooth)
        assert drawn.mean() == pytest.approx(1, abs=0.01 if smooth else 0.06)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(60, 200), st.integers(60, 200)),
    place=st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95)),
    resize=st.sampled_from(["squash", "crop", "pad"]),
    turn=st.sampled_from([1, 3, 6, 8]),
    smooth=st.booleans(),
)
def test_a_planted_target_is_found_on_the_original_picture(
    size: tuple[int, int], place: tuple[float, float], resize: str, turn: int, smooth: bool
) -> None:
    """A bright spot, through the file, its EXIF turn and the preprocessing, to the map's peak.

    The "encoder" is the brightness of the input's cells, so attention lies where the spot is.
    """
    height, width = size
    row, col = int(place[0] * height), int(place[1] * width)
    picture = np.zeros((height, width, 3), np.uint8)
    reach = max(2, min(size) // 12)
    picture[max(0, row - reach) : row + reach, max(0, col - reach) : col + reach] = 255
    # As a camera stores it: turned, with a tag that says how to turn it back.
    stored = Image.fromarray(picture)
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90,
            8: Image.Transpose.ROTATE_270}.get(turn)  # fmt: skip
    stored = stored if back is None else stored.transpose(back)
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = turn
    stored.save(buffer, "PNG", exif=exif)
    media = read_image(buffer.getvalue())
    spec = PreprocessingSpec(56, resize, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    brightness = preprocess(media, spec)[0].reshape(7, 8, 7, 8).mean((1, 3))
    grid = image_grid(media.size, spec, (7, 7))
    if cell_at(grid, (row, col)) is None:
        return  # the crop cut the spot off
    drawn = upsample(brightness / brightness.sum(), grid, media.size, smooth=smooth)
    y, x = np.unravel_index(np.nanargmax(drawn), drawn.shape)
    (top, bottom), (left, right) = cell_bounds(grid, 0)
    assert media.size == size
    assert abs(y - row) <= (bottom - top) + reach
    assert abs(x - col) <= (right - left) + reach


def test_the_scale_is_one_for_the_caption_and_follows_what_is_drawn() -> None:
    grid = grid_of((2, 2), (8, 8))
    alpha = np.array([[0.25, 0.25, 0.25, 0.25], [0.85, 0.05, 0.05, 0.05]])
    assert absolute_scale(alpha, grid) == pytest.approx(3.4)
    smoothed = absolute_scale(alpha, grid, smooth=True)
    assert smoothed == pytest.approx(
        upsample(alpha[1].reshape(2, 2), grid, (32, 32)).max(), abs=1e-5
    )
    assert absolute_scale(alpha[:0], grid) == SCALE_LEAST


def test_values_above_the_scale_look_like_its_top() -> None:
    grey = np.full((1, 2, 3), 100, np.uint8)
    painted = paint(grey, np.array([[3.0, 5.0]]), 3.0)
    np.testing.assert_array_equal(painted[0, 0], painted[0, 1])


def test_what_no_cell_covers_is_faded_not_coloured() -> None:
    painted = paint(np.full((1, 1, 3), 100, np.uint8), np.array([[np.nan]]), 2.0)
    red, green, blue = painted[0, 0].tolist()
    assert red == green == blue > 150


def test_a_clips_grid_is_refused() -> None:
    grid = Grid(("frames", "rows", "cols"), (2, 2, 2), (2, 8, 8), ((0, 2), (0, 8), (0, 8)))
    with pytest.raises(ConfigError, match="frames × rows × cols"):
        upsample(np.full((2, 2, 2), 1 / 8), grid, (8, 8))
    with pytest.raises(ConfigError, match="rows × cols"):
        absolute_scale(np.full((1, 8), 1 / 8), grid)
