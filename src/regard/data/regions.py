"""Regions of named objects on pictures: the ground truth that attention is compared with.

Four kinds of file are read:

- `objects.json` of `regard data synthetic`: boxes, and the object of each word;
- COCO's object annotations (`images`, `categories`, `annotations` with `bbox`): all boxes of a
  category belong to its name, singular or with an s;
- named boxes, a JSON object of file -> [{"name": "dog", "box": [x, y, width, height]}] in shares
  of the picture's sides;
- a CSV with `file,word,mask`: a mask is a picture that is black outside the region.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from regard.errors import DatasetError, MediaError
from regard.media import read_image
from regard.metrics.pointing import Region
from regard.text.words import related, same
from regard.util.safe_io import Unreadable, json_of, table_of, text_of

Regions = Mapping[str, Mapping[str, Sequence[Region]]]
"""By picture and word: the region of each mention of the word; the last one serves later ones."""

_Found = dict[str, dict[str, list[Region]]]
_SIDE = 1.001  # of a picture in shares, and rounding
_OTHER_HEAD = ("hot dog", "bow tie", "monkey wrench", "sea horse")  # not a kind of their last word


def load_regions(path: str | Path) -> Regions:
    """Read regions, by the names of the pictures in the caption file.

    Raises:
        DatasetError: the file cannot be read or is of another kind.
    """
    path = Path(path)
    try:
        text = text_of(path)
    except Unreadable as error:
        raise DatasetError(f"the regions {path} cannot be read: {error}.") from error
    try:
        if path.suffix.lower() == ".csv":
            return _masks(text, path.parent)
        values = json_of(text)
        if "annotations" in values:
            return _coco(values)
        named = any(isinstance(value, list) for value in values.values())
        return (_named_boxes if named else _scenes)(values)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise DatasetError(
            f"{path} holds no regions that can be used: {reason}. Expected: objects.json of "
            "`regard data synthetic`, COCO object annotations, JSON of file: [{name, box}], or a "
            "CSV of file,word,mask."
        ) from error


def _empty() -> _Found:
    return defaultdict(lambda: defaultdict(list))


def _scenes(values: dict[str, Any]) -> _Found:
    found = _empty()
    for file, scene in values.items():
        for word, thing in scene["words"]:
            if thing is not None:
                found[file][word].append(_boxed([scene["objects"][thing]["box"]]))
    return found


def _coco(values: dict[str, Any]) -> _Found:
    files = {image["id"]: image["file_name"] for image in values["images"]}
    names = {category["id"]: category["name"].lower() for category in values["categories"]}
    boxes: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for annotation in values["annotations"]:
        left, top, width, height = annotation["bbox"]
        place = (files[annotation["image_id"]], names[annotation["category_id"]])
        boxes[place].append([top, left, top + height, left + width])
    found = _empty()
    for (file, name), of_name in boxes.items():
        found[file][name] = found[file][name + "s"] = [_boxed(of_name)]
    return found


def _named_boxes(values: dict[str, Any]) -> _Found:
    boxes: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for file, things in values.items():
        for thing in things:
            left, top, width, height = map(float, thing["box"])
            if not (0 <= left <= left + width <= _SIDE and 0 <= top <= top + height <= _SIDE):
                raise ValueError(f"box {thing['box']} of {file}, expected shares of the sides")
            name = thing["name"].lower()
            boxes[file, name].append([top, left, top + height, left + width])
    found = _empty()
    for (file, name), of_name in boxes.items():
        found[file][name] = [_boxed(of_name, relative=True)]
    return found


def _masks(text: str, folder: Path) -> _Found:
    found = _empty()
    for row in table_of(text)[1]:
        try:
            mask = read_image(folder / row["mask"]).pixels.max(axis=-1) > 0
        except MediaError as error:
            raise DatasetError(f"the mask of {row['word']!r}: {error}") from error
        found[row["file"]][row["word"].lower()].append(Region(mask=mask))
    return found


def _boxed(boxes: Sequence[Sequence[float]], *, relative: bool = False) -> Region:
    corners = tuple((top, left, down, right) for top, left, down, right in boxes)
    return Region(corners, relative=relative)


def regions_of_word(places: Mapping[str, Sequence[Region]], word: str) -> Sequence[Region]:
    """Return the regions of a picture that a word of its caption names.

    Where the word itself has none, things count that it may stand for: another form, a synonym, a
    narrower or a broader word ("man" for "person"), and the last word of a name ("table" for
    "dining table"). Boxes of all such things are one region.

    Args:
        places: the picture's regions by name.
        word: of the caption.
    """
    if word in places:
        return places[word]
    boxed = [
        region
        for name, regions in places.items()
        if _may_name(word, name)
        for region in regions[:1]
        if region.mask is None
    ]
    if not boxed:
        return []
    boxes = tuple(dict.fromkeys(box for region in boxed for box in region.boxes))
    return [Region(boxes, relative=boxed[0].relative)]


@cache
def _may_name(word: str, name: str) -> bool:
    head = name if name in _OTHER_HEAD else name.rpartition(" ")[2]
    return related(word, name) or same(word, head)
