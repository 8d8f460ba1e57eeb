"""Regions from scenes, COCO boxes and masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regard.data.regions import load_regions, regions_of_word
from regard.errors import DatasetError
from regard.synthetic.scenes import make_scenes, write_scenes


def test_scenes_tell_the_place_of_every_mention(tmp_path: Path) -> None:
    write_scenes(tmp_path, train=0, test=3)
    regions = load_regions(tmp_path / "objects.json")
    for i, scene in enumerate(make_scenes(3, split="test")):
        of_scene = regions[f"test/{i:05d}.png"]
        words = scene.caption.split()
        first, second = scene.objects[:2]
        assert of_scene[words[2]][0].boxes == (first.box,)
        assert of_scene[words[-1]][-1].boxes == (second.box,)
        assert "is" not in of_scene


def test_coco_boxes_are_joined_by_name(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 7, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "Dog"}, {"id": 2, "name": "ball"}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 40]},
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 5]},
            {"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4]},
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    regions = load_regions(tmp_path / "boxes.json")["a.jpg"]
    assert regions["dog"][0].boxes == ((20, 10, 60, 40), (0, 0, 5, 5))
    assert regions["dogs"] == regions["dog"]
    assert regions["ball"][0].boxes == ((2, 1, 6, 4),)


def test_named_boxes_are_shares_of_the_sides(tmp_path: Path) -> None:
    things = [
        {"name": "Person", "box": [0.5, 0.25, 0.25, 0.5]},
        {"name": "person", "box": [0, 0, 0.1, 0.1]},
        {"name": "dining table", "box": [0, 0.5, 1, 0.5]},
        {"name": "hot dog", "box": [0.25, 0.5, 0.1, 0.1]},
    ]
    (tmp_path / "boxes.json").write_text(json.dumps({"a.jpg": things, "b.jpg": []}))
    places = load_regions(tmp_path / "boxes.json")["a.jpg"]
    (person,) = places["person"]
    assert person.boxes == ((0.25, 0.5, 0.75, 0.75), (0, 0, 0.1, 0.1))
    size = 200.0, 400.0  # rows from 50 to 150, columns from 200 to 300
    for point in ((51, 201), (149, 299), (0, 0), (20, 40)):
        assert person.holds(point, size)
    for point in ((49, 201), (51, 199), (151, 299), (149, 301), (21, 0)):
        assert not person.holds(point, size)
    for word in ("man", "women", "people", "boy"):
        assert regions_of_word(places, word) == [person]
    assert regions_of_word(places, "table")[0].boxes == ((0.5, 0.0, 1.0, 1.0),)
    for word in ("dog", "cat", "runs", "the"):
        assert not regions_of_word(places, word)


@pytest.mark.parametrize("box", [[0, 0, 20, 30], [0.5, 0, 0.6, 1], [-0.1, 0, 0.5, 0.5], [0, 0, 1]])
def test_named_boxes_in_pixels_are_refused(tmp_path: Path, box: list[float]) -> None:
    content = {"a.jpg": [{"name": "dog", "box": box}]}
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="no regions that can be used"):
        load_regions(tmp_path / "boxes.json")


def test_masks_are_seen_where_they_are_not_black(tmp_path: Path) -> None:
    mask = np.zeros((4, 6), np.uint8)
    mask[1, 2] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    (tmp_path / "masks.csv").write_text("file,word,mask\na.jpg,Dog,m.png\n")
    (region,) = load_regions(tmp_path / "masks.csv")["a.jpg"]["dog"]
    np.testing.assert_array_equal(region.mask, mask > 0)
    (tmp_path / "masks.csv").write_text("file,word,mask\na.jpg,dog,gone.png\n")
    with pytest.raises(DatasetError, match="the mask of 'dog'"):
        load_regions(tmp_path / "masks.csv")


@pytest.mark.parametrize("content", ["", "[]", '{"annotations": 3}'])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DatasetError, match="no regions that can be used"):
        load_regions(tmp_path / "x.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="gone.json cannot be read"):
        load_regions(tmp_path / "gone.json")
