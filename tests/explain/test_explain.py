"""Maps on one absolute scale, in the right place; pages that load nothing."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import toys
from regard.explain import absolute_scale, caption_html, contact_sheet, save_figure, upsample
from regard.media import PreprocessingSpec, image_grid
from regard.types import AttentionTrace, Caption, Word


def caption(alpha: np.ndarray, resize: str = "squash", location: int | None = None) -> Caption:
    """A hand-made caption of one word per map, (T, rows, cols)."""
    spec = PreprocessingSpec(32, resize, "bilinear", (127.0,) * 3, (128.0,) * 3)
    grid = image_grid((40, 60), spec, alpha.shape[1:])
    words = tuple(Word(f"<w{t}>", -0.5, a, 0.7, location) for t, a in enumerate(alpha))
    flat = alpha.reshape(len(alpha), -1)
    trace = AttentionTrace(flat, None, None, "soft", "expected", grid)
    return Caption(" ".join(w.text for w in words), words, -1.0, True, trace, "a.jpg", "image",
                   "toy", 0.1, pixels=toys.picture())  # fmt: skip


FLAT = np.full((1, 4, 4), 1 / 16, np.float32)
PEAKED = np.zeros((1, 4, 4), np.float32)
PEAKED[0, 1, 2] = 1.0


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_a_flat_map_is_one_everywhere(resize: str, smooth: bool) -> None:
    made = caption(FLAT, resize)
    drawn = upsample(FLAT[0], made.grid, (80, 120), smooth=smooth)
    inside = drawn[np.isfinite(drawn)]
    np.testing.assert_allclose(inside, 1.0, rtol=1e-5)
    assert np.isnan(drawn).any() == (resize == "crop")
    assert absolute_scale(made) == 2.0


@pytest.mark.parametrize("smooth", [True, False])
def test_a_cell_is_drawn_where_it_lies(smooth: bool) -> None:
    drawn = upsample(PEAKED[0], caption(PEAKED).grid, (40, 60), smooth=smooth)
    row, col = np.unravel_index(drawn.argmax(), drawn.shape)
    assert 10 <= row < 20
    assert 30 <= col < 45
    cropped = upsample(PEAKED[0], caption(PEAKED, "crop").grid, (40, 60), smooth=False)
    rows, cols = np.nonzero(np.nan_to_num(cropped) > 1)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (10, 19, 30, 39)


def test_all_words_share_one_scale() -> None:
    both = caption(np.concatenate([FLAT, PEAKED]))
    assert absolute_scale(both) == 16.0


def test_the_sheet_has_the_picture_and_a_panel_for_every_word(tmp_path: Path) -> None:
    made = caption(np.concatenate([FLAT, PEAKED, FLAT]))
    figure = contact_sheet(made)
    assert len([a for a in figure.axes if a.images]) == 4
    titles = [a.get_title() for a in figure.axes]
    assert [t for t in titles if t.startswith("<w")] == ["<w0>", "<w1>", "<w2>"]
    texts = " ".join(t.get_text() for t in figure.texts)
    assert "4×4 cells" in texts
    assert "looked" in texts
    assert not re.search("because|why", texts)
    save_figure(figure, tmp_path / "new" / "a.png")
    assert (tmp_path / "new" / "a.png").stat().st_size > 5000
    assert "matplotlib.pyplot" not in sys.modules


def test_a_flat_map_looks_flat_in_the_figure() -> None:
    grey = replace(caption(FLAT), pixels=np.full((40, 60, 3), 128, np.uint8))
    panel = next(a for a in contact_sheet(grey).axes if a.get_title())
    drawn = np.asarray(panel.images[0].get_array())
    assert drawn.reshape(-1, 3).std(0).max() < 1e-6


def test_hard_attention_frames_its_cell() -> None:
    panel = next(a for a in contact_sheet(caption(PEAKED, location=6)).axes if a.get_title())
    (frame,) = panel.patches
    assert frame.get_x() / 256 == pytest.approx(0.5, abs=0.01)


def test_the_fragment_loads_nothing_and_escapes_words() -> None:
    page = caption_html(caption(PEAKED))
    assert not re.search(r"https?://", page)
    assert "<w0>" not in page
    assert "&lt;w0&gt;" in page
    assert "aria-label" in page
    assert len(page) < 300_000
