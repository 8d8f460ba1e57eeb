"""Volumes: a caption follows from its volume, lesions lie where it says, splits share nothing."""

import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from regard.cli.data_command import app
from regard.data import load_dataset
from regard.data.check import check_dataset
from regard.errors import ConfigError, DatasetError, MissingExtra, UnknownName
from regard.media.scan.scan_reader import read_scan
from regard.synthetic.scenes import SPLITS
from regard.synthetic.volumes import (
    FIELD,
    KINDS,
    PLACES,
    SIZES,
    TONES,
    SyntheticVolume,
    arrange,
    combinations,
    make_volumes,
    spoken_lesions,
    write_volumes,
)
from tests.helpers.scan_files import spec


@pytest.fixture(scope="module")
def volumes() -> list[SyntheticVolume]:
    return [v for split in SPLITS for v in make_volumes(40, split=split)]


def middle_of(volume: SyntheticVolume) -> np.ndarray:
    return volume.affine[:3, :3] @ ((np.array(volume.values.shape) - 1) / 2) + volume.affine[:3, 3]


def test_a_caption_follows_from_the_lesions(volumes: list[SyntheticVolume]) -> None:
    for volume in volumes:
        named, others = volume.lesions[:2], volume.lesions[2:]
        phrases = [f"a {o.size} {o.tone} {o.kind} in the {o.place}" for o in named]
        assert volume.caption == " and ".join(phrases)
        assert [lesion.tone for lesion in named] == ["bright", "dark"]
        assert named[0].place != named[1].place
        assert 1 <= len(others) <= 2
        assert {(o.tone, o.kind, o.place) for o in others} == {("speckled", "ball", "")}
        for lesion in volume.lesions:
            low, high = SIZES[lesion.size]
            assert low <= lesion.diameter <= high


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


def spreads(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Variances along the three main axes of weighted points, smallest first."""
    flat, share = points.reshape(-1, 3), weights.reshape(-1) / weights.sum()
    offsets = flat - share @ flat
    return np.linalg.eigvalsh((offsets * share[:, None]).T @ offsets)


def test_lesions_are_where_and_what_they_are_said_to_be(volumes: list[SyntheticVolume]) -> None:
    """After reading, the shades around a lesion's centre are those of its tone and kind."""
    for volume in volumes:
        scan = read_scan(nibabel.Nifti1Image(volume.values, volume.affine), spec("zscore"))
        index = np.moveaxis(np.indices(scan.pixels.shape), 0, -1)
        world = index @ scan.affine[:3, :3].T + scan.affine[:3, 3]
        shades = scan.pixels / np.median(scan.pixels) - 1
        inside = np.zeros(shades.shape, bool)
        for lesion in volume.lesions:
            depth = np.linalg.norm(world - lesion.centre, axis=-1) / (lesion.diameter / 2)
            inside |= depth < 1.3
            if lesion.tone == "speckled":
                assert shades[depth < 0.8].std() > 0.35
                continue
            seen = shades * TONES[lesion.tone]
            assert (seen[depth < 0.25].mean() > 0.2) == (lesion.kind != "shell")
            short, middle, long = spreads(world, np.where((depth < 1) & (seen > 0.2), seen, 0))
            assert (middle / long < 0.55) == (lesion.kind == "bar"), lesion
            if lesion.kind != "bar":
                assert (short / middle < 0.6) == (lesion.kind == "disc"), lesion
        outside = shades[~inside]
        assert np.abs(outside).max() < 0.5
        assert np.median(np.abs(outside)) < 0.15


def test_the_same_seed_gives_the_same_volumes() -> None:
    one, other = (next(make_volumes(n)) for n in (1, 5))
    np.testing.assert_array_equal(one.values, other.values)
    assert not np.array_equal(one.values.shape, next(make_volumes(1, seed=1)).values.shape)


@pytest.mark.timeout(60)
def test_every_pair_of_places_has_room_whatever_the_tilt() -> None:
    pairs = {(one[2], other[2]) for one, other in combinations("train")}
    assert len(pairs) == 56
    for seed, pair in enumerate(sorted(pairs)):
        frame, centres = arrange(np.random.default_rng(seed), np.full(4, 12.0), list(pair))
        apart = np.linalg.norm(centres[:, None] - centres, axis=-1) + 99 * np.eye(4)
        assert apart.min() > 24
        assert np.abs(centres).max() + 12 <= frame.sides.min() / 2


def test_splits_share_no_combination() -> None:
    parts = [set(combinations(split)) for split in SPLITS]
    assert [len(part) for part in parts] == [2688, 448, 448]
    assert len(set.union(*parts)) == 3584
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
