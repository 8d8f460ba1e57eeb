"""Cells, pixels and the preprocessing between them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.media import PreprocessingSpec, cell_at, cell_bounds, preprocess, read_image
from regard.media.reader import image_grid, real_mask
from regard.types import Grid


def spec(resize: str, size: int = 32) -> PreprocessingSpec:
    return PreprocessingSpec(size, resize, "bilinear", (127.0,) * 3, (128.0,) * 3)


@given(
    st.tuples(st.integers(1, 900), st.integers(1, 900)),
    st.tuples(st.integers(1, 14), st.integers(1, 14)),
    st.sampled_from(["squash", "crop", "pad"]),
    st.data(),
)
def test_cell_to_pixel_to_cell(
    size: tuple[int, int], shape: tuple[int, int], resize: str, data: st.DataObject
) -> None:
    grid = image_grid(size, spec(resize), shape)
    cell = data.draw(st.integers(0, grid.cells - 1))
    centre = tuple((a + b) / 2 for a, b in cell_bounds(grid, cell))
    assert cell_at(grid, centre) == cell


def test_grids_of_the_three_resizes_by_hand() -> None:
    squash, crop, pad = (image_grid((100, 200), spec(r), (2, 2)) for r in ("squash", "crop", "pad"))
    assert cell_bounds(squash, 1) == ((0, 50), (100, 200))
    assert cell_bounds(crop, 1) == ((0, 50), (100, 150))
    assert cell_bounds(pad, 1) == ((-50, 50), (100, 200))
    assert cell_at(crop, (10, 10)) is None
    with pytest.raises(IndexError):
        cell_bounds(squash, 4)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_a_cell_shows_the_pixels_that_the_network_saw_there(resize: str) -> None:
    """One white block in the picture must light up the network's input where the grid says."""
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[32:48, 64:80] = 255
    made = spec(resize)
    grid = image_grid((64, 128), made, (8, 8))
    seen = preprocess(read_image(pixels), made)[0].reshape(8, 4, 8, 4).mean((1, 3))
    cell = cell_at(grid, (40.0, 72.0))
    assert seen.reshape(-1)[cell] == seen.max() > 0


@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1), (33, 47)])
def test_a_padded_picture_lies_where_the_network_got_it(size: tuple[int, int]) -> None:
    """The extent must agree with the whole input pixels that the picture really fills."""
    made = spec("pad")
    seen = preprocess(read_image(np.full((*size, 3), 255, np.uint8)), made)[0] > 0.5
    grid = image_grid(size, made, (32, 32))
    for cell in range(grid.cells):
        centre = tuple((a + b) / 2 for a, b in cell_bounds(grid, cell))
        inside = all(0 <= at < side for at, side in zip(centre, size, strict=True))
        assert inside == seen.reshape(-1)[cell]


def test_cells_tile_the_extent_and_nothing_lies_outside() -> None:
    grid = image_grid((30, 50), spec("squash"), (3, 5))
    for y in range(30):
        for x in range(50):
            assert cell_at(grid, (y + 0.5, x + 0.5)) == y // 10 * 5 + x // 10
    for point in ((-0.1, 5.0), (30.0, 5.0), (5.0, 50.0), (float("nan"), 5.0)):
        assert cell_at(grid, point) is None


def test_the_law_holds_for_any_axes() -> None:
    """Clips and scans have a first axis of their own: here frames, in seconds."""
    spans = ((0, 2), (2, 3), (3, 6), (6, 8))  # need not be equal
    axes, extent = ("frames", "rows", "cols"), ((0, 8), (0, 20), (0, 30))
    grid = Grid(axes, (5, 2, 3), (8, 20, 30), extent, spans, (1, 2.5, 4, 7))
    assert (grid.cells, grid.real_cells) == (30, 24)
    assert cell_bounds(grid, 23) == ((6, 8), (10, 20), (20, 30))
    assert cell_bounds(grid, 6) == ((2, 3), (0, 10), (0, 10))
    assert cell_at(grid, (7.0, 15.0, 25.0)) == 23
    assert cell_at(grid, (8.5, 15.0, 25.0)) is None
    with pytest.raises(IndexError):
        cell_bounds(grid, 24)  # padding lies nowhere


def test_cells_on_the_padding_of_a_scan_are_not_real() -> None:
    axes, size = ("slices", "rows", "cols"), (10.0, 20.0, 3.0)
    extent = ((-5, 15), (0, 20), (-18.5, 21.5))
    grid = Grid(axes, (4, 2, 5), size, extent, affine=((1.0, 0.0, 0.0, 0.0),) * 4)
    assert grid.real_along(0) == (False, True, True, False)
    assert grid.real_along(1) == (True, True)
    # No cell of 8 mm has its middle in 3 mm: the one nearest to the scan's middle stands for it.
    assert grid.real_along(2) == (False, False, True, False, False)
    assert grid.real_cells == real_mask(grid).sum() == 4
    assert real_mask(grid).reshape(grid.shape)[1:3, :, 2].all()
