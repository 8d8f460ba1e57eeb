"""The page, the comparison and the animation of an explanation."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regard.errors import ConfigError
from regard.explain import compare_sheet, save_animation
from regard.explain.maps import as_picture
from regard.explain.outputs import OutputOptions, write_explanation
from regard.explain.page import Explanation, explanation_page
from regard.faithfulness.occlusion import Occlusion
from tests.helpers import filmed, scans, toys
from tests.helpers.pages import Parsed


def occlusion(words: int = 3) -> Occlusion:
    falls = np.random.default_rng(0).normal(0, 1, (words, 2, 3))
    return Occlusion(falls, np.array([0.5, np.nan, -0.25][:words]), "mean")


def test_the_page_is_one_file_that_says_what_was_measured() -> None:
    page = explanation_page([Explanation(toys.caption(), occlusion())])
    assert "http:" not in page
    assert "https:" not in page
    assert page.startswith("<!doctype html>")
    assert "What mattered was measured" in page
    assert page.count("<tbody>") == 1
    assert "<td>+0.50</td>" in page
    plain = explanation_page([Explanation(toys.caption())]).split("<body>")[1]
    text = re.sub(r"<(style|script)>.*?</\1>", "", plain, flags=re.DOTALL).lower()
    assert [claim for claim in ("mattered", "because", "why") if claim in text] == []


def test_two_models_stand_side_by_side() -> None:
    other = replace(toys.caption(("a", "cat"), chosen=(0, 4)), model="hard <model>")
    page = explanation_page([Explanation(toys.caption()), Explanation(other)])
    assert page.count("class='regard'") == 2
    assert "hard &lt;model&gt;" in page
    with pytest.raises(ConfigError, match="No caption"):
        explanation_page([])


def test_the_numbers_hold_the_occlusion() -> None:
    record = json.loads(json.dumps(Explanation(toys.caption(), occlusion()).to_json()))
    assert record["occlusion"]["cover"] == "mean"
    assert np.shape(record["occlusion"]["falls"]) == (3, 6)
    assert record["occlusion"]["correlation"] == [0.5, None, -0.25]
    assert "occlusion" not in Explanation(toys.caption()).to_json()


def test_a_caption_without_words_has_no_falls() -> None:
    wordless = toys.caption((), alpha=np.zeros((0, 6)))
    record = Explanation(wordless, occlusion(0)).to_json()
    assert record["occlusion"]["falls"] == []
    assert record["occlusion"]["correlation"] == []


def test_rows_share_one_scale_and_words_stand_in_columns() -> None:
    sharp = np.eye(6)[[0, 1]]
    flat = np.full((3, 6), 1 / 6)
    captions = [
        toys.caption(("a", "dog"), alpha=sharp),
        replace(toys.caption(alpha=flat, chosen=(1, 2, 3)), model="other"),
    ]
    figure = compare_sheet(captions, smooth=False)
    pictures = [axis for axis in figure.axes if axis.get_label() != ""]
    assert len(pictures) == 2 + 1 + 3 + 1 + 1  # two rows with their pictures, and the colour bar
    maps = [np.asarray(axis.images[0].get_array()) for axis in pictures]
    # The flat row's maps look alike, and unlike the sharp one's.
    assert np.array_equal(maps[4], maps[5])
    assert not np.array_equal(maps[1], maps[4])
    assert sum(len(axis.patches) for axis in pictures) == 3  # the chosen cells
    with pytest.raises(ConfigError, match="two or more"):
        compare_sheet(captions[:1])
    with pytest.raises(ConfigError, match="caption the file again"):
        compare_sheet([captions[0], captions[1].without_pixels()])


@pytest.mark.parametrize("suffix", ["webp", "gif"])
def test_the_animation_shows_the_picture_and_then_every_word(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "deep" / f"a.{suffix}"
    save_animation(toys.caption(chosen=(0, 4, 5)), path)
    with Image.open(path) as animation:
        assert animation.n_frames == 4
        assert animation.info["loop"] == 0
        frames = []
        for i in range(4):
            animation.seek(i)
            frames.append(np.asarray(animation.convert("RGB"), np.int16))
    assert all(np.abs(frames[0] - frame).max() > 30 for frame in frames[1:])


def test_an_animation_needs_a_fitting_name_and_a_picture(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.webp or \.gif"):
        save_animation(toys.caption(), tmp_path / "a.mp4")
    with pytest.raises(ConfigError, match="caption the file again"):
        save_animation(toys.caption().without_pixels(), tmp_path / "a.gif")


def test_a_long_word_fits_below_a_narrow_picture(tmp_path: Path) -> None:
    grid = toys.Grid(("rows", "cols"), (2, 3), (400, 40), ((0.0, 400.0), (0.0, 40.0)))
    save_animation(toys.caption(("a" * 60,), grid=grid), tmp_path / "n.webp")
    with Image.open(tmp_path / "n.webp") as animation:
        assert animation.width == 45


@pytest.mark.parametrize("rows", [0, 2])
def test_a_clip_plays_at_every_word_on_one_scale(tmp_path: Path, rows: int) -> None:
    clip = filmed.clip((120,) * 14)
    grid = filmed.spatial(clip, rows, rows, 20) if rows else filmed.temporal(clip, 20)
    alpha = np.zeros((2, grid.cells))
    alpha[0, : grid.real_cells] = 1 / grid.real_cells
    cells = grid.real_cells // 14
    alpha[1, 9 * cells : 10 * cells] = 1 / cells
    path = tmp_path / "a.webp"
    save_animation(filmed.caption(("flat", "late"), alpha=alpha, clip=clip, grid=grid), path)
    spreads: list[int] = []
    middles: list[np.ndarray] = []
    with Image.open(path) as animation:
        assert animation.n_frames > 20  # frames that look alike are shown as one
        for at in range(animation.n_frames):
            animation.seek(at)
            drawn = np.asarray(animation.convert("RGB"))[:200].astype(int)
            spreads.append(int(np.ptp(drawn, axis=(0, 1)).max()))
            middles.append(drawn[100, 160])
    assert max(spreads) < 8  # no word looks at a part of a frame
    unlike = [float(np.abs(m - middles[0]).max()) for m in middles]
    assert sum(u > 40 for u in unlike) == 1  # one frame of one word, and no flat one


def test_rows_of_different_pixels_are_each_drawn_on_their_own() -> None:
    """Two models may read other frames of one clip."""
    few, many = filmed.clip((30, 60)), filmed.clip((90, 120, 150, 180))
    captions = [as_picture(filmed.caption(("a",), clip=clip)) for clip in (few, many)]
    figure = compare_sheet(captions)
    plain = [np.asarray(axis.images[0].get_array()) for axis in figure.axes
             if axis.get_label().endswith(" 0")]  # fmt: skip
    assert [int(picture[0, 0, 0]) for picture in plain] == [30, 90]


def test_a_caption_without_words_is_explained_with_its_grids(tmp_path: Path) -> None:
    captioner = toys.captioner()
    said = captioner.caption(toys.picture(), beam=1)
    trace = replace(said.trace, alpha=said.trace.alpha[:0])
    wordless = replace(said, text="", words=(), trace=trace)
    wanted = OutputOptions(occlusion=False, grids=True)
    write_explanation(captioner, wordless, tmp_path / "a", wanted)
    assert np.load(tmp_path / "a.npy").shape == (0, *said.grid.shape)
    assert {path.suffix for path in tmp_path.iterdir()} == {*wanted.suffixes("image")}


@pytest.mark.parametrize("medium", ["image", "video", "volume"])
def test_maps_are_smoothed_at_first_or_raw_as_is_asked(medium: str) -> None:
    clip = filmed.clip((40, 90, 200))
    alpha = np.random.default_rng(0).dirichlet(np.ones(12), 1)
    said = {
        "image": lambda: toys.caption(),
        "video": lambda: filmed.caption(("dog",), alpha=alpha, clip=clip,
                                        grid=filmed.spatial(clip, 2, 2, 3)),
        "volume": lambda: scans.scan_caption(scans.scan(), scans.grid_of(scans.scan()), {"a": 7}),
    }[medium]()  # fmt: skip
    tops: list[str] = []
    for smooth in (True, False):
        text = explanation_page([Explanation(said)], smooth=smooth)
        page = Parsed(text)
        (box,) = [i for i in page.all("input") if i.get("class") == "smooth"]
        assert ("checked" in box) == smooth
        tops.append(text.rpartition("<span class='top'>")[2].partition("<")[0])
    assert medium != "volume" or tops[0] != tops[1]  # one cell of a scan is smoothed away
