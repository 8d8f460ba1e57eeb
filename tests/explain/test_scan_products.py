"""All that `regard explain` makes of a scan, each on the scan and none with a patient's name."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image, ImageSequence
from typer.testing import CliRunner

from regard.cli.main import app
from regard.explain import caption_html, outputs, save_animation
from regard.explain.maps import as_picture
from regard.explain.outputs import OutputOptions, write_explanation
from regard.media import cell_centre
from tests.helpers import scans

BRIGHT = (10.5, -7.0, 12.5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "volume"
    scans.captioner().save(folder)
    return folder


def test_a_scan_gets_a_montage_an_image_a_page_and_numbers(model: Path, tmp_path: Path) -> None:
    source = scans.image(scans.TURNS[13], degrees=12)
    source.header["descrip"] = "Mustermann^Max"
    source.header["db_name"] = "Mustermann"
    nibabel.save(source, tmp_path / "head.nii.gz")
    out = tmp_path / "out"
    arguments = ["explain", tmp_path / "head.nii.gz", "--out", out, "--model", model, "--beam", 1,
                 "--grids"]  # fmt: skip
    found = CliRunner().invoke(app, [str(a) for a in arguments])
    assert found.exit_code == 0, found.output
    stem = "head"
    suffixes = (".attention.nii.gz", ".html", ".json", ".npy", ".png", ".webp")
    assert sorted(p.name for p in out.iterdir()) == [stem + suffix for suffix in suffixes]
    record = json.loads((out / f"{stem}.json").read_text("utf-8"))
    assert "Not for clinical use." in record["notices"]
    assert "Not for clinical use." in found.stderr
    assert len(record["peaks_mm"]) == len(record["words"])
    assert np.shape(record["occlusion"]["falls"]) == np.shape(record["alpha"])
    image = nibabel.load(out / f"{stem}.attention.nii.gz")
    assert image.shape == (*source.shape, len(record["words"]))
    np.testing.assert_allclose(image.affine, source.affine, atol=1e-5)
    told = json.loads(image.header.extensions[0].get_content())
    assert told["words"] == [word["text"] for word in record["words"]]
    for file in out.iterdir():
        assert b"Mustermann" not in file.read_bytes(), file


def test_many_cells_are_not_covered_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = scans.captioner()
    caption = captioner.caption(scans.image(), beam=1, max_length=2)
    monkeypatch.setattr(outputs, "MOST_COVERED", caption.grid.cells - 1)
    write_explanation(captioner, caption, tmp_path / "a", OutputOptions(animation="none"))
    assert "occlusion" not in json.loads((tmp_path / "a.json").read_text("utf-8"))
    page = (tmp_path / "a.html").read_text("utf-8")
    assert f"What mattered was not measured: covering {caption.grid.cells} cells" in page


def test_the_animation_shows_planes_words_and_the_warning(tmp_path: Path) -> None:
    scan = scans.scan()
    grid = scans.grid_of(scan)
    caption = scans.scan_caption(scan, grid, {"lesion": scans.cell_of(grid, BRIGHT), "all": None})
    plain = replace(caption, notices=())
    for said, path in ((caption, tmp_path / "a.webp"), (plain, tmp_path / "b.webp")):
        save_animation(said, path)
        with Image.open(path) as animation:
            frames = [np.asarray(f.convert("RGB"), int) for f in ImageSequence.Iterator(animation)]
        assert len(frames) == 3
        red = [(frame[..., 0] - frame[..., 1] > 60) for frame in frames]
        assert all(r[-44:].sum() > 100 for r in red)  # the warning stands below every frame
    lesion, flat = frames[1], frames[2]
    # Where it looked is greener than where all cells are alike.
    assert (lesion[..., 1] - lesion[..., 0]).max() > (flat[..., 1] - flat[..., 0]).max() + 40


def test_slices_lie_in_a_picture_as_a_radiologist_sees_them() -> None:
    """The patient's left on the right, anterior above; scan and cells alike."""
    scan = scans.scan()
    grid = scans.grid_of(scan)
    cell = scans.cell_of(grid, BRIGHT)
    middle = cell_centre(grid, cell)
    values = np.zeros_like(scan.pixels)
    slices, rows, cols = (slice(int(mm / step) - 1, int(mm / step) + 2)
                          for mm, step in zip(middle, scan.spacing, strict=True))  # fmt: skip
    values[slices, rows, cols] = 1.0
    scan = replace(scan, pixels=values, window=(0.0, 1.0))
    laid = as_picture(scans.scan_caption(scan, grid, {"lesion": cell}, chosen=True))
    word = laid.words[0]
    assert word.location == word.alpha.argmax()
    assert laid.pixels is not None
    shades = laid.pixels[..., 0]
    y, x = np.argwhere(shades == shades.max()).mean(0)
    row, column = np.unravel_index(int(word.alpha.argmax()), word.alpha.shape)
    (high, wide), (down, across) = laid.pixels.shape[:2], word.alpha.shape
    assert (int(y / high * down), int(x / wide * across)) == (row, column)
    # The patient's right, behind: left of the middle of its tile, below it.
    tiles = down // grid.shape[1], across // grid.shape[2]
    assert (x / wide * tiles[1]) % 1 < 0.5
    assert (y / high * tiles[0]) % 1 > 0.5


def test_a_notebook_shows_raw_cells_and_the_warning() -> None:
    scan = scans.scan()
    html = caption_html(scans.scan_caption(scan, scans.grid_of(scan), {"all": None}))
    assert "Not for clinical use." in html
    assert "raw cells" in html
    assert "class='smooth'" not in html


def test_two_models_are_compared_with_the_warning(tmp_path: Path) -> None:
    one, other = scans.captioner(2), scans.captioner(3)
    nibabel.save(scans.image(), tmp_path / "scan.nii")
    caption = one.caption(tmp_path / "scan.nii", beam=1, max_length=2)
    wanted = OutputOptions(occlusion=False, animation="none")
    rival = other, other.caption(tmp_path / "scan.nii", beam=1)
    write_explanation(one, caption, tmp_path / "a", wanted, rival=rival)
    record = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert record["compared"]["cell_mm"][2] == pytest.approx(12)
    assert "Not for clinical use." in (tmp_path / "a.html").read_text("utf-8")
