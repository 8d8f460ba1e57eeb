"""Volumes: a caption follows from its volume, lesions lie where it says, splits share nothing."""

import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from regard.cli.data import app
from regard.data import load_dataset
from regard.data.check import check_dataset
from regard.data.synthetic import SPLITS
from regard.data.synthetic_lesions import arrange
from regard.data.synthetic_volumes import (
    FIELD,
    KINDS,
    PLACES,
    SIZES,
    SyntheticVolume,
    combinations,
    make_volumes,
    spoken_lesions,
    write_volumes,
)
from regard.errors import ConfigError, DatasetError, MissingExtra, UnknownName
from regard.media.volume import read_scan
from scan_files import spec


@pytest.fixture(scope="module")
def volumes() -> list[SyntheticVolume]:
    return [v for split in SPLITS for v in make_volumes(40, split=split)]


def middle_of(volume: SyntheticVolume) -> np.ndarray:
    return volume.affine[:3, :3] @ ((np.array(volume.values.shape) - 1) / 2) + volume.affine[:3, 3]


def test_a_caption_follows_from_the_lesions(volumes: list[SyntheticVolume]) -> None:
    for volume in volumes:
        phrases = [f"a {o.size} {o.kind} in the {o.place}" for o in volume.lesions[:2]]
        assert volume.caption == " is above ".join(phrases)
        assert phrases[0].split()[-3:] != phrases[1].split()[-3:]
        for lesion in volume.lesions:
            low, high = SIZES[lesion.size]
            assert low <= lesion.diameter <= high
    thirds = [volume.lesions[2:] for volume in volumes]
    assert 0.1 < np.mean([len(third) for third in thirds]) < 0.6
    assert all(lesion.place == "" for third in thirds for lesion in third)


def test_the_first_is_the_highest_and_the_second_the_lowest(
    volumes: list[SyntheticVolume],
) -> None:
    """By 8 mm at least, in the world and along the file's own most upright axis."""
    for volume in volumes:
        centres = np.array([lesion.centre for lesion in volume.lesions])
        axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
        upright = axes[:, np.abs(axes[2]).argmax()]
        for heights in (centres[:, 2], centres @ upright * np.sign(upright[2])):
            assert heights[0] - heights[1:].max() >= 8 - 1e-6
            assert heights[:1].min() - heights[1] >= 8 - 1e-6
            assert (heights[2:] - heights[1] >= 8 - 1e-6).all()


def test_places_are_the_patients_own(volumes: list[SyntheticVolume]) -> None:
    """Left is towards -x of the world, whatever way the file is stored."""
    for volume in volumes:
        for lesion in volume.lesions[:2]:
            x, y, z = np.array(lesion.centre) - middle_of(volume)
            words = ("upper" if z > 0 else "lower", "right" if x > 0 else "left")
            assert lesion.place == " ".join((*words, "front" if y > 0 else "back"))
            assert min(abs(x), abs(y), abs(z)) >= 5


def test_files_are_stored_in_every_way(volumes: list[SyntheticVolume]) -> None:
    turns = {nibabel.aff2axcodes(volume.affine) for volume in volumes}
    assert len(turns) > 30  # of 48
    for volume in volumes:
        spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
        assert 0.8 <= spacing.min() < 1.6 <= spacing.max() <= 3
        tilt = volume.affine[:3, :3] / spacing
        assert np.abs(tilt).max(0).min() >= np.cos(np.deg2rad(15)) - 1e-6
        assert (np.array(volume.values.shape) * spacing > FIELD - 2).all()


def test_lesions_are_where_and_what_they_are_said_to_be(volumes: list[SyntheticVolume]) -> None:
    """After reading, the shades around a lesion's centre are those of its kind."""
    core = {"ball": 1, "hole": -1, "shell": -1, "target": 1}
    for volume in volumes:
        scan = read_scan(nibabel.Nifti1Image(volume.values, volume.affine), spec("zscore"))
        index = np.moveaxis(np.indices(scan.pixels.shape), 0, -1)
        world = index @ scan.affine[:3, :3].T + scan.affine[:3, 3]
        ground = np.median(scan.pixels)
        inside = np.zeros(scan.pixels.shape, bool)
        for lesion in volume.lesions:
            depth = np.linalg.norm(world - lesion.centre, axis=-1) / (lesion.diameter / 2)
            inside |= depth < 1.2
            middle = scan.pixels[depth < 0.45].mean() / ground - 1
            assert middle * core[lesion.kind] > 0.25
            if lesion.kind in ("shell", "target"):
                rim = scan.pixels[(depth > 0.75) & (depth < 0.9)].mean() / ground - 1
                assert rim * core[lesion.kind] < -0.15
        outside = scan.pixels[~inside] / ground - 1
        assert outside.min() > -0.5  # only rods besides, which are bright
        assert np.median(np.abs(outside)) < 0.15


def test_the_same_seed_gives_the_same_volumes() -> None:
    one, other = (next(make_volumes(n)) for n in (1, 5))
    np.testing.assert_array_equal(one.values, other.values)
    assert not np.array_equal(one.values.shape, next(make_volumes(1, seed=1)).values.shape)


@pytest.mark.timeout(60)
def test_every_pair_of_places_has_room_whatever_the_tilt() -> None:
    pairs = {(one[2], other[2]) for one, other in combinations("train")}
    assert len(pairs) == 40
    for seed, pair in enumerate(sorted(pairs)):
        radii = np.array([12.0, 12.0])
        frame, centres, rods = arrange(np.random.default_rng(seed), radii, list(pair))
        assert np.linalg.norm(centres[0] - centres[1]) > 24
        assert np.abs(centres).max() + 12 <= frame.sides.min() / 2
        assert 1 <= len(rods) <= 2


def test_splits_share_no_combination() -> None:
    parts = [set(combinations(split)) for split in SPLITS]
    assert [len(part) for part in parts] == [1920, 320, 320]
    assert len(set.union(*parts)) == 2560
    for part in parts:  # every word occurs in every split
        words = {word for combination in part for lesion in combination for word in lesion}
        assert words == {*SIZES, *KINDS, *PLACES}
    with pytest.raises(UnknownName, match="split"):
        combinations("dev")
    with pytest.raises(ConfigError, match="-1 volumes"):
        list(make_volumes(-1))


def test_written_volumes_are_a_data_set(tmp_path: Path) -> None:
    options = ["--medium", "volume", "--train", "3", "--val", "1", "--test", "2"]
    done = CliRunner().invoke(app, ["synthetic", str(tmp_path / "v"), *options])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == str(tmp_path / "v" / "dataset.json")
    dataset = load_dataset(tmp_path / "v" / "dataset.json")
    assert [item.split for item in dataset.items] == ["train"] * 3 + ["val"] + ["test"] * 2
    assert not check_dataset(tmp_path / "v" / "dataset.json").problems
    told = json.loads((tmp_path / "v" / "lesions.json").read_text())
    for item, volume in zip(dataset.items, make_volumes(3), strict=False):
        scan = read_scan(item.file, spec())
        np.testing.assert_allclose(scan.source_affine, volume.affine, atol=1e-4)
        assert item.captions == (volume.caption,)
        name = str(Path(item.file).relative_to(tmp_path / "v"))
        assert [o["centre"] for o in told[name]["lesions"]] == [
            list(o.centre) for o in volume.lesions
        ]
        assert [tuple(word) for word in told[name]["words"]] == spoken_lesions(volume)


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be written"):
        write_volumes(tmp_path / "file" / "in", train=1, val=0, test=0)
    done = CliRunner().invoke(app, ["synthetic", "x", "--medium", "volume", "--size", "64"])
    assert isinstance(done.exception, ConfigError)
    monkeypatch.setitem(sys.modules, "nibabel.nifti1", None)
    with pytest.raises(MissingExtra, match=r"regard\[volume\]"):
        write_volumes(tmp_path, train=1, val=0, test=0)
