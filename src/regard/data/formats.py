"""Readers of caption files in the common formats."""

import codecs
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from regard.data.caption_records import (
    CAPTION_KEYS,
    ODD_CAPTIONS,
    FileNames,
    counted,
    file_of,
    is_table,
    keys_of,
    missing_files,
    odd_caption,
    plain_key,
    rows_of,
    table_rows,
    text_of_entry,
)
from regard.data.dataset import (
    CaptionDataset,
    CaptionedItem,
    Entry,
    LineFault,
    Row,
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
        renamed: (name as it is written, path of its file, how they differ) of each picture that
            is written otherwise.
        pictures: all pictures, also those without captions.
        dataset: the pictures with captions.
    """

    rows: tuple[Row, ...]
    faults: tuple[LineFault, ...]
    ids: tuple[tuple[str, str, str], ...]
    renamed: tuple[tuple[str, str, str], ...]
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
            (`name.jpg#0<TAB>caption`), CSV, JSONL or a JSON list with file, caption[, split], or
            JSON of file names and their captions; of clips the files of MSVD (or their folder),
            its CSV or MSR-VTT's JSON (see `regard.data.video_formats`). Names such as image,
            filename, text or description mean file and caption where they are plain.
        images: folder of the files; empty: the folder of the annotations, or a folder `clips`,
            `YouTubeClips` or `videos` in it.
        kind: "karpathy", "coco", "flickr8k", "csv", "jsonl", "mapping", "msvd", "msvd_csv",
            "msrvtt", "clips" (a JSON list); "auto" looks at the file.
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
        faults = "1 fault" if len(found.faults) == 1 else f"{len(found.faults)} faults"
        raise DatasetError(
            f"{annotations}, {found.faults[0]} ({faults} in all; `regard data check` lists them)."
        )
    if not present_only:
        for item in found.dataset:
            if special_kind(item.file):  # reading it might never end
                raise DatasetError(
                    f"{annotations}: {why_missing(item.file)}. Remove it, or put a file there."
                )
        return found.dataset
    files = [item.file for item in found.dataset]
    missing = [file for file in files if not is_there(file)]
    if files and len(missing) == len(files):
        raise DatasetError(missing_files(str(annotations), missing, len(files)))
    gone = set(missing)
    there = tuple(item for item in found.dataset if item.file not in gone)
    left_out = counted("missing files, left out", map(repr, missing))
    notes = (*found.dataset.notes, *([left_out] if left_out else []))
    return replace(found.dataset, items=there, notes=notes)


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
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise DatasetError(f"{path} cannot be read as a {kind} file: {reason}.") from error
    return gathered(path, rows, faults, ids, FileNames(folder).find)


def gathered(
    source: str | Path,
    rows: list[Row],
    faults: list[LineFault],
    ids: list[tuple[str, str, str]],
    find: Callable[[str], tuple[str, str]],
) -> CaptionFile:
    """Return what a source holds.

    Args:
        source: for messages.
        rows: its captions.
        faults: its entries that could not be read.
        ids: its identifiers.
        find: returns the file of a name, and how their spellings differ.
    """
    found = {row.file: ("", "") for row in rows}
    found = {name: find(name) for name in found}
    renamed = tuple((name, file, how) for name, (file, how) in found.items() if how)
    pictures, in_two_splits = _items(rows, {name: file for name, (file, _) in found.items()})
    captioned = tuple(item for item in pictures if item.captions)
    notes = notes_on(pictures, renamed, ())
    dataset = CaptionDataset(captioned, str(source), in_two_splits, notes)
    return CaptionFile(tuple(rows), tuple(faults), tuple(ids), renamed, pictures, dataset)


def notes_on(
    pictures: Iterable[CaptionedItem],
    renamed: Iterable[tuple[str, str, str]],
    faults: Iterable[LineFault],
) -> tuple[str, ...]:
    """Return sentences on what is left out, read otherwise than written, or hardly a caption."""
    bare: list[str] = []
    odd: dict[str, list[str]] = {}
    for item in pictures:
        if not item.captions:
            bare.append(item.key)
        for caption in item.captions:
            if kind := odd_caption(caption):
                odd.setdefault(kind, []).append(f"{caption[:40]!r} of {item.key!r}")
    others = (f"{name!r} for {os.path.basename(file)!r} ({how})" for name, file, how in renamed)
    notes = (
        counted("entries that cannot be read, left out", map(str, faults)),
        counted("pictures without a caption, left out", map(repr, bare)),
        counted("names written otherwise than their files", others),
        *(counted(f"captions {ODD_CAPTIONS[kind]}", where) for kind, where in odd.items()),
    )
    return tuple(filter(None, notes))


_BINARY = {
    b"\x1f\x8b": "packed by gzip (unpack it)",
    b"PK": "a ZIP archive or an Excel workbook (unpack it, or save it as CSV)",
    b"PAR1": "a Parquet file (save it as CSV or JSON lines)",
    b"\x80": "a pickle (save it as CSV or JSON lines)",
}


def _read(path: Path) -> str:
    if path.suffix.lower() == ".tar" and path.is_file():
        raise DatasetError(
            f"{path} is a shard, which `regard train` and `regard data check` read. Unpack it, and "
            "name a file of captions."
        )
    content = b""
    try:
        content = path.read_bytes()
        utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # by Excel
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{path} cannot be opened: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        for start, kind in _BINARY.items():
            if content.startswith(start):
                raise DatasetError(f"{path} is {kind}, not a text of captions.") from error
        raise DatasetError(f"{path} is not UTF-8: {error}. Save it as UTF-8.") from error


def _kind_of(path: Path, text: str) -> str:
    if (of_clips := kind_of_clips(path, text)) is not None:
        return of_clips
    suffix = path.suffix.lower()
    first = next((line for line in text.split("\n") if line.strip()), "")
    if suffix in (".csv", ".tsv"):
        return "csv"
    if suffix in (".jsonl", ".ndjson"):
        return "jsonl"
    if suffix == ".json":
        return "jsonl" if _is_jsonl(first, text) else _kind_of_json(path, text)
    if is_table(first):
        return "csv"
    if "#" in text.partition("\t")[0]:
        return "flickr8k"
    raise DatasetError(
        f"{path} is of an unknown kind. Expected: Karpathy, COCO or MSR-VTT JSON (.json), .csv, "
        ".jsonl, a table with a header such as file,caption, a Flickr8k token file with lines such "
        "as name.jpg#0<TAB>caption, or MSVD's sentences with lines such as vid1<TAB>caption."
    )


def _is_jsonl(first: str, text: str) -> bool:
    """Return whether the first line of a text is an object and others follow."""
    if (
        not (first.startswith("{") and first.rstrip().endswith("}"))
        or text.strip() == first.strip()
    ):
        return False
    try:
        return isinstance(json_of(first), dict)
    except ValueError:
        return False


def _kind_of_json(path: Path, text: str) -> str:
    try:
        values = json_of(text)
    except ValueError as error:
        raise DatasetError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(values, dict):
        raise DatasetError(
            f"{path} holds {values!r:.100}; expected a list or an object with captions."
        )
    if "images" in values or "annotations" in values:
        return "coco" if "annotations" in values else "karpathy"
    if any(_is_captions(value) for value in values.values()):
        return "mapping"
    raise DatasetError(
        f"{path} has {', '.join(map(str, values))[:200] or 'nothing'}; expected images "
        "(Karpathy), images and annotations (COCO), or file names with their captions."
    )


def _is_captions(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(text, str) for text in value)
    return isinstance(value, str | dict)


def _checked(values: tuple[Any, ...]) -> Row:
    if not all(isinstance(value, str) for value in values):
        raise TypeError(f"picture, caption and split must be strings; got {tuple(values)}")
    file, caption, split = values
    return Row(file, caption, split_named(split))


def _items(
    rows: Iterable[Row], files: Mapping[str, str]
) -> tuple[tuple[CaptionedItem, ...], tuple[tuple[str, tuple[str, ...]], ...]]:
    """Gather the captions of each file, in the order of first appearance.

    A picture's key is the first spelling of its name, and its split the first that its rows name;
    some rows may leave it out. Also return the pictures that are in two splits.
    """
    keys: dict[str, str] = {}
    own = {name: keys.setdefault(os.path.normpath(file), name) for name, file in files.items()}
    captions: dict[str, list[str]] = {}
    splits: dict[str, dict[str, None]] = {}
    for file, caption, split in rows:
        key = own[file]
        texts = captions.setdefault(key, [])
        if caption.strip():
            texts.append(caption)
        if split:
            splits.setdefault(key, {})[split] = None
    items = with_rest_trained(
        CaptionedItem(files[key], tuple(texts), next(iter(splits.get(key, [""]))), key)
        for key, texts in captions.items()
    )
    return items, tuple((key, tuple(sorted(s))) for key, s in splits.items() if len(s) > 1)


def _each(entries: Any, noun: str, read: Callable[[Any, str], Iterable[Entry]]) -> Iterator[Entry]:
    """Yield what is read from each entry of a list; one that cannot be read is one fault."""
    if not isinstance(entries, list):
        raise TypeError(f"the {noun}s are {entries!r:.100}; expected a list")
    for number, entry in enumerate(entries, start=1):
        where = f"{noun} {number}"
        try:
            found = list(read(entry, where))
            for one in found:
                if isinstance(one, Row):
                    _checked(one)
        except (ValueError, TypeError, AttributeError) as error:
            yield LineFault(where, str(error))
            continue
        yield from found


def _karpathy(text: str) -> Iterator[Entry]:
    yield from _each(json_of(text)["images"], "image", _karpathy_image)


def _karpathy_image(image: Any, where: str) -> Iterator[Entry]:
    wanted = "filename, sentences"
    if isinstance(image, dict) and "filename" in image:
        name = text_of_entry(image["filename"], "filename")
    else:
        name = file_of(image, wanted)
    file = str(Path(image.get("filepath", "")) / name)
    split, sentences = image.get("split", ""), image.get("sentences")
    if not isinstance(sentences, list):
        raise ValueError(f"has {', '.join(image)}; expected {wanted}")
    yield "picture", file, file
    if "imgid" in image:
        yield "image id", str(image["imgid"]), file
    for sentence in sentences:
        yield Row(file, _sentence(sentence, file), split)
        if isinstance(sentence, dict) and "sentid" in sentence:
            yield "caption id", str(sentence["sentid"]), file
    if not sentences:
        yield Row(file, "", split)


def _sentence(sentence: Any, file: str) -> str:
    if isinstance(sentence, str):
        return sentence
    if "raw" in sentence:
        return text_of_entry(sentence["raw"], f"a sentence of {file}")
    if "tokens" in sentence:
        return " ".join(texts_in(sentence["tokens"], f"the tokens of {file}"))
    raise ValueError(f"a sentence of {file} has {', '.join(sentence)}; expected raw or tokens")


def _coco(text: str) -> Iterator[Entry]:
    values = json_of(text)
    files: dict[Any, str] = {}
    captioned: set[Any] = set()

    def image_entries(image: Any, where: str) -> Iterator[Entry]:
        file = file_of(image, "id, file_name")
        if not isinstance(image.get("id"), int | str):
            raise ValueError(f"has {', '.join(image)}; expected id, file_name")
        yield "image id", str(image["id"]), file
        yield "picture", file, file
        files.setdefault(image["id"], file)

    def captions(annotation: Any, where: str) -> Iterator[Entry]:
        if not isinstance(annotation, dict) or "image_id" not in annotation:
            raise ValueError(f"it is {annotation!r:.200}; expected image_id, caption")
        name = annotation["image_id"]
        file = files.get(name) if isinstance(name, int | str) else None
        if file is None:
            raise ValueError(f"its image_id {annotation['image_id']!r} is that of no image")
        captioned.add(annotation["image_id"])
        caption = annotation.get("caption")
        if caption is None:
            named = {k: v for k, v in annotation.items() if k not in _COCO_IDS} | {"file": file}
            caption = named[keys_of(tuple(named), "image_id, caption").caption]
        yield Row(file, text_of_entry(caption, "its caption"), "")
        if "id" in annotation:
            yield "caption id", str(annotation["id"]), file

    annotations = values["annotations"]
    _check_captions(annotations)
    yield from _each(values.get("images"), "image", image_entries)
    yield from _each(annotations, "annotation", captions)
    yield from (Row(file, "", "") for name, file in files.items() if name not in captioned)


_COCO_IDS = ("id", "image_id", "file", "file_name", "image")
_OF_OBJECTS = ("bbox", "category_id", "segmentation", "keypoints", "segments_info")


def _check_captions(annotations: Any) -> None:
    """Raise if the annotations are of objects, as those of COCO's other files."""
    objects = [a for a in annotations if isinstance(a, dict) and "caption" not in a]
    if objects and len(objects) == len(annotations) and set(_OF_OBJECTS) & set(objects[0]):
        raise ValueError(
            f"its annotations are of objects ({', '.join(objects[0])}) and hold no caption. Name "
            "the captions instead (captions_train2017.json rather than instances_train2017.json)"
        )


def _mapping(text: str) -> Iterator[Entry]:
    """Yield the captions of an object of files, each with a text, texts or a record."""
    for file, value in json_of(text).items():
        where = f"entry {file!r}"
        if isinstance(value, dict):
            if not any(plain_key(key) in CAPTION_KEYS for key in value):
                yield LineFault(where, f"has {', '.join(value) or 'nothing'}; expected captions")
                continue
            own = {"file": file} | {k: v for k, v in value.items() if k != "file"}
            yield from rows_of(own, where)
        else:
            yield from rows_of({"file": file, "caption": value}, where)


def _flickr8k(text: str) -> Iterator[Entry]:
    for number, line in numbered_lines(text):
        name, tab, caption = line.partition("\t")
        file = name.rpartition("#")[0] or name
        if not tab or not file.strip():
            yield LineFault(number, f"no tab between picture and caption in {line!r}")
            continue
        yield Row(file, caption, "")
        if "#" in name:
            yield "caption id", name, file


def _jsonl(text: str) -> Iterator[Entry]:
    for number, line in numbered_lines(text):
        try:
            record = json_of(line)
        except ValueError as error:
            yield LineFault(number, f"not JSON: {error}")
            continue
        yield from rows_of(record, number)


_KINDS: dict[str, Callable[[str], Iterator[Entry]]] = {
    "karpathy": _karpathy,
    "coco": _coco,
    "flickr8k": _flickr8k,
    "csv": table_rows,
    "jsonl": _jsonl,
    "mapping": _mapping,
}
