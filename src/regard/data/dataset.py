"""Captioned pictures: data sets, the rows that they are read from, and a writer of new ones."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from regard.errors import ConfigError, DatasetError
from regard.media import medium_of
from regard.util.safe_io import Unreadable, json_of, text_of

Sample = TypeVar("Sample")
SPLITS = ("train", "val", "test")
UNUSED = "unused"
"""The split of pictures that are in none of the three."""
_ALIASES = {
    **{name: name for name in (*SPLITS, UNUSED)},
    # restval is Karpathy's split of COCO: val pictures that are trained on.
    **dict.fromkeys(("training", "restval"), "train"),
    **dict.fromkeys(("dev", "valid", "validate", "validation"), "val"),
    "testing": "test",
}
_HELD_OUT = ("test", UNUSED)


@dataclass(frozen=True)
class CaptionedItem:
    """One picture and its captions.

    Attributes:
        file: path, or a place in a shard (`regard.data.shards`).
        captions: raw texts.
        split: "train", "val", "test", "unused", or "" if the data names none; an unknown name
            unchanged.
        key: unique in the data set; the relative file name if there is one.
        digest: SHA-256 of the file if it is known, else "".
    """

    file: str
    captions: tuple[str, ...]
    split: str
    key: str
    digest: str = ""


@dataclass(frozen=True)
class CaptionDataset:
    """A sequence of captioned pictures.

    Attributes:
        items: in the order of the source.
        source: the file of the captions, for messages.
        in_two_splits: key and splits of the pictures whose captions name different splits; the
            item has the first.
        notes: sentences on what was left out or read otherwise than it is written.
    """

    items: tuple[CaptionedItem, ...]
    source: str
    in_two_splits: tuple[tuple[str, tuple[str, ...]], ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[CaptionedItem]:
        return iter(self.items)

    @property
    def medium(self) -> str:
        """The medium of the first item: "image", "video" or "volume"."""
        return medium_of(self.items[0].file) if self.items else "image"

    def split(self, name: str) -> CaptionDataset:
        """Return the pictures of one split."""
        return replace(self, items=tuple(i for i in self.items if i.split == name))

    def with_split(self, val_fraction: float, seed: int) -> CaptionDataset:
        """Move a share of the pictures to val, chosen by picture. Test and unused ones stay.

        The same pictures and seed give the same split, whatever their order in the file. At
        least one of two or more pictures goes to val.

        Args:
            val_fraction: share that goes to val.
            seed: seed of the random choice.
        """
        keys = sorted(i.key for i in self.items if i.split not in _HELD_OUT)
        random.Random(seed).shuffle(keys)
        count = max(1, round(len(keys) * val_fraction)) if len(keys) > 1 else 0
        val = set(keys[:count])
        return replace(
            self,
            items=tuple(
                i if i.split in _HELD_OUT else replace(i, split="val" if i.key in val else "train")
                for i in self.items
            ),
        )

    def check_one_split_each(self) -> None:
        """Check that no picture is in two splits.

        Raises:
            DatasetError: a picture is.
        """
        keys = {item.key for item in self}  # without missing files that were left out
        torn = [(key, names) for key, names in self.in_two_splits if key in keys]
        if torn:
            key, names = torn[0]
            raise DatasetError(
                f"{self.source} names the splits {' and '.join(names)} for {key} ({len(torn)} such "
                "pictures); a picture belongs in one. Name the same on each of its lines. `regard "
                "data check` lists them all."
            )

    def references(self) -> dict[str, list[str]]:
        """Return the captions of each picture by key."""
        return {item.key: list(item.captions) for item in self.items}


def split_named(text: str) -> str:
    """Return the split that a name means, such as "val" for "dev"; unknown names unchanged."""
    name = text.strip()
    return _ALIASES.get(name.casefold(), name)


def with_rest_trained(items: Iterable[CaptionedItem]) -> tuple[CaptionedItem, ...]:
    """Put items without a split into train if others are marked as val."""
    items = tuple(items)
    if not any(item.split == "val" for item in items):
        return items
    return tuple(item if item.split else replace(item, split="train") for item in items)


class Row(NamedTuple):
    """One caption of a file of any kind; "" for a picture without captions."""

    file: str
    caption: str
    split: str


class LineFault(ValueError):
    """A line (or an entry, by its name) that cannot be used although others can.

    Attributes:
        where: "line 3", "entry 3" ...
        what: what is wrong with it.
    """

    def __init__(self, line: int | str, what: str) -> None:
        self.where = f"line {line}" if isinstance(line, int) else line
        self.what = what
        super().__init__(f"{self.where}{'' if what.startswith('has ') else ':'} {what}")


Entry = Row | LineFault | tuple[str, str, str]
"""What readers yield: a caption, a faulty line, or an identifier (its kind, its text, the file)."""


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the numbers and texts of lines that are not blank. Captions may hold U+2028."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.removesuffix("\r")


def delimiter_of(header: str) -> str:
    """Return the delimiter of a table by its first line: comma, semicolon, tab or bar."""
    return max(",;\t|", key=header.count)


def texts_in(value: Any, what: str) -> list[str]:
    """Return a list of strings after checking it. A single string would be read as its characters.

    Args:
        value: from a file.
        what: its name, for the message.

    Raises:
        TypeError: it is not a list, or holds something else.
    """
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise TypeError(f"{what} are {value!r:.200}; expected a list of strings")
    return value


# Writing


def write_synthetic(
    folder: str | Path,
    kind: str,
    counts: tuple[int, int, int],
    make: Callable[..., Iterable[Sample]],
    save: Callable[[Sample, Path], None],
    facts: Callable[[Sample], dict[str, Any]],
    suffix: str,
    facts_name: str,
) -> Path:
    """Write generated samples as a data set: files, `dataset.json` in Karpathy's form, and facts.

    Args:
        folder: created if it does not exist; an earlier data set of the kind is replaced.
        kind: "scenes" or the like.
        counts: counts of train, val and test.
        make: returns a number of samples of a split.
        save: writes the file of a sample.
        facts: returns a sample's entry in the file of facts. Its "words" are (word, index of what
            it names, or None), of the one right caption.
        suffix: suffix of the samples' files.
        facts_name: name of the file of facts.

    Returns:
        The path of `dataset.json`.

    Raises:
        ConfigError: the folder holds something else.
        DatasetError: the folder cannot be written.
    """
    folder = Path(folder)
    images: list[dict[str, Any]] = []
    known: dict[str, dict[str, Any]] = {}
    try:
        begin_folder(folder, f"synthetic {kind}")
        for split, count in zip(SPLITS, counts, strict=True):
            (folder / split).mkdir(parents=True, exist_ok=True)
            for i, sample in enumerate(make(count, split=split)):
                name = f"{i:05d}{suffix}"
                save(sample, folder / split / name)
                known[f"{split}/{name}"] = found = facts(sample)
                words = [word for word, _ in found["words"]]
                sentence = {"raw": " ".join(words), "tokens": words}
                place = {"filepath": split, "filename": name, "split": split}
                images.append(place | {"sentences": [sentence]})
        (folder / facts_name).write_text(json.dumps(known), "utf-8")
        dataset = folder / "dataset.json"
        values = {"dataset": f"synthetic {kind}", "images": images}
        dataset.write_text(json.dumps(values), "utf-8")
    except OSError as error:
        raise DatasetError(f"{kind} cannot be written to {folder}: {error.strerror}.") from error
    return dataset


def begin_folder(folder: Path, name: str) -> None:
    """Create a folder for a data set, or take one that holds an earlier data set of the kind.

    The folder then holds a `dataset.json` with the name, so that an interrupted data set is
    recognised.

    Args:
        folder: to write into.
        name: name of the data set, the value of "dataset" in `dataset.json`.

    Raises:
        ConfigError: the folder holds something else.
        OSError: it cannot be created or read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dataset = folder / "dataset.json"
    if _name_of(dataset) == name:
        return
    if any(not path.name.startswith(".") for path in folder.iterdir()):
        raise ConfigError(
            f"{folder} holds something other than {name}, which could be overwritten; expected a "
            "new or empty folder, or one that this command wrote before. Name another folder."
        )
    dataset.write_text(json.dumps({"dataset": name, "images": []}), "utf-8")


def _name_of(dataset: Path) -> object:
    """Return the name of a data set in Karpathy's form; None for anything else."""
    try:
        held = json_of(text_of(dataset))
    except Unreadable:
        return None
    return held.get("dataset") if isinstance(held, dict) else None
