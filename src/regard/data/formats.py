"""Caption files of every common kind to one data set."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from regard.data.dataset import CaptionDataset, CaptionedItem
from regard.errors import DatasetError, UnknownName

_SPLITS = {"restval": "train", "dev": "val", "valid": "val", "validation": "val"}

Row = tuple[str, str, str]
"""(file, caption, split) as a file of any kind gives them."""


def load_dataset(
    annotations: str | Path, images: str | Path = "", *, kind: str = "auto"
) -> CaptionDataset:
    """Read captions; pictures are looked for but not opened.

    Args:
        annotations: Karpathy JSON, COCO captions JSON, Flickr8k token file
            (`name.jpg#0<TAB>caption`), CSV or JSONL with file, caption[, split].
        images: folder of the pictures; empty: the annotations' own folder.
        kind: "karpathy", "coco", "flickr8k", "csv", "jsonl"; "auto" looks at the file.

    Raises:
        DatasetError: the file cannot be read, or is none of these.
        UnknownName: no such kind.
    """
    return load_rows(annotations, images, kind=kind)[1]


def load_rows(
    annotations: str | Path, images: str | Path = "", *, kind: str = "auto"
) -> tuple[list[Row], CaptionDataset]:
    """Read captions as they stand in the file, and as a data set; see `load_dataset`."""
    path = Path(annotations)
    text = _read(path)
    kind = _kind_of(path, text) if kind == "auto" else kind
    readers: dict[str, Callable[[str], Iterable[Row]]] = {
        "karpathy": _karpathy,
        "coco": _coco,
        "flickr8k": _flickr8k,
        "csv": _csv,
        "jsonl": _jsonl,
    }
    if kind not in readers:
        raise UnknownName("annotation kind", kind, readers)
    try:
        rows = list(readers[kind](text))
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise DatasetError(f"{path} is no whole {kind} file: {error!r}.") from error
    folder = Path(images) if str(images) else path.parent
    return rows, CaptionDataset(_items(rows, folder), str(path))


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{path} cannot be opened: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8: {error}. Save it as UTF-8.") from error


def _kind_of(path: Path, text: str) -> str:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return "csv"
    if suffix in (".jsonl", ".ndjson"):
        return "jsonl"
    if suffix == ".json":
        return "coco" if '"annotations"' in text else "karpathy"
    if "#" in text.partition("\t")[0]:
        return "flickr8k"
    raise DatasetError(
        f"{path} is of no known kind. Wanted: Karpathy or COCO JSON (.json), .csv, .jsonl, or a "
        "Flickr8k token file with lines such as name.jpg#0<TAB>caption."
    )


def _items(rows: list[Row], folder: Path) -> tuple[CaptionedItem, ...]:
    """Gather the captions of each file, in the order of first appearance."""
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for file, caption, split in rows:
        texts = captions.setdefault(file, [])
        if caption.strip():
            texts.append(caption)
        splits.setdefault(file, _SPLITS.get(split, split))
    return tuple(
        CaptionedItem(str(folder / file), tuple(texts), splits[file], file)
        for file, texts in captions.items()
        if texts
    )


def _karpathy(text: str) -> Iterable[Row]:
    for image in json.loads(text)["images"]:
        file = str(Path(image.get("filepath", "")) / image["filename"])
        for sentence in image["sentences"]:
            raw = sentence["raw"] if "raw" in sentence else " ".join(sentence["tokens"])
            yield file, raw, image.get("split", "")


def _coco(text: str) -> Iterable[Row]:
    values = json.loads(text)
    files = {image["id"]: image["file_name"] for image in values["images"]}
    for annotation in values["annotations"]:
        yield files[annotation["image_id"]], annotation["caption"], ""


def _flickr8k(text: str) -> Iterable[Row]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, tab, caption = line.partition("\t")
        if not tab:
            raise ValueError(f"line {number} has no tab between picture and caption")
        yield name.rpartition("#")[0] or name, caption, ""


def _csv(text: str) -> Iterable[Row]:
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    return [_row(record) for record in reader]


def _jsonl(text: str) -> Iterable[Row]:
    return [_row(json.loads(line)) for line in text.splitlines() if line.strip()]


def _row(record: dict[str, Any]) -> Row:
    absent = [name for name in ("file", "caption") if not isinstance(record.get(name), str)]
    if absent:
        raise ValueError(
            f"no {' and no '.join(absent)} in {record!r}; wanted file, caption and, if you like, "
            "split"
        )
    return record["file"], record["caption"], str(record.get("split") or "")
