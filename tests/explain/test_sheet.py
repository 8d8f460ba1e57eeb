"""The contact sheet: its panels, what it says, and what it leaves alone."""

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from regard.errors import ConfigError
from regard.explain import contact_sheet, save_figure
from regard.media import cell_bounds
from regard.types import Caption, Grid, Media
from tests.helpers import toys

SQUARE = Grid(("rows", "cols"), (2, 2), (40, 40), ((0.0, 40.0), (0.0, 40.0)))


def panels(figure: Figure) -> list:
    return [axis for axis in figure.axes if axis.get_label() != "colour bar"]


def texts(figure: Figure) -> list[str]:
    found = [text.get_text() for text in figure.texts]
    return found + [text.get_text() for axis in figure.axes for text in axis.texts]


def shown(axis) -> np.ndarray:
    return np.asarray(axis.images[0].get_array())


def test_one_panel_for_the_picture_and_one_for_each_word() -> None:
    figure = contact_sheet(toys.caption())
    assert isinstance(figure, Figure)
    assert [axis.texts[0].get_text() for axis in panels(figure)] == ["picture", "a", "dog", "runs"]


@pytest.mark.parametrize("count", [0, 1, 6, 7, 13, 20, 30])
def test_any_number_of_words_finds_its_place(count: int) -> None:
    caption = toys.caption(("word",) * count)
    figure = contact_sheet(caption)
    places = [axis.get_position() for axis in panels(figure)]
    assert len(places) == count + 1
    for i, one in enumerate(places):
        assert one.x0 > 0
        assert one.y0 > 0
        assert one.x1 < 1
        assert one.y1 < 1
        assert not any(one.overlaps(other) for other in places[i + 1 :])


def test_columns_can_be_chosen() -> None:
    figure = contact_sheet(toys.caption(), columns=2)
    lefts = {round(axis.get_position().x0, 6) for axis in panels(figure)}
    assert len(lefts) == 2


def test_a_flat_map_on_a_plain_picture_is_one_colour() -> None:
    caption = toys.caption(("a",), alpha=np.full((1, 4), 0.25), grid=SQUARE)
    caption = replace(
        caption, media=Media("image", np.full((40, 40, 3), 120, np.uint8), "grey", "")
    )
    for smooth in (True, False):
        panel = shown(panels(contact_sheet(caption, smooth=smooth))[1])
        assert (panel == panel[0, 0]).all()


def test_one_scale_serves_all_words() -> None:
    """The same weight looks the same beside a word of sharp and of flat attention."""
    alpha = np.array([[0.85, 0.05, 0.05, 0.05], [0.25] * 4])
    caption = toys.caption(("sharp", "flat"), alpha=alpha, grid=SQUARE)
    caption = replace(
        caption, media=Media("image", np.full((40, 40, 3), 120, np.uint8), "grey", "")
    )
    figure = contact_sheet(caption, smooth=False)
    sharp, flat = (shown(axis) for axis in panels(figure)[1:])
    assert (sharp[0, 0] != flat[0, 0]).any()
    alone = shown(panels(contact_sheet(_first(caption, 1), smooth=False))[1])
    assert (flat[0, 0] != alone[0, 0]).any()
    bar = next(axis for axis in figure.axes if axis.get_label() == "colour bar")
    assert bar.get_xlim()[1] == pytest.approx(3.4)


def _first(caption: Caption, index: int) -> Caption:
    trace = replace(caption.trace, alpha=caption.trace.alpha[index : index + 1])
    return replace(caption, words=caption.words[index : index + 1], trace=trace)


def test_it_says_how_it_was_drawn_and_never_claims_a_reason() -> None:
    said = " ".join(texts(contact_sheet(toys.caption())))
    for part in ("a dog runs", "Where the decoder looked", "soft attention", "2×3 cells",
                 "Gaussian σ 0.50 cells", "1 = uniform", "photo.jpg", "toy",
                 "p 0.61", "β 0.75", "peak"):  # fmt: skip
        assert part in said
    assert "why" not in said.lower()
    assert "because" not in said.lower()
    raw = " ".join(texts(contact_sheet(toys.caption(), smooth=False)))
    assert "2×3 cells, raw" in raw
    assert "Gaussian" not in raw


def test_crops_and_padding_are_named() -> None:
    crop = replace(SQUARE, source_size=(40, 60), extent=((0.0, 40.0), (10.0, 50.0)))
    pad = replace(SQUARE, source_size=(40, 60), extent=((-10.0, 50.0), (0.0, 60.0)))
    assert "not seen by the encoder" in " ".join(texts(contact_sheet(toys.caption(grid=crop))))
    assert "padding not drawn" in " ".join(texts(contact_sheet(toys.caption(grid=pad))))


def test_hard_attention_frames_the_chosen_cell() -> None:
    caption = toys.caption(chosen=(0, 4, 5))
    figure = contact_sheet(caption)
    (top, bottom), (left, right) = cell_bounds(caption.grid, 4)
    axis = panels(figure)[2]
    (frame,) = [patch for patch in axis.patches if isinstance(patch, Rectangle)]
    scale = shown(axis).shape[1] / 60
    assert frame.get_width() == pytest.approx((right - left) * scale)
    assert frame.get_height() == pytest.approx((bottom - top) * scale)
    assert frame.get_xy() == pytest.approx((left * scale - 0.5, top * scale - 0.5))
    assert "hard attention, argmax location" in " ".join(texts(figure))
    assert not any(axis.patches for axis in panels(contact_sheet(toys.caption())))


def test_text_is_never_read_as_a_formula(tmp_path: Path) -> None:
    figure = contact_sheet(toys.caption(("cost", "$x_1$", "a\nb", "$\\frac$")))
    save_figure(figure, tmp_path / "sheet.png")
    assert "$x_1$" in texts(figure)
    assert "a b" in texts(figure)


def test_long_words_and_captions_stay_within_the_sheet(tmp_path: Path) -> None:
    figure = contact_sheet(toys.caption(("Rindfleischetikettierungsüberwachung" * 3, "一") * 7))
    save_figure(figure, tmp_path / "sheet.png", dpi=50)
    for text in figure.texts:
        box = text.get_window_extent()
        assert box.x1 <= figure.bbox.x1, text.get_text()


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1), (1, 1)])
def test_extreme_pictures_make_sheets_of_a_sane_size(tmp_path: Path, size: tuple[int, int]) -> None:
    grid = Grid(("rows", "cols"), (2, 2), size, ((0.0, size[0]), (0.0, size[1])))
    save_figure(contact_sheet(toys.caption(grid=grid)), tmp_path / "new" / "sheet.png", dpi=40)
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.width == 480
        assert sheet.height < 1000


def test_a_caption_without_its_picture_is_refused() -> None:
    with pytest.raises(ConfigError, match="caption the file again"):
        contact_sheet(toys.caption().without_pixels())


@pytest.mark.parametrize("options", [{"width": 7.9}, {"columns": -1}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="at least 8 inches and columns at least 1"):
        contact_sheet(toys.caption(), **options)  # type: ignore[arg-type]


def test_the_footer_of_a_narrow_sheet_stays_on_it() -> None:
    crop = replace(SQUARE, source_size=(40, 60), extent=((0.0, 40.0), (10.0, 50.0)))
    caption = replace(toys.caption(grid=crop, chosen=(0, 1, 2)), file="long-name-" * 20)
    figure = contact_sheet(caption, width=8)
    save = FigureCanvasAgg(figure)
    save.draw()
    for text in figure.texts:
        box = text.get_window_extent()
        assert box.x1 <= figure.bbox.x1
        assert box.y0 >= 0


def test_pyplot_is_never_imported(tmp_path: Path) -> None:
    (tmp_path / "caption.pickle").write_bytes(pickle.dumps(toys.caption()))
    code = (
        f"import pickle, sys; sys.path[:0] = {sys.path!r}\n"
        "from pathlib import Path\n"
        "from regard.explain import contact_sheet, save_figure\n"
        "folder = Path(sys.argv[1])\n"
        "caption = pickle.loads((folder / 'caption.pickle').read_bytes())\n"
        "save_figure(contact_sheet(caption), folder / 'sheet.png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_the_cell_that_a_word_was_named_from_is_dotted() -> None:
    caption = toys.caption()
    words = list(caption.words)
    words[1] = replace(words[1], copy=0.7, copied=0.9, cell=(1, 2))
    words[2] = replace(words[2], copy=0.1, copied=0.2, cell=(0, 0))
    figure = contact_sheet(replace(caption, words=tuple(words)))
    frames = [p for axis in figure.axes for p in axis.patches if isinstance(p, Rectangle)]
    assert [frame.get_linestyle() for frame in frames] == [":"]
    assert "dotted: the cell" in " ".join(texts(figure))
