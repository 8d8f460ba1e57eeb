"""Resampling: a place stays where it was through every step, and shades are what they should be."""

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.config import VolumeConfig
from regard.media import cell_at, cell_bounds, cell_centre, world_of
from regard.media.preprocess import CT_WINDOWS, apply_window, intensity_window, resample
from regard.media.reader import prepare, scan_grid
from regard.media.scan.scan_reader import read_scan
from regard.types import Scan
from tests.helpers.scan_files import spec, voxels

SHAPE = (20, 24, 28)


def tilted(draw: np.random.Generator) -> np.ndarray:
    """An affine with swapped, turned, tilted and sheared axes of unequal spacing."""
    matrix, _ = np.linalg.qr(draw.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = (matrix + draw.uniform(-0.1, 0.1, (3, 3))) * draw.uniform(0.8, 3, 3)
    affine[:3, 3] = draw.uniform(-100, 100, 3)
    return affine


def blob(affine: np.ndarray, shape: tuple[int, ...], world: np.ndarray) -> np.ndarray:
    """A soft ball around a point of the world, wide enough for voxels of 3 mm."""
    index = np.moveaxis(np.indices(shape), 0, -1)
    points = index @ affine[:3, :3].T + affine[:3, 3]
    return 1000 * np.exp(-((points - world) ** 2).sum(-1) / (2 * 3.5**2))


def middle_of_mass(
    voxels: np.ndarray, extent: tuple[tuple[float, float], ...]
) -> tuple[float, ...]:
    found = []
    for axis, (start, stop) in enumerate(extent):
        step = (stop - start) / voxels.shape[axis]
        along = start + (np.arange(voxels.shape[axis]) + 0.5) * step
        weights = voxels.sum(tuple(a for a in range(3) if a != axis))
        found.append(float(weights @ along / weights.sum()))
    return tuple(found)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([(2.0, 2.0, 2.0), (1.3, 2.5, 1.7), ()]))
def test_voxel_to_millimetre_to_input_to_cell_to_world(
    seed: int, spacing: tuple[float, ...]
) -> None:
    draw = np.random.default_rng(seed)
    affine = tilted(draw)
    spacings = np.linalg.norm(affine[:3, :3], axis=0)
    shape = tuple(int(n) for n in 60 / spacings)
    planted = np.array(shape) / 2 + draw.uniform(-3, 3, 3) / spacings
    world = affine[:3, :3] @ planted + affine[:3, 3]
    image = nibabel.Nifti1Image(blob(affine, shape, world).astype(np.float32), affine)
    scan = read_scan(image, spec())
    made = spec("bone", shape=SHAPE, spacing=spacing)  # black at -500: nothing is cut off
    found, extent = resample(scan, made)
    assert found.shape == (1, *SHAPE)
    shades = found[0].astype(np.float64)
    shades -= shades.min()
    grid = scan_grid(scan, extent, (5, 6, 7))
    seen = middle_of_mass(shades**2, extent)  # squared: the far tails hold nothing
    assert np.linalg.norm(np.subtract(world_of(grid, seen), world)) < 0.35
    cell = cell_at(grid, seen)
    assert cell is not None
    strongest = shades.reshape(5, 4, 6, 4, 7, 4).mean((1, 3, 5))
    bounds = cell_bounds(grid, cell)
    assert all(a <= at <= b for at, (a, b) in zip(seen, bounds, strict=True))
    assert strongest.reshape(-1)[cell] >= 0.75 * strongest.max()


@given(st.integers(0, 10**6), st.tuples(*[st.integers(1, 9)] * 3))
def test_cell_to_world_and_back(seed: int, cells: tuple[int, int, int]) -> None:
    draw = np.random.default_rng(seed)
    scan = read_scan(nibabel.Nifti1Image(voxels(), tilted(draw)), spec())
    grid = prepare(scan, spec(), cells).grid
    cell = int(draw.integers(grid.cells))
    world = world_of(grid, cell_centre(grid, cell))
    millimetres = np.linalg.inv(np.array(grid.affine)) @ (*world, 1)
    assert cell_at(grid, tuple(millimetres[:3])) == cell
    # The same world point by the scan's own voxels.
    voxel = millimetres[:3] / scan.spacing - 0.5
    np.testing.assert_allclose(scan.affine[:3, :3] @ voxel + scan.affine[:3, 3], world, atol=1e-9)


def test_the_same_spacing_changes_nothing() -> None:
    scan = read_scan(nibabel.Nifti1Image(voxels((8, 7, 6)), np.diag((2, 3, 4, 1.0))), spec())
    found, extent = resample(scan, spec("lung", shape=(6, 7, 8), spacing=(4.0, 3.0, 2.0)))
    expected = apply_window(scan.pixels, intensity_window(scan.pixels, "lung"), "lung")
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    assert extent == ((0, 24), (0, 21), (0, 16))


def test_cut_and_padded_around_the_middle_by_hand() -> None:
    scan = Scan("volume", np.arange(27, dtype=np.float32).reshape(3, 3, 3) + 100, "", "")
    found, extent = resample(scan, spec("bone", shape=(5, 1, 3), spacing=(1.0, 1.0, 1.0)))
    assert extent == ((-1, 4), (1, 2), (0, 3))
    low, high = intensity_window(scan.pixels, "bone")
    np.testing.assert_allclose(
        found[0, 1:4, 0], (scan.pixels[:, 1] - low) / (high - low), rtol=1e-5
    )
    assert not found[0, [0, 4]].any()  # black
    z = resample(scan, spec("zscore", shape=(5, 3, 3), spacing=(1.0, 1.0, 1.0)))[0]
    assert not z[0, [0, 4]].any()  # the mean


def test_shrinking_averages_and_growing_interpolates() -> None:
    stripes = np.zeros((8, 8, 16), np.float32)
    stripes[..., ::2] = 1000
    scan = Scan("volume", stripes - 500, "", "")
    found, _ = resample(scan, spec("bone", shape=(8, 8, 4), spacing=(1.0, 1.0, 4.0)))
    grey = apply_window(np.float32([0.0]), intensity_window(stripes, "bone"), "bone")[0]
    assert np.abs(found[..., 1:3] - grey).max() < 0.01  # no aliasing: neither black nor white
    ramp = np.tile(np.arange(8, dtype=np.float32) * 100, (4, 4, 1))
    fine, _ = resample(
        Scan("volume", ramp, "", ""), spec("bone", shape=(4, 4, 16), spacing=(1.0, 1.0, 0.5))
    )
    np.testing.assert_allclose(np.diff(fine[0, 0, 0])[1:-1], 50 / 1800, rtol=1e-3)


def test_without_spacing_the_whole_scan_is_squashed() -> None:
    scan = Scan("volume", voxels((5, 7, 9)).astype(np.float32), "", "", affine=np.eye(4) * 2)
    _, extent = resample(scan, spec(shape=(3, 3, 30), spacing=()))
    np.testing.assert_allclose(extent, ((0, 10), (0, 14), (0, 18)), atol=1e-9)


def test_a_thin_slice_is_not_lost_between_voxels() -> None:
    scan = Scan("volume", voxels((1, 7, 8)).astype(np.float32), "", "")
    found, _ = resample(scan, spec(shape=(8, 8, 8)))
    assert [bool(part.any()) for part in found[0]] == [False] * 3 + [True] * 2 + [False] * 3


@pytest.mark.parametrize("preset", sorted(CT_WINDOWS))
def test_ct_windows(preset: str) -> None:
    level, width = CT_WINDOWS[preset]
    window = intensity_window(voxels(), preset)
    assert window == (level - width / 2, level + width / 2)
    values = np.float32([-3000, window[0], level, window[1], 3000])
    np.testing.assert_allclose(apply_window(values, window, preset), [0, 0, 0.5, 1, 1], atol=1e-6)
    VolumeConfig(window=preset)  # a recipe may name it


def test_mri_windows_are_of_the_foreground() -> None:
    draw = np.random.default_rng(0)
    values = np.zeros(100_000, np.float32)  # cut out: mostly nothing
    values[:10_000] = draw.normal(500, 50, 10_000)
    low, high = intensity_window(values, "percentile")
    np.testing.assert_allclose((low, high), (500 - 2.33 * 50, 500 + 2.33 * 50), rtol=0.02)
    low, high = intensity_window(values, "zscore")
    np.testing.assert_allclose((low, high), (400, 600), rtol=0.01)
    z = apply_window(values[:10_000], (low, high), "zscore")
    assert abs(z.mean()) < 0.02
    assert abs(z.std() - 1) < 0.02


@pytest.mark.parametrize("preset", ["percentile", "zscore", "lung"])
@pytest.mark.parametrize(
    "values", [np.zeros((3, 3, 3)), np.full((3, 3, 3), 1e9), np.eye(9).reshape(3, 3, 9)]
)
def test_windows_never_divide_by_zero(values: np.ndarray, preset: str) -> None:
    low, high = intensity_window(values.astype(np.float32), preset)
    assert high > low
    scan = Scan("volume", values.astype(np.float32), "", "")
    assert np.isfinite(resample(scan, spec(preset))[0]).all()


def test_a_ct_window_on_another_scan_is_noted() -> None:
    positive = nibabel.Nifti1Image(np.abs(voxels()), np.eye(4))
    assert "Hounsfield" in read_scan(positive, spec("brain")).notes[-1]
    assert not read_scan(positive, spec()).notes
    signed = nibabel.Nifti1Image(voxels(), np.eye(4))
    assert not read_scan(signed, spec("brain")).notes
