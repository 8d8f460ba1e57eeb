"""Cells, pixels and the preprocessing between them."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.errors import ConfigError
from regard.media import (
    PreprocessingSpec,
    cell_at,
    cell_bounds,
    find_files,
    image_grid,
    preprocess,
    read_image,
    spec_digest,
)


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


def test_preprocessing_scales_and_pads() -> None:
    grey = read_image(np.full((10, 20, 3), 255, np.uint8))
    assert preprocess(grey, spec("squash")) == pytest.approx(1.0)
    padded = preprocess(grey, spec("pad"))
    assert padded[:, 0].max() == 0
    assert padded[:, 16].min() == 1.0
    assert padded.shape == (3, 32, 32)
    assert padded.dtype == np.float32
    assert spec_digest(spec("pad")) != spec_digest(spec("crop"))
    with pytest.raises(ConfigError, match="stretch"):
        spec("stretch")


def test_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("b.JPG", "a.png", "in/c.webp", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    names = [Path(f).name for f in find_files([str(tmp_path)])]
    assert names == ["a.png", "b.JPG", "c.webp"]
    assert [Path(f).name for f in find_files([f"{tmp_path}/*.txt"])] == ["notes.txt"]
    assert list(find_files(["-"], stdin=io.StringIO("x.jpg\n\ny.jpg\n"))) == ["x.jpg", "y.jpg"]
    assert list(find_files(["gone.jpg", "gone*.jpg"])) == ["gone.jpg", "gone*.jpg"]
