"""The attention image: on the scan's own voxels, standard, and empty of the scan's header."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from regard.errors import ConfigError
from regard.explain.scan import nifti_maps
from regard.explain.scan.nifti_maps import attention_nifti, save_attention
from regard.media import cell_bounds, places_of
from tests.helpers import scans

BRIGHT = np.array([10.5, -7.0, 12.5])


@pytest.mark.parametrize("degrees", [0.0, 20.0])
@pytest.mark.parametrize("turn", scans.TURNS)
def test_attention_lies_on_the_voxels_that_were_looked_at(
    turn: tuple[tuple[int, ...], tuple[int, ...]], degrees: float
) -> None:
    source = scans.image(turn, degrees=degrees)
    scan = scans.scan(source)
    grid = scans.grid_of(scan)
    cell = scans.cell_of(grid, scans.rotation(degrees) @ BRIGHT)
    caption = scans.scan_caption(scan, grid, {"lesion": cell, "everywhere": None})
    image = attention_nifti(caption, smooth=False)
    assert image.shape == (*source.shape, 2)
    np.testing.assert_allclose(image.affine, source.affine, atol=1e-5)
    lesion, everywhere = np.moveaxis(np.asarray(image.dataobj), -1, 0)
    # Every voxel of the looked-at cell and none else, told from the world alone.
    voxels = np.indices(source.shape).reshape(3, -1)
    places = (places_of(grid, source.affine) @ [*voxels, np.ones(voxels.shape[1])])[:3]
    bounds = np.array(cell_bounds(grid, cell))
    inside = ((places > bounds[:, :1]) & (places < bounds[:, 1:])).all(0)
    assert inside.sum() > 10
    np.testing.assert_array_equal(lesion.ravel() > 1, inside)
    np.testing.assert_allclose(lesion.max(), 0.6 * grid.cells, rtol=1e-5)
    np.testing.assert_allclose(everywhere, 1, rtol=1e-5)
    assert lesion[np.unravel_index(np.asarray(source.dataobj).argmax(), source.shape)] > 1


def test_a_smoothed_map_keeps_its_peak_and_a_flat_one_stays_flat() -> None:
    scan = scans.scan(scans.image(scans.TURNS[29], degrees=15))
    grid = scans.grid_of(scan)
    cell = scans.cell_of(grid, scans.rotation(15) @ BRIGHT)
    image = attention_nifti(scans.scan_caption(scan, grid, {"lesion": cell, "all": None}))
    lesion, flat = np.moveaxis(np.asarray(image.dataobj), -1, 0)
    peak = np.array(np.unravel_index(lesion.argmax(), lesion.shape))
    world = image.affine @ [*peak, 1]
    assert scans.cell_of(grid, world[:3]) == cell
    np.testing.assert_allclose(flat, 1, atol=1e-5)


def test_the_file_is_standard_and_its_words_are_named(tmp_path: Path) -> None:
    scan = scans.scan(scans.image(scans.TURNS[11], degrees=10), name="Mustermann_Max.nii.gz")
    grid = scans.grid_of(scan)
    caption = scans.scan_caption(scan, grid, {"linke": 3, "Läsion": 40})
    path = save_attention(caption, tmp_path / "new" / "a.attention.nii.gz")
    image = nibabel.load(path)
    assert image.get_data_dtype() == np.int16
    expected = np.asarray(attention_nifti(caption).dataobj)
    np.testing.assert_allclose(image.get_fdata(), expected, atol=expected.max() / 32767)
    np.testing.assert_allclose(image.affine, scan.source_affine, atol=1e-5)
    np.testing.assert_allclose(image.get_qform(), scan.source_affine, atol=1e-4)
    assert image.get_sform(coded=True)[1] == image.get_qform(coded=True)[1] == 1
    assert image.header.get_xyzt_units()[0] == "mm"
    (comment,) = image.header.extensions
    assert comment.get_code() == 6
    told = json.loads(comment.get_content().decode() if isinstance(comment.get_content(), bytes)
                      else comment.get_content())  # fmt: skip
    assert told["words"] == ["linke", "Läsion"]
    assert told["notice"] == "Not for clinical use."
    assert image.header["descrip"].item().decode() == nifti_maps.DESCRIPTION
    assert all(not image.header[field].item() for field in ("db_name", "aux_file", "intent_name"))
    assert b"Mustermann" not in path.read_bytes()
    assert save_attention(caption, tmp_path / "b.nii.gz").read_bytes() == path.read_bytes()


def test_large_images_take_eight_bits_and_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = scans.scan()
    caption = scans.scan_caption(scan, scans.grid_of(scan), {"a": 3, "b": 50, "c": None})
    whole = nibabel.load(save_attention(caption, tmp_path / "whole.nii")).get_fdata()
    monkeypatch.setattr(nifti_maps, "_SLAB", 700)  # slabs that do not end with the scan
    slabs = nibabel.load(save_attention(caption, tmp_path / "slabs.nii")).get_fdata()
    np.testing.assert_array_equal(whole, slabs)
    monkeypatch.setattr(nifti_maps, "LARGE", 1000)
    small = nibabel.load(save_attention(caption, tmp_path / "small.nii"))
    assert small.get_data_dtype() == np.uint8
    np.testing.assert_allclose(small.get_fdata(), whole, atol=whole.max() / 255)


@pytest.mark.parametrize("margin", [4.0, -4.0])
def test_nothing_lies_outside_the_grid(margin: float) -> None:
    scan = scans.scan()
    grid = scans.grid_of(scan, margin=margin)
    image = attention_nifti(scans.scan_caption(scan, grid, {"all": None}))
    values = np.asarray(image.dataobj)[..., 0]
    if margin > 0:
        np.testing.assert_allclose(values, 1, rtol=1e-5)
        return
    voxels = np.indices(values.shape).reshape(3, -1)
    places = (places_of(grid, scan.source_affine) @ [*voxels, np.ones(voxels.shape[1])])[:3]
    extent = np.array(grid.extent)
    inside = ((places >= extent[:, :1]) & (places < extent[:, 1:])).all(0)
    np.testing.assert_allclose(values.ravel(), inside, atol=1e-5)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    scan = scans.scan()
    grid = scans.grid_of(scan)
    caption = scans.scan_caption(scan, grid, {"all": None})
    with pytest.raises(ConfigError, match="must end in .nii.gz or .nii"):
        save_attention(caption, tmp_path / "a.png")
    with pytest.raises(ConfigError, match="holds no scan"):
        attention_nifti(caption.without_pixels())
    with pytest.raises(ConfigError, match="no words"):
        attention_nifti(scans.scan_caption(scan, grid, {}))
    turned = np.eye(4)
    turned[:3, :3] = scans.rotation(10)
    foreign = replace(caption, media=replace(scan, source_affine=turned @ scan.source_affine))
    with pytest.raises(ConfigError, match="axes of this scan are not those"):
        attention_nifti(foreign)
