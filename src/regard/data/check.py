"""Everything that is wrong with a data set, in one report."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regard.data.dataset import CaptionDataset, CaptionedItem
from regard.data.formats import load_rows
from regard.errors import MediaError
from regard.media import read_image
from regard.vocabulary import words_of

_MIN_COUNT = 5


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: "missing file", "unreadable image", "empty caption", "no caption",
            "duplicate caption", "in two splits" or "same picture in two splits".
        where: the picture's key.
        what: a sentence.
    """

    kind: str
    where: str
    what: str


@dataclass(frozen=True)
class DatasetReport:
    """What was counted and what is wrong.

    Attributes:
        counts: pictures, captions, words, vocabulary, and pictures by split.
        problems: all of them, in the order of the data.
    """

    counts: dict[str, Any]
    problems: tuple[Problem, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"counts": self.counts, "problems": [vars(p) for p in self.problems]}

    def text(self) -> str:
        """Return the report as lines."""
        lines = [f"{name}: {value}" for name, value in self.counts.items()]
        lines += [f"{p.kind}: {p.where}: {p.what}" for p in self.problems]
        kinds = Counter(p.kind for p in self.problems)
        total = ", ".join(f"{n} × {kind}" for kind, n in kinds.items())
        return "\n".join([*lines, f"{len(self.problems)} problems{': ' + total if total else ''}"])


def check_dataset(
    annotations: str | Path, images: str | Path = "", *, kind: str = "auto"
) -> DatasetReport:
    """Look for everything that would spoil a training, opening every picture.

    Args:
        annotations: see `load_dataset`.
        images: folder of the pictures.
        kind: see `load_dataset`.

    Raises:
        DatasetError: the annotations cannot be read at all.
    """
    rows, dataset = load_rows(annotations, images, kind=kind)
    problems: list[Problem] = []
    for file, caption, _ in rows:
        if not words_of(caption):
            problems.append(Problem("empty caption", file, f"{caption!r} holds no word"))
    captioned = {item.key for item in dataset.items}
    for file in dict.fromkeys(row[0] for row in rows):
        if file not in captioned:
            problems.append(Problem("no caption", file, "none of its captions holds a word"))
    problems += _split_problems(rows)
    problems += _picture_problems(dataset.items)
    return DatasetReport(_counts(dataset), tuple(problems))


def _split_problems(rows: list[tuple[str, str, str]]) -> list[Problem]:
    splits: dict[str, set[str]] = defaultdict(set)
    seen: Counter[tuple[str, str]] = Counter()
    for file, caption, split in rows:
        splits[file].add(split)
        seen[file, caption] += 1
    found = [
        Problem("in two splits", file, f"it is named in {', '.join(sorted(names))}")
        for file, names in splits.items()
        if len(names) > 1
    ]
    return found + [
        Problem("duplicate caption", file, f"{caption!r} is given {count} times")
        for (file, caption), count in seen.items()
        if count > 1
    ]


def _picture_problems(items: tuple[CaptionedItem, ...]) -> list[Problem]:
    problems: list[Problem] = []
    by_content: dict[str, CaptionedItem] = {}
    for item in items:
        path = Path(item.file)
        if not path.is_file():
            problems.append(Problem("missing file", item.key, f"no file {path}"))
            continue
        try:
            read_image(path)
        except MediaError as error:
            problems.append(Problem("unreadable image", item.key, str(error)))
            continue
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        twin = by_content.setdefault(digest, item)
        if twin.split != item.split:
            what = f"the same bytes as {twin.key} in {twin.split}; this one is in {item.split}"
            problems.append(Problem("same picture in two splits", item.key, what))
    return problems


def _counts(dataset: CaptionDataset) -> dict[str, Any]:
    words = Counter(w for item in dataset for caption in item.captions for w in words_of(caption))
    splits = Counter(item.split or "none" for item in dataset)
    return {
        "pictures": len(dataset),
        "captions": sum(len(item.captions) for item in dataset),
        "distinct words": len(words),
        f"words seen {_MIN_COUNT} times or more": sum(n >= _MIN_COUNT for n in words.values()),
        "pictures by split": dict(splits),
    }
