"""Three planes through what a word looked at: orientation, proportions, words, colours."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from regard.errors import ConfigError
from regard.explain import draw
from regard.explain.scan.montage import montage
from regard.explain.scan.volume_maps import (
    along,
    ends,
    mixed,
    oblique_degrees,
    peak_of,
    scan_scale,
    three_planes,
)
from regard.media import cell_centre, places_of, world_of
from regard.types import Caption, Grid
from tests.helpers import scans

BRIGHT = (10.5, -7.0, 12.5)  # the patient's right, behind, above


def caption(degrees: float = 0.0, *, margin: float = 0.0, chosen: bool = False) -> Caption:
    scan = scans.scan(scans.image(scans.TURNS[21], degrees=degrees))
    grid = scans.grid_of(scan, margin=margin)
    cell = scans.cell_of(grid, scans.rotation(degrees) @ BRIGHT)
    looked: dict[str, int | None] = {"a": 7, "lesion": cell}
    if not chosen:
        looked["here"] = None
    return scans.scan_caption(scan, grid, looked, chosen=chosen)


def texts(figure: Figure) -> str:
    found = [text.get_text() for text in figure.texts]
    found += [text.get_text() for axis in figure.axes for text in axis.texts]
    return " ".join(" ".join(found).split())  # lines are broken where they end


def panel(figure: Figure, name: str):
    return next(axis for axis in figure.axes if axis.get_label() == name)


@pytest.mark.parametrize("turn", scans.TURNS)
def test_the_patients_right_is_on_the_viewers_left(
    turn: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    """A bright voxel at the patient's right, behind and above shows there, however stored."""
    scan = scans.scan(scans.image(turn))
    grid = scans.grid_of(scan)
    assert ends(scan) == (("I", "S"), ("P", "A"), ("L", "R"))
    down, back, across = (places_of(grid, np.eye(4)) @ (*BRIGHT, 1))[:3]
    axial, coronal, sagittal = three_planes(scan, grid, (down, back, across))
    shares = {"right": 0.5 - 10.5 / 30, "behind": 0.5 + 7 / 32, "above": 0.5 - 12.5 / 36}
    expected = [
        (axial, (shares["behind"], shares["right"])),
        (coronal, (shares["above"], shares["right"])),
        (sagittal, (shares["above"], shares["behind"])),
    ]
    for plane, place in expected:
        shades = plane.picture[..., 0].astype(float)
        y, x = np.nonzero(shades == shades.max())
        found = (y.mean() + 0.5) / shades.shape[0], (x.mean() + 0.5) / shades.shape[1]
        np.testing.assert_allclose(found, place, atol=0.04)  # less than half a voxel
        at = plane.point[0] / plane.size[0], plane.point[1] / plane.size[1]
        np.testing.assert_allclose(at, place, atol=1e-6)
    assert [plane.edges for plane, _ in expected] == [
        ("R", "L", "A", "P"), ("R", "L", "S", "I"), ("A", "P", "S", "I")
    ]  # fmt: skip


def test_millimetres_are_as_long_along_every_axis() -> None:
    figure = montage(caption())
    width, height = figure.get_size_inches()
    scales = []
    for name, (high, wide) in {
        "axial": (32, 30),
        "coronal": (36, 30),
        "sagittal": (36, 32),
    }.items():
        for group in range(4):
            box = panel(figure, f"{group} {name}").get_position()
            scales += [box.height * height / high, box.width * width / wide]
    np.testing.assert_allclose(scales, scales[0], rtol=1e-6)


def test_it_says_where_and_how_surely_in_the_world() -> None:
    said = caption(20)
    grid = said.grid
    cell = int(said.words[1].alpha.argmax())
    world = world_of(grid, cell_centre(grid, cell))
    here = f"({', '.join(str(round(x)) for x in world)}) mm ± 3 × 4 × 3".replace("-", "−")
    told = texts(montage(said))
    assert here in told
    assert "flat: no cell stands out" in told  # "here" looked everywhere alike
    for part in ("Not for clinical use.", "Radiological convention", "turned by up to",
                 "6×4×5 cells", "Gaussian σ", "mm", "multiples of uniform"):  # fmt: skip
        assert part in told
    assert "turned by" not in texts(montage(caption()))
    assert "raw" in texts(montage(said, smooth=False))


def test_a_peak_of_the_montage_is_that_of_the_map() -> None:
    said = caption(10)
    found = peak_of(said.words[1], said.grid)
    assert found is not None
    assert scans.cell_of(said.grid, found.world) == found.cell
    np.testing.assert_allclose(found.world, scans.rotation(10) @ BRIGHT, atol=4.5)
    assert peak_of(said.words[2], said.grid) is None
    assert oblique_degrees(scans.scan(scans.image(degrees=10))) == pytest.approx(8.9, abs=1.2)


def test_names_of_files_stay_out() -> None:
    said = replace(caption(), file="/data/Mustermann_Max.nii.gz")
    assert "Mustermann" not in texts(montage(said))


def test_notices_of_the_caption_are_on_the_figure() -> None:
    said = replace(caption(), notices=("Unlike the scans it was trained on.",))
    told = texts(montage(said))
    assert "Not for clinical use. Unlike the scans it was trained on." in told


def test_what_no_cell_covers_is_faded_and_a_flat_map_is_one_value() -> None:
    said = caption(margin=-4.0)
    shown = np.asarray(panel(montage(said), "3 axial").images[0].get_array()).astype(int)
    alone = np.asarray(panel(montage(said), "0 axial").images[0].get_array()).astype(int)
    assert (shown[0] > alone[0] + 50).all()  # the edge is faded to white
    assert "faded: not seen by the encoder" in texts(montage(said))
    places = [np.linspace(0, size, 23) for size in said.grid.source_size]
    for smooth in (True, False):
        first, second, third = (along(said.grid, i, at, smooth=smooth)
                                for i, at in enumerate(places))  # fmt: skip
        values = mixed(said.words[2].alpha, (first, second, third), said.grid.real_cells)
        np.testing.assert_allclose(values[~np.isnan(values)], 1, rtol=1e-5)
        assert np.isnan(values).any()


@pytest.mark.parametrize("smooth", [True, False])
def test_no_drawn_value_is_beyond_the_scale(smooth: bool) -> None:
    said = caption()
    top = scan_scale(said.trace.alpha, said.grid, smooth=smooth)
    places = [np.linspace(0, size * (1 - 1e-9), 61) for size in said.grid.source_size]
    first, second, third = (along(said.grid, i, at, smooth=smooth) for i, at in enumerate(places))
    drawn = max(
        np.nanmax(mixed(word.alpha, (first, second, third), said.grid.real_cells))
        for word in said.words
    )
    assert 0.98 * top <= drawn <= 1.002 * top


def test_hard_attention_frames_its_cell_in_every_plane() -> None:
    figure = montage(caption(chosen=True))
    for name in ("axial", "coronal", "sagittal"):
        frames = [p for p in panel(figure, f"2 {name}").patches if isinstance(p, Rectangle)]
        assert len(frames) == 1
        point = panel(figure, f"2 {name}").lines[0].get_ydata()[0]
        assert frames[0].get_y() < point < frames[0].get_y() + frames[0].get_height()


def test_content_words_come_first_where_few_are_drawn() -> None:
    said = caption()
    told = texts(montage(said, most=1))
    assert "2 words not drawn" in told
    titles = [text.get_text() for text in montage(said, most=1).figure.texts]
    assert "lesion" in titles
    assert "here" not in titles


@pytest.mark.parametrize("count", [0, 1, 7, 20])
def test_any_number_of_words_finds_its_place(count: int) -> None:
    scan = scans.scan()
    grid = scans.grid_of(scan)
    said = scans.scan_caption(scan, grid, {f"word{i}": i for i in range(count)})
    boxes = [axis.get_position() for axis in montage(said).axes if axis.get_label() != "colour bar"]
    assert len(boxes) == 3 * (count + 1)
    for i, one in enumerate(boxes):
        assert min(one.x0, one.y0, 1 - one.x1, 1 - one.y1) > 0
        assert not any(one.overlaps(other) for other in boxes[i + 1 :])


def test_draw_and_figure_make_a_montage_and_refuse_nonsense() -> None:
    said = caption()
    assert "Radiological" in texts(draw(said))
    assert "Radiological" in texts(said.figure(smooth=False))
    with pytest.raises(ConfigError, match="holds no scan"):
        montage(said.without_pixels())
    with pytest.raises(ConfigError, match="at least 8 inches"):
        montage(said, width=3)


def test_a_peak_on_padding_is_drawn_at_the_border() -> None:
    scan = scans.scan()
    grid: Grid = scans.grid_of(scan, margin=20.0)
    said = scans.scan_caption(scan, grid, {"corner": 0})
    cross = panel(montage(said), "1 axial").lines[0]
    assert 0 <= cross.get_ydata()[0] <= 32
    assert ", on padding" in texts(montage(said))
    assert ", on padding" not in texts(montage(caption()))
