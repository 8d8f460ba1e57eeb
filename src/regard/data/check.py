"""Data set checks: everything that is wrong with captions and pictures, in one report."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from regard.data.caption_records import FileNames, near_hint, odd_caption
from regard.data.dataset import SPLITS, UNUSED, CaptionDataset, CaptionedItem, Row
from regard.data.formats import CaptionFile, read_caption_file
from regard.data.shards import names_shards, place_in_shard, read_item, read_shards
from regard.data.store import STORE, AnnotationStore
from regard.errors import DatasetError, MediaError
from regard.media import (
    ClipSpec,
    PreprocessingSpec,
    ScanSpec,
    Spec,
    is_there,
    medium_of,
    read_media,
)
from regard.text.vocabulary import words_of
from regard.types import MEDIA

_MIN_COUNTS = {5: "the recipes of Flickr8k", 3: "`regard train --data`", 2: "with `--init`"}
"""The vocabularies that are counted, by min_count, and what uses them by default."""
_PICTURE = PreprocessingSpec(32, "squash", "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_SPECS: dict[str, Spec] = {
    "image": _PICTURE,
    "video": ClipSpec(_PICTURE, 1, "chunks", "middle", 0, 1.0),
    "volume": ScanSpec((8, 8, 8), (), "percentile"),
}


REMARKS = ("duplicate caption", "other spelling")
"""The kinds that do not spoil training; all others are errors."""
_EXAMPLES = 5


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, or worth a remark.

    Attributes:
        kind: "wrong line", "duplicate id", "empty caption", "placeholder", "list as text", "no
            caption", "broken character", "duplicate caption", "unknown split", "in two splits",
            "other spelling", "missing file", "unreadable image", "unreadable clip", "unreadable
            scan", "same picture in two splits" or "same picture twice" (or clip, or scan),
            or "damaged shard" of an annotation store.
        where: the picture's key, or the line.
        what: a sentence.
    """

    kind: str
    where: str
    what: str

    @property
    def is_error(self) -> bool:
        """Whether it would spoil training."""
        return self.kind not in REMARKS


@dataclass(frozen=True)
class DatasetReport:
    """The counts and problems of a data set.

    Attributes:
        counts: pictures, captions, words, vocabulary, and pictures by split.
        problems: all of them, by kind and then in the order of the data.
    """

    counts: dict[str, Any]
    problems: tuple[Problem, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        problems = [
            asdict(p) | {"level": "error" if p.is_error else "remark"} for p in self.problems
        ]
        return {"counts": self.counts, "problems": problems}

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that would spoil training."""
        return tuple(problem for problem in self.problems if problem.is_error)

    def text(self, *, complete: bool = False) -> str:
        """Return the report as lines: the errors, then the remarks, each by kind.

        Args:
            complete: list all problems of a kind, not only the first five.
        """
        lines = [_count_line(name, value) for name, value in self.counts.items()]
        remarks = tuple(problem for problem in self.problems if not problem.is_error)
        for level, problems in (("error", self.errors), ("remark", remarks)):
            by_kind: dict[str, list[Problem]] = defaultdict(list)
            for problem in problems:
                by_kind[problem.kind].append(problem)
            for kind, found in by_kind.items():
                lines += ["", f"{level}: {kind} ({len(found)})"]
                shown = found if complete else found[:_EXAMPLES]
                lines += [f"  {kind}: {p.where}: {p.what}" for p in shown]
                if len(found) > len(shown):
                    lines.append(f"  ... and {len(found) - len(shown)} more; --all lists them")
        total = (_number(len(self.errors), "error"), _number(len(remarks), "remark"))
        return "\n".join([*lines, *([""] if self.problems else []), ", ".join(total)])


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _count_line(count: str, value: int | dict[str, int]) -> str:
    """Return a line of the report; for a vocabulary with its purpose."""
    name, minimum = count.replace("_", " "), count.rpartition("_")[2]
    if minimum.isdecimal():
        name = f"{name} ({_MIN_COUNTS[int(minimum)]})"
    if not isinstance(value, dict):
        return f"{name}: {value}"
    return f"{name}: {', '.join(f'{split} {n}' for split, n in value.items()) or 'none'}"


def check_dataset(
    annotations: str | Path, images: str | Path = "", *, kind: str = "auto"
) -> DatasetReport:
    """Find all problems that would impair training. Every picture, clip and scan is opened.

    Args:
        annotations: see `load_dataset`; or shards (`regard.data.shards`), or the folder of an
            annotation store, all of whose vectors are compared with their digests.
        images: folder of the pictures.
        kind: see `load_dataset`.

    Raises:
        DatasetError: the annotations cannot be read at all.
        UnknownName: the kind is unknown.
        MissingExtra: a package that reads the clips or scans is not installed.
    """
    if (Path(annotations) / STORE).is_file():
        return _check_store(annotations)
    if names_shards(str(annotations)):
        found = read_shards(str(annotations))
    else:
        found = read_caption_file(annotations, images, kind=kind)
    problems = (
        *_line_problems(found),
        *_name_problems(found),
        *_id_problems(found),
        *_caption_problems(found.rows),
        *_split_problems(found),
        *_picture_problems(found),
    )
    if not found.rows and not found.faults:
        problems = (Problem("no caption", str(annotations), "the file holds none"),)
    return DatasetReport(_counts(found.dataset), problems)


def _check_store(folder: str | Path) -> DatasetReport:
    store = AnnotationStore.of(folder)
    faults = tuple(Problem("damaged shard", str(folder), fault) for fault in store.check())
    return DatasetReport({"annotations": len(store)}, faults)


def _line_problems(found: CaptionFile) -> Iterator[Problem]:
    for fault in found.faults:
        yield Problem("wrong line", fault.where, fault.what)


def _name_problems(found: CaptionFile) -> Iterator[Problem]:
    for name, file, how in found.renamed:
        yield Problem(
            "other spelling", name, f"{name!r} was found as {file!r}; it differs by {how}"
        )


def _id_problems(found: CaptionFile) -> Iterator[Problem]:
    owners: dict[tuple[str, str], list[str]] = defaultdict(list)
    for what, name, file in found.ids:
        owners[what, name].append(file)
    for (what, name), files in owners.items():
        if len(files) > 1:
            of = " and ".join(dict.fromkeys(files))
            times = f"{what} {name} occurs {len(files)} times: {of}"
            yield Problem("duplicate id", files[0], times)


def _caption_problems(rows: tuple[Row, ...]) -> Iterator[Problem]:
    wordless = [row for row in rows if not words_of(row.caption)]
    for row in wordless:
        yield Problem("empty caption", row.file, f"{row.caption!r} holds no word")
    for row in rows:
        kind = odd_caption(row.caption)
        if kind == "placeholder":
            what = f"{row.caption!r} is a placeholder, which the model would learn to say"
            yield Problem(kind, row.file, what)
        elif kind == "list as text":
            what = f"{row.caption!r:.200} is a list written as text; give each caption its own row"
            yield Problem(kind, row.file, what)
    captioned = {row.file for row in rows if words_of(row.caption)}
    for file in dict.fromkeys(row.file for row in wordless):
        if file not in captioned:
            yield Problem("no caption", file, "none of its captions holds a word")
    for row in rows:
        if any("\ud800" <= letter <= "\udfff" for letter in row.caption):
            what = f"{row.caption!r} holds half a character (a lone surrogate): invalid UTF-8"
            yield Problem("broken character", row.file, what)
    for (file, caption), count in Counter((row.file, row.caption) for row in rows).items():
        if count > 1:
            yield Problem("duplicate caption", file, f"{caption!r} is given {count} times")


def _split_problems(found: CaptionFile) -> Iterator[Problem]:
    for item in found.dataset:
        if item.split not in (*SPLITS, UNUSED, ""):
            what = f"{item.split!r} is none of train, val, test and unused; training refuses it"
            yield Problem("unknown split", item.key, what)
    for file, names in found.dataset.in_two_splits:
        what = f"it is named in {', '.join(names)}; training refuses it"
        yield Problem("in two splits", file, what)


def _picture_problems(found: CaptionFile) -> Iterator[Problem]:
    by_content: dict[str, CaptionedItem] = {}
    drawn = not any(item.split == "val" for item in found.dataset)
    files = FileNames(Path())
    missing = {
        item.file
        for item in found.pictures
        if place_in_shard(item.file) is None and not is_there(item.file)
    }
    if missing and len(missing) == len(found.pictures):
        what = "none of all files exists. Did you forget --images, or does it name another folder?"
        yield Problem("missing file", found.dataset.source, what)
    for item in found.pictures:
        if item.file in missing:
            what = f"no file {item.file!r}{near_hint(item.file, files)}"
            yield Problem("missing file", item.key, what)
            continue
        medium = medium_of(item.file)
        try:
            digest = read_item(item, partial(read_media, spec=_SPECS[medium])).digest
        except (MediaError, DatasetError) as error:
            noun = "image" if medium == "image" else MEDIA[medium].noun
            yield Problem(f"unreadable {noun}", item.key, str(error))
            continue
        twin = by_content.setdefault(digest, item)
        if twin is not item:
            yield from _twin_problems(twin, item, MEDIA[medium].noun, drawn)


def _twin_problems(
    twin: CaptionedItem, item: CaptionedItem, name: str, drawn: bool
) -> Iterator[Problem]:
    """Yield the problems of two items with the same bytes.

    Args:
        twin: the first item.
        item: the second item.
        name: noun of their medium.
        drawn: the data names no val split, so training draws one.
    """
    if drawn and {twin.split, item.split} <= {"train", ""}:
        what = (
            f"the same bytes as {twin.key}; no split val is named, so one may be learned and the "
            "other held out, which then scores what was learned"
        )
        yield Problem(f"same {name} twice", item.key, what)
    elif twin.split != item.split:
        there, here = twin.split or "none", item.split or "none"
        what = f"the same bytes as {twin.key} in {there}; this one is in {here}"
        yield Problem(f"same {name} in two splits", item.key, what)


def _counts(dataset: CaptionDataset) -> dict[str, Any]:
    """Return all counts. Vocabularies are of the training pictures if the data names them."""
    train = dataset.split("train")
    words, trained = (
        Counter(w for item in part for caption in item.captions for w in words_of(caption))
        for part in (dataset, train if len(train) else dataset)
    )
    return {
        "pictures": len(dataset),
        "captions": sum(len(item.captions) for item in dataset),
        "words": sum(words.values()),
        "distinct_words": len(words),
        **{
            f"vocabulary_at_min_count_{least}": sum(n >= least for n in trained.values())
            for least in _MIN_COUNTS
        },
        "pictures_by_split": dict(Counter(item.split or "none" for item in dataset)),
    }
