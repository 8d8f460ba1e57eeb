"""Mass and pointing inside a region, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.metrics.pointing import Region, pointing
from regard.text.words import CLASSES, word_class
from regard.types import Grid

GRID = Grid(("rows", "cols"), (2, 2), (100, 200), ((0.0, 100.0), (0.0, 200.0)))
ALPHA = np.array([[0.1, 0.6], [0.1, 0.2]])


def test_by_hand() -> None:
    """The region is the upper right cell and half of the one below it."""
    found = pointing(ALPHA, GRID, Region(((0, 100, 75, 200),)))
    assert found.mass == pytest.approx(0.6 + 0.2 / 2)
    assert found.uniform_mass == pytest.approx(1.5 / 4)
    assert found.hit
    # The middles lie at rows 25 and 75, columns 50 and 150; (75, 150) lies on the box's edge.
    assert found.uniform_hit == pytest.approx(2 / 4)
    assert found.middle_hit  # the middle of the grid belongs to the cell below and right of it


def test_a_mask_is_as_good_as_its_box() -> None:
    mask = np.zeros((100, 200), bool)
    mask[:50, 100:] = True
    boxed = pointing(ALPHA, GRID, Region(((0, 100, 49.99, 200),)))
    assert pointing(ALPHA, GRID, Region(mask=mask)) == boxed
    assert boxed.mass == pytest.approx(0.6)


def test_overlapping_boxes_count_once() -> None:
    twice = Region(((0, 0, 50, 100), (0, 0, 50, 100)))
    assert pointing(ALPHA, GRID, twice).mass == pytest.approx(0.1)


def test_padding_lies_in_no_region() -> None:
    """The grid reaches beyond a picture of 100 by 100 that was padded to 100 by 200."""
    padded = Grid(("rows", "cols"), (1, 2), (100, 100), ((0.0, 100.0), (-50.0, 150.0)))
    found = pointing(np.array([0.3, 0.7]), padded, Region(mask=np.ones((100, 100), bool)))
    assert found.mass == pytest.approx(0.5)


@given(st.integers(0, 3), st.integers(1, 40), st.integers(1, 40))
def test_all_mass_on_a_planted_cell_lies_inside_its_box(cell: int, height: int, width: int) -> None:
    grid = Grid(("rows", "cols"), (2, 2), (height, width), ((0.0, height), (0.0, width)))
    row, column = divmod(cell, 2)
    box = (row * height / 2, column * width / 2, (row + 1) * height / 2, (column + 1) * width / 2)
    alpha = np.eye(4)[cell]
    found = pointing(alpha, grid, Region((box,)))
    assert found.hit
    assert found.mass == pytest.approx(1)
    assert found.uniform_mass == pytest.approx(0.25)


def test_kinds_of_words() -> None:
    words = "a king in a red shirt is riding two horses by a".split()  # noqa: SIM905
    kinds = ["function", "thing", "function", "function", "colour", "thing", "function", "action",
             "number", "thing", "function", "function"]  # fmt: skip
    assert [word_class(word) for word in words] == kinds
    assert set(kinds) == set(CLASSES)
    assert [word_class(w) for w in ("building", "Dancing", "swings")] == [
        "thing",
        "action",
        "thing",
    ]


@pytest.mark.parametrize("scale", [0.5, 1, 3])
def test_a_mask_of_another_size_is_stretched_over_the_picture(scale: float) -> None:
    mask = np.zeros((int(100 * scale), int(200 * scale)), bool)
    mask[: int(50 * scale), int(100 * scale) :] = True
    found = pointing(ALPHA, GRID, Region(mask=mask))
    assert found.mass == pytest.approx(0.6)
    assert found.uniform_mass == found.uniform_hit == 0.25
    assert found.hit
    assert Region(mask=mask).holds((np.nextafter(50, 0), np.nextafter(200, 0)), (100, 200))
    assert not Region(mask=mask).holds((0, 200), (100, 200))
