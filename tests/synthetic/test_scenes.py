"""Scenes: what a caption says is so, places are where they are said to be, splits share nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from regard.cli.data_command import app
from regard.data import load_dataset
from regard.data.check import check_dataset
from regard.errors import ConfigError, DatasetError, UnknownName
from regard.synthetic.scenes import (
    COLOURS,
    RELATIONS,
    SHAPES,
    SPLITS,
    Scene,
    combinations,
    make_scenes,
    spoken_objects,
    write_scenes,
)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return make_scenes(250) + make_scenes(100, split="val") + make_scenes(100, split="test")


def test_the_relation_holds_and_no_other(scenes: list[Scene]) -> None:
    for scene in scenes:
        one, other = (np.asarray(o.box).reshape(2, 2).mean(0) for o in scene.objects[:2])
        relation = " ".join(scene.caption.split()[4:-3])
        step = other - one
        axis = int(np.abs(step).argmax())
        assert np.sign(step[axis]) == RELATIONS[relation][axis]
        assert RELATIONS[relation][1 - axis] == 0
        # The centre of a triangle's box is its own: the placing allows 0.4.
        assert abs(step[1 - axis]) <= 0.401 * abs(step[axis])


def test_a_caption_follows_from_the_picture(scenes: list[Scene]) -> None:
    wheel = list(COLOURS)
    for scene in scenes:
        coloured = [o for o in scene.objects if o.colour != "grey"]
        assert len(scene.objects) >= 3
        assert [o.role for o in coloured] == ["subject", "object"]
        subject, other = coloured
        assert (wheel.index(other.colour) - wheel.index(subject.colour)) % 6 in (1, 2)
        words = scene.caption.split()
        assert words[:4] == ["a", subject.colour, subject.shape, "is"]
        assert words[-3:] == ["a", other.colour, other.shape]


def test_objects_are_small_apart_and_inside(scenes: list[Scene]) -> None:
    for scene in scenes:
        boxes = [o.box for o in scene.objects]
        for i, (top, left, bottom, right) in enumerate(boxes):
            assert min(top, left) >= 0
            assert max(bottom, right) <= 64
            assert (bottom - top) * (right - left) <= 0.06 * 64 * 64
            for above, before, below, after in boxes[:i]:
                assert top > below or bottom < above or left > after or right < before


def test_the_colour_is_where_the_outline_says(scenes: list[Scene]) -> None:
    for scene in scenes[:60]:
        for thing in scene.objects[:2]:
            row, column = np.mean(thing.polygon, axis=0).astype(int)
            seen = scene.pixels[row - 1 : row + 2, column - 1 : column + 2].mean((0, 1))
            assert np.abs(seen - COLOURS[thing.colour]).max() < 20


def test_the_ground_is_light_outside_every_box(scenes: list[Scene]) -> None:
    for scene in scenes[:60]:
        ground = np.ones((64, 64), bool)
        for top, left, bottom, right in (o.box for o in scene.objects):
            ground[int(top) - 1 : int(bottom) + 2, int(left) - 1 : int(right) + 2] = False
        assert scene.pixels[ground].min() > 195


def test_splits_share_no_combination_and_cover_every_word() -> None:
    splits = [set(combinations(split)) for split in SPLITS]
    assert [len(split) for split in splits] == [576, 96, 96]
    assert len(set.union(*splits)) == 6 * 2 * 4 * 4 * 4
    for place, words in enumerate((COLOURS, SHAPES, RELATIONS, COLOURS, SHAPES)):
        for split in splits:
            assert {c[place] for c in split} == set(words)
    captions = [{s.caption for s in make_scenes(400, split=split)} for split in SPLITS]
    assert len(set.union(*captions)) == sum(len(said) for said in captions)


def test_scenes_are_determined_by_seed_and_place() -> None:
    some, more = make_scenes(3, seed=4), make_scenes(5, seed=4)
    for one, other in zip(some, more[:3], strict=True):
        assert one.caption == other.caption
        assert one.objects == other.objects
        np.testing.assert_array_equal(one.pixels, other.pixels)
    assert [s.caption for s in make_scenes(5, seed=5)] != [s.caption for s in more]


def test_every_word_knows_what_it_names() -> None:
    for scene in make_scenes(20):
        named = [(w, scene.objects[i]) for w, i in spoken_objects(scene) if i is not None]
        assert [w for w, _ in named] == [w for o in scene.objects[:2] for w in (o.colour, o.shape)]
        assert [o.role for _, o in named] == ["subject"] * 2 + ["object"] * 2


def test_wrong_wishes() -> None:
    with pytest.raises(UnknownName, match="split"):
        make_scenes(1, split="validation")
    for count, size in ((1, 31), (-1, 64)):
        with pytest.raises(ConfigError, match="cannot be made"):
            make_scenes(count, size=size)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DatasetError, match="cannot be written"):
        write_scenes(tmp_path / "file", train=1, val=0, test=1)


@pytest.mark.parametrize("medium", ["image", "video", "volume"])
def test_only_a_data_set_of_the_kind_is_written_over(medium: str, tmp_path: Path) -> None:
    options = ["--medium", medium, "--train", "1", "--val", "0", "--test", "1"]
    own = tmp_path / "own"
    for _ in range(2):
        result = CliRunner().invoke(app, ["synthetic", str(own), *options])
        assert result.exit_code == 0, result.output
    for name, text in (
        ("dataset.json", '{"dataset": "flickr8k", "images": []}'),
        ("dataset.json", "[]"),
        ("dataset.json", "no JSON"),
        ("photo.jpg", "mine"),
    ):
        folder = tmp_path / f"{name}-{len(text)}"
        folder.mkdir()
        (folder / name).write_text(text)
        result = CliRunner().invoke(app, ["synthetic", str(folder), *options])
        assert isinstance(result.exception, ConfigError)
        assert "holds something other than synthetic" in str(result.exception)
        assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(name, text)]


def test_a_folder_that_a_kill_left_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("regard.synthetic.scenes.spoken_objects", killed)
        with pytest.raises(KeyboardInterrupt):
            write_scenes(tmp_path, train=2, val=0, test=0)
    assert (tmp_path / "train" / "00000.png").is_file()
    assert len(load_dataset(write_scenes(tmp_path, train=2, val=0, test=0))) == 2


def test_the_command_writes_a_clean_data_set(tmp_path: Path) -> None:
    options = ["--train", "6", "--val", "5", "--test", "4", "--seed", "3", "--size", "48"]
    result = CliRunner().invoke(app, ["synthetic", str(tmp_path / "out"), *options])
    assert result.exit_code == 0
    path = tmp_path / "out" / "dataset.json"
    assert result.stdout.strip() == str(path)
    dataset = load_dataset(path)
    assert [len(dataset.split(name)) for name in ("train", "val", "test")] == [6, 5, 4]
    assert check_dataset(path).problems == ()
    places = json.loads((tmp_path / "out" / "objects.json").read_text())
    scenes = make_scenes(6, seed=3, size=48) + make_scenes(5, split="val", seed=3, size=48)
    items = [*dataset.split("train"), *dataset.split("val")]
    for item, scene in zip(items, scenes, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(item.file)), scene.pixels)
        assert item.captions == (scene.caption,)
        record = places[item.key]
        assert [word for word, _ in record["words"]] == scene.caption.split()
        assert [tuple(o["box"]) for o in record["objects"]] == [o.box for o in scene.objects]


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_scenes(tmp_path / name, train=2, val=1, test=1)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
