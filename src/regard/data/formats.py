"""Readers of caption files in the common formats."""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from regard.data.dataset import (
    CaptionDataset,
    CaptionedItem,
    Entry,
    LineFault,
    Row,
    delimiter_of,
    numbered_lines,
    split_named,
    texts_in,
    with_rest_trained,
)
from regard.data.video_formats import CLIP_READERS, folder_of_clips, kind_of_clips
from regard.errors import DatasetError, UnknownName
from regard.media import is_there
from regard.media.find import special_kind, why_missing
from regard.util.safe_io import json_of


@dataclass(frozen=True)
class CaptionFile:
    """The content of a caption file, with its faults.

    Attributes:
        rows: its captions, in order.
        faults: the lines that could not be read.
        ids: (kind of identifier, its text, the picture) of everything that should be unique.
        pictures: all pictures, also those without captions.
        dataset: the pictures with captions.
    """

    rows: tuple[Row, ...]
    faults: tuple[LineFault, ...]
    ids: tuple[tuple[str, str, str], ...]
    pictures: tuple[CaptionedItem, ...]
    dataset: CaptionDataset


def load_dataset(
    annotations: str | Path,
    images: str | Path = "",
    *,
    kind: str = "auto",
    present_only: bool = False,
) -> CaptionDataset:
    """Read captions; pictures, clips and scans are not opened.

    Args:
        annotations: Karpathy JSON, COCO captions JSON, Flickr8k token file
            (`name.jpg#0<TAB>caption`), CSV or JSONL with file, caption[, split]; of clips the
            files of MSVD (or their folder), its CSV, MSR-VTT's JSON, or a JSON list (see
            `regard.data.video_formats`).
        images: folder of the files; empty: the folder of the annotations, or a folder `clips`,
            `YouTubeClips` or `videos` in it.
        kind: "karpathy", "coco", "flickr8k", "csv", "jsonl", "msvd", "msvd_csv", "msrvtt",
            "clips"; "auto" looks at the file.
        present_only: leave out captions without a file. Few copies of MSVD are complete, since
            many of its YouTube clips were deleted.

    Raises:
        DatasetError: the file cannot be read, is of an unknown kind, or has a faulty line; or
            no file exists with `present_only`.
        UnknownName: the kind is unknown.
    """
    found = read_caption_file(annotations, images, kind=kind)
    pictures: dict[str, str] = {}
    for what, name, file in found.ids:
        if what == "image id" and pictures.setdefault(name, file) != file:
            raise DatasetError(
                f"{annotations}: the image id {name} names both {pictures[name]} and {file}, so "
                "captions cannot be told apart. `regard data check` lists all of them."
            )
    if found.faults:
        raise DatasetError(
            f"{annotations}, {found.faults[0]} ({len(found.faults)} such lines; "
            "`regard data check` lists them)."
        )
    if not present_only:
        for item in found.dataset:
            if special_kind(item.file):  # reading it might never end
                raise DatasetError(
                    f"{annotations}: {why_missing(item.file)}. Remove it, or put a file there."
                )
        return found.dataset
    there = tuple(item for item in found.dataset if is_there(item.file))
    if not there and found.dataset.items:
        raise DatasetError(
            f"{annotations} names {len(found.dataset)} files, and none of them exists; the "
            f"first would be {found.dataset.items[0].file}. Name their folder (data.images)."
        )
    return replace(found.dataset, items=there)


def read_caption_file(
    annotations: str | Path, images: str | Path = "", *, kind: str = "auto"
) -> CaptionFile:
    """Read captions with their faults; see `load_dataset`."""
    path = Path(annotations)
    of_clips = kind_of_clips(path, "") if path.is_dir() else None
    text = "" if of_clips else _read(path)
    if kind == "auto":
        kind = of_clips or _kind_of(path, text)
    if kind not in (*_KINDS, *CLIP_READERS):
        raise UnknownName("annotation kind", kind, (*_KINDS, *CLIP_READERS))
    folder = folder_of_clips(path) if kind in CLIP_READERS else path.parent
    folder = Path(images) if str(images) else folder
    rows: list[Row] = []
    faults: list[LineFault] = []
    ids: list[tuple[str, str, str]] = []
    try:
        clips = CLIP_READERS.get(kind)
        for entry in clips(text, path, folder) if clips else _KINDS[kind](text):
            if isinstance(entry, Row):
                rows.append(_checked(entry))
            elif isinstance(entry, LineFault):
                faults.append(entry)
            else:
                ids.append(entry)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as a {kind} file: {error!r}.") from error
    pictures = _items(rows, folder)
    captioned = tuple(item for item in pictures if item.captions)
    dataset = CaptionDataset(captioned, str(path), _in_two_splits(rows))
    return CaptionFile(tuple(rows), tuple(faults), tuple(ids), pictures, dataset)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{path} cannot be opened: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8: {error}. Save it as UTF-8.") from error


def _kind_of(path: Path, text: str) -> str:
    if (of_clips := kind_of_clips(path, text)) is not None:
        return of_clips
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
        f"{path} is of an unknown kind. Expected: Karpathy, COCO or MSR-VTT JSON (.json), .csv, "
        ".jsonl, a Flickr8k token file with lines such as name.jpg#0<TAB>caption, or MSVD's "
        "sentences with lines such as vid1<TAB>caption."
    )


def _checked(values: tuple[Any, ...]) -> Row:
    if not all(isinstance(value, str) for value in values):
        raise TypeError(f"picture, caption and split must be strings; got {tuple(values)}")
    file, caption, split = values
    return Row(file, caption, split_named(split))


def _items(rows: Iterable[Row], folder: Path) -> tuple[CaptionedItem, ...]:
    """Gather the captions of each file, in the order of first appearance.

    A picture's split is the first that its rows name; some rows may leave it out.
    """
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for file, caption, split in rows:
        texts = captions.setdefault(file, [])
        if caption.strip():
            texts.append(caption)
        if split:
            splits.setdefault(file, split)
    return with_rest_trained(
        CaptionedItem(str(folder / file), tuple(texts), splits.get(file, ""), file)
        for file, texts in captions.items()
    )


def _in_two_splits(rows: Iterable[Row]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    splits: dict[str, set[str]] = {}
    for row in rows:
        if row.split:
            splits.setdefault(row.file, set()).add(row.split)
    return tuple((file, tuple(sorted(names))) for file, names in splits.items() if len(names) > 1)


def _karpathy(text: str) -> Iterator[Entry]:
    for image in json_of(text)["images"]:
        file = str(Path(image.get("filepath", "")) / image["filename"])
        split = image.get("split", "")
        yield "picture", file, file
        if "imgid" in image:
            yield "image id", str(image["imgid"]), file
        for sentence in image["sentences"]:
            raw = sentence["raw"] if "raw" in sentence else _of_tokens(sentence, file)
            yield Row(file, raw, split)
            if "sentid" in sentence:
                yield "caption id", str(sentence["sentid"]), file
        if not image["sentences"]:
            yield Row(file, "", split)


def _of_tokens(sentence: dict[str, Any], file: str) -> str:
    return " ".join(texts_in(sentence["tokens"], f"the tokens of {file}"))


def _coco(text: str) -> Iterator[Entry]:
    values = json_of(text)
    files: dict[Any, str] = {}
    for image in values["images"]:
        yield "image id", str(image["id"]), image["file_name"]
        yield "picture", image["file_name"], image["file_name"]
        files.setdefault(image["id"], image["file_name"])
    for number, annotation in enumerate(values["annotations"], start=1):
        file = files.get(annotation["image_id"])
        if file is None:
            what = f"its image_id {annotation['image_id']!r} is that of no image"
            yield LineFault(f"annotation {number}", what)
            continue
        yield Row(file, annotation["caption"], "")
        if "id" in annotation:
            yield "caption id", str(annotation["id"]), file
    captioned = {annotation["image_id"] for annotation in values["annotations"]}
    yield from (Row(file, "", "") for name, file in files.items() if name not in captioned)


def _flickr8k(text: str) -> Iterator[Entry]:
    for number, line in numbered_lines(text):
        name, tab, caption = line.partition("\t")
        file = name.rpartition("#")[0] or name
        if not tab:
            yield LineFault(number, f"no tab between picture and caption in {line!r}")
            continue
        yield Row(file, caption, "")
        if "#" in name:
            yield "caption id", name, file


def _csv(text: str) -> Iterator[Entry]:
    delimiter = delimiter_of(text.partition("\n")[0])
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names = reader.fieldnames or ()
    if not {"file", "caption"} <= set(names):
        yield LineFault(1, f"the columns are {list(names)}; expected file, caption[, split]")
        return
    for record in reader:
        if None in record:
            what = f"more fields than columns; put quotes around a caption with {delimiter!r} in it"
            yield LineFault(reader.line_num, what)
        else:
            yield _row(record, reader.line_num)


def _jsonl(text: str) -> Iterator[Entry]:
    for number, line in numbered_lines(text):
        try:
            record = json_of(line)
        except ValueError as error:
            yield LineFault(number, f"not JSON: {error}")
            continue
        yield _row(record, number)


def _row(record: Any, line: int) -> Row | LineFault:
    if not isinstance(record, dict):
        return LineFault(line, f"{record!r} is not an object with file and caption")
    file, caption, split = (record.get(name) for name in ("file", "caption", "split"))
    if isinstance(file, str) and isinstance(caption, str) and isinstance(split, str | None):
        return Row(file, caption, split or "")
    return LineFault(line, f"file, caption and split must be strings; got {record!r}")


_KINDS = {"karpathy": _karpathy, "coco": _coco, "flickr8k": _flickr8k, "csv": _csv, "jsonl": _jsonl}
