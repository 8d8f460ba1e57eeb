"""Regions of named objects on pictures: the ground truth that attention is compared with.

Three kinds of file are read:

- `objects.json` of `regard data synthetic`: boxes, and the object of each word;
- COCO's object annotations (`images`, `categories`, `annotations` with `bbox`): all boxes of a
  category belong to its name, singular or with an s;
- a CSV with `file,word,mask`: a mask is a picture, whose region is not black.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from regard.errors import DatasetError, MediaError
from regard.media import read_image
from regard.metrics.pointing import Region
from regard.util.safe_io import Unreadable, json_of, table_of, text_of

Regions = Mapping[str, Mapping[str, Sequence[Region]]]
"""By picture and word: the region of each mention of the word; the last one serves later ones."""

_Found = dict[str, dict[str, list[Region]]]


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
        return (_coco if "annotations" in values else _scenes)(values)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise DatasetError(
            f"{path} holds no regions that can be used: {reason}. Expected: objects.json of "
            "`regard data synthetic`, COCO object annotations, or a CSV of file,word,mask."
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


def _masks(text: str, folder: Path) -> _Found:
    found = _empty()
    for row in table_of(text)[1]:
        try:
            mask = read_image(folder / row["mask"]).pixels.max(axis=-1) > 0
        except MediaError as error:
            raise DatasetError(f"the mask of {row['word']!r}: {error}") from error
        found[row["file"]][row["word"].lower()].append(Region(mask=mask))
    return found


def _boxed(boxes: Sequence[Sequence[float]]) -> Region:
    return Region(tuple((top, left, down, right) for top, left, down, right in boxes))
