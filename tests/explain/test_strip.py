"""The film strip and words × seconds: right frame, right second, one scale, no padding."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from regard.errors import ConfigError
from regard.explain import draw, film_strip, words_by_seconds
from regard.explain.clip.clip_maps import frame_weights, peak_frame, shown_frames
from regard.types import Caption, Clip
from tests.helpers import filmed

UNEVEN = ((0.0, 0.5), (0.5, 1.0), (1.0, 4.0), (4.0, 4.2), (4.2, 9.0))


def axes_of(figure: Figure, name: str) -> Axes:
    (axis,) = [axis for axis in figure.axes if axis.get_label() == name]
    return axis


def bars(figure: Figure, t: int) -> dict[int, float]:
    """Heights of a word's bars by frame."""
    return {
        int(patch.get_gid().removeprefix("bar ")): patch.get_height()
        for patch in axes_of(figure, f"word {t}").patches
        if isinstance(patch, Rectangle) and (patch.get_gid() or "").startswith("bar")
    }


def outlined(figure: Figure, t: int) -> list[int]:
    """The columns of a word's row that are outlined."""
    axis = axes_of(figure, f"word {t}")
    lefts = [image.get_extent()[0] for image in axis.images]
    frames = [patch for patch in axis.patches if patch.get_gid() == "frame"]
    return [int(np.argmin(np.abs(np.array(lefts) - frame.get_x()))) for frame in frames]


def pixels(figure: Figure, t: int) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for image in axes_of(figure, f"word {t}").images]


def heat(figure: Figure, t: int) -> tuple[list[tuple[float, float]], np.ndarray]:
    """Seconds and colours of a word's row in words × seconds."""
    axis = axes_of(figure, "words by seconds")
    (row,) = [c for c in axis.collections if c.get_gid() == f"word {t}"]
    spans = [(p.vertices[:, 0].min(), p.vertices[:, 0].max()) for p in row.get_paths()]
    return spans, np.asarray(row.get_facecolor())[:, :3]


def texts(figure: Figure) -> str:
    found = [text.get_text() for text in figure.texts]
    return " ".join(found + [text.get_text() for axis in figure.axes for text in axis.texts])


def planted(clip: Clip, frames: tuple[int, ...], *, padded: int = 0, rows: int = 0) -> Caption:
    """A caption whose words look at one frame each with 0.6, elsewhere evenly."""
    grid = filmed.temporal(clip, padded)
    if rows:
        grid = filmed.spatial(clip, rows, rows, padded)
    count, cells = len(clip.spans), grid.real_cells // len(clip.spans)
    alpha = np.zeros((len(frames), grid.shape[0], cells))
    alpha[:, :count] = 0.4 / (count - 1) / cells
    alpha[np.arange(len(frames)), frames] = 0.6 / cells
    words = tuple(f"word{t}" for t in range(len(frames)))
    return filmed.caption(words, alpha=alpha.reshape(len(frames), -1), clip=clip, grid=grid)


@pytest.mark.parametrize("rows", [0, 2])
def test_planted_attention_shows_on_its_frame_and_at_its_second(rows: int) -> None:
    clip = filmed.clip(spans=UNEVEN)
    caption = planted(clip, (3, 0, 4), padded=8, rows=rows)
    figure = film_strip(caption)
    for t, frame in enumerate((3, 0, 4)):
        heights = bars(figure, t)
        assert sorted(heights) == [0, 1, 2, 3, 4]
        assert max(heights, key=heights.__getitem__) == frame
        assert heights[frame] / heights[(frame + 1) % 5] == pytest.approx(0.6 / 0.1)
        assert outlined(figure, t) == [frame]
        assert f"most at {clip.times[frame]:.1f} s: 3.0×" in texts(figure)
        spans, colours = heat(figure, t)
        np.testing.assert_allclose(spans, UNEVEN)
        others = np.delete(colours, frame, axis=0)
        assert (others == others[0]).all()
        assert np.abs(colours[frame] - others[0]).max() > 0.2
    dots = [line.get_xdata()[0] for line in axes_of(figure, "words by seconds").lines]
    np.testing.assert_allclose(dots, [clip.times[f] for f in (3, 0, 4)])


def test_the_map_lies_on_the_cell_of_its_frame() -> None:
    clip = filmed.clip((120,) * 4)
    grid = filmed.spatial(clip)
    alpha = np.full((1, 16), 0.01)
    alpha[0, 2 * 4 + 1] = 0.85  # frame 2, upper right
    drawn = pixels(film_strip(filmed.caption(("dog",), alpha=alpha, clip=clip, grid=grid),
                              smooth=False), 0)  # fmt: skip
    for frame, picture in enumerate(drawn):
        height, width = picture.shape[:2]
        quarters = [picture[height * r // 4, width * c // 4] for r in (1, 3) for c in (1, 3)]
        unlike = [int(np.abs(q.astype(int) - quarters[2]).max()) > 30 for q in quarters]
        assert unlike == [False, frame == 2, False, False]


@pytest.mark.parametrize("rows", [0, 2])
@pytest.mark.parametrize("smooth", [True, False])
def test_flat_attention_looks_flat(rows: int, smooth: bool) -> None:
    clip = filmed.clip((120,) * 5, spans=UNEVEN)
    grid = filmed.spatial(clip, rows, rows, 9) if rows else filmed.temporal(clip, 9)
    alpha = np.zeros((1, grid.cells))
    alpha[:, : grid.real_cells] = 1 / grid.real_cells
    figure = film_strip(filmed.caption(("a",), alpha=alpha, clip=clip, grid=grid), smooth=smooth)
    drawn = np.stack(pixels(figure, 0))
    assert (drawn == drawn[0, 0, 0]).all()
    assert len(set(np.round(list(bars(figure, 0).values()), 6))) == 1
    colours = heat(figure, 0)[1]
    assert (colours == colours[0]).all()
    assert outlined(figure, 0) == []  # no moment stands out, and none is made to
    assert "all frames alike" in texts(figure)


def test_one_scale_serves_all_words() -> None:
    clip = filmed.clip((120,) * 4)
    alpha = np.array([[0.85, 0.05, 0.05, 0.05], [0.25] * 4])
    both = film_strip(filmed.caption(("sharp", "flat"), alpha=alpha, clip=clip))
    alone = film_strip(filmed.caption(("flat",), alpha=alpha[1:], clip=clip))
    assert bars(both, 0)[0] / bars(both, 1)[0] == pytest.approx(0.85 / 0.25)
    assert bars(alone, 0)[0] > bars(both, 1)[0]
    assert (heat(both, 1)[1] != heat(alone, 0)[1]).any()
    (bar,) = [axis for axis in both.axes if axis.get_label() == "colour bar"]
    assert bar.get_xlim()[1] == pytest.approx(3.4)


def test_padding_is_never_drawn_and_never_counted() -> None:
    clip = filmed.clip((40, 200))
    for rows in (0, 3):
        caption = planted(clip, (1,), padded=26, rows=rows)
        figure = film_strip(caption)
        assert len(axes_of(figure, "clip").images) == 2
        assert len(pixels(figure, 0)) == 2
        np.testing.assert_allclose(frame_weights(caption), [[0.8, 1.2]], rtol=1e-6)
        assert "1 = 1/2 of the attention" in texts(figure)


def test_of_many_frames_some_are_shown_and_the_peak_always() -> None:
    clip = filmed.clip(tuple(range(10, 114, 4)))
    figure = film_strip(planted(clip, (0, 7, 25)))
    for t, frame in enumerate((0, 7, 25)):
        assert len(pixels(figure, t)) == 12
        assert sorted(bars(figure, t)) == list(range(26))
        assert len(outlined(figure, t)) == 1
        assert f"{clip.times[frame]:.1f} s" in [
            text.get_text() for text in axes_of(figure, f"word {t}").texts
        ]
    assert "12 of 26 frames shown in a row, bars of all" in texts(figure)
    assert len(axes_of(figure, "clip").images) == 12


@pytest.mark.parametrize("count", [1, 5, 12, 13, 26, 1000])
def test_shown_frames_are_spread_evenly(count: int) -> None:
    for peak in (None, 0, count - 1, count // 3):
        shown = shown_frames(count, 12, peak)
        assert len(shown) == min(12, count)
        assert shown == sorted(set(shown))
        assert peak is None or peak in shown
        assert max(np.diff(shown), default=0) <= 3 * count / 12


def test_a_ripple_is_no_peak() -> None:
    assert peak_frame(np.array([1.04, 0.98, 0.98])) is None
    assert peak_frame(np.array([0.9, 1.2, 0.9])) == 1


def test_hard_attention_frames_the_chosen_frame() -> None:
    clip = filmed.clip()
    figure = film_strip(filmed.caption(clip=clip, chosen=(4, 0, 2)))
    for t, frame in enumerate((4, 0, 2)):
        red = [p for p in axes_of(figure, f"word {t}").patches if p.get_gid() == "frame"
               and p.get_edgecolor()[:3] == (1.0, 77 / 255, 77 / 255)]  # fmt: skip
        assert len(red) == 1
        assert frame in outlined(figure, t)
    assert "red: the chosen frame" in texts(figure)


def test_it_says_how_it_was_drawn_and_never_claims_a_reason() -> None:
    clip = replace(filmed.clip(spans=UNEVEN), duration=12.0)
    said = texts(film_strip(planted(clip, (3,), rows=2)))
    for part in ("Where the decoder looked", "soft attention", "5 frames of 2×2 cells", "Gaussian",
                 "not read: after 9.0 s", "clip.mp4", "1 = 1/20 of", "1 = 1/5 of"):  # fmt: skip
        assert part in said
    assert "because" not in said.lower()
    assert "why" not in said.lower()


@pytest.mark.parametrize(
    ("size", "words"), [((10, 400), 6), ((400, 10), 6), ((24, 32), 0), ((24, 32), 20)]
)
def test_strips_of_any_size_keep_everything_on_them(size: tuple[int, int], words: int) -> None:
    clip = filmed.clip(tuple(range(30, 60)), size=size)
    texts_ = ("Rindfleischetikettierungsüberwachung", "$x_1$", "一")
    caption = filmed.caption(tuple(texts_[t % 3] for t in range(words)), clip=clip)
    figure = film_strip(caption)
    figure.draw_without_rendering()
    rows = [axis for axis in figure.axes if axis.get_label().startswith(("word ", "clip"))]
    places = [axis.get_position() for axis in rows]
    assert not any(a.overlaps(b) for i, a in enumerate(places) for b in places[i + 1 :])
    for text in [*figure.texts, *(text for axis in figure.axes for text in axis.texts)]:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1, text.get_text()
        assert box.y0 >= 0


def test_words_by_seconds_needs_no_pixels() -> None:
    caption = planted(filmed.clip(spans=UNEVEN), (2,)).without_pixels()
    np.testing.assert_allclose(heat(words_by_seconds(caption), 0)[0], UNEVEN)
    with pytest.raises(ConfigError, match="caption the file again"):
        film_strip(caption)
    with pytest.raises(ConfigError, match="rows × cols.*need a clip's grid"):
        words_by_seconds(filmed.toys.caption())


@pytest.mark.parametrize("options", [{"width": 7.9}, {"frames": 0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="at least 8 inches and frames at least 1"):
        film_strip(filmed.caption(clip=filmed.clip()), **options)  # type: ignore[arg-type]


def test_a_clips_caption_draws_itself_as_a_film_strip() -> None:
    caption = filmed.caption(clip=filmed.clip())
    for figure in (draw(caption), caption.figure(frames=3)):
        assert [a.get_label() for a in figure.axes][-2:] == ["words by seconds", "colour bar"]


def test_pyplot_is_never_imported(tmp_path: Path) -> None:
    (tmp_path / "caption.pickle").write_bytes(pickle.dumps(filmed.caption(clip=filmed.clip())))
    code = (
        f"import pickle, sys; sys.path[:0] = {sys.path!r}\n"
        "from regard.explain import film_strip, save_figure\n"
        "caption = pickle.loads(open(sys.argv[1] + '/caption.pickle', 'rb').read())\n"
        "save_figure(film_strip(caption), sys.argv[1] + '/strip.png', dpi=40)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
