"""Captioned pictures, whatever file they came from."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from regard.errors import DatasetError
from regard.media import medium_of

SPLITS = ("train", "val", "test")
UNUSED = "unused"
"""What stands where a split does and keeps a picture out of all three."""
_MEANT = {
    **{name: name for name in (*SPLITS, UNUSED)},
    "training": "train",
    "restval": "train",  # Karpathy's, of COCO: pictures of val that are trained on
    "dev": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "testing": "test",
}
_KEPT = ("test", UNUSED)


@dataclass(frozen=True)
class CaptionedItem:
    """One picture and its captions.

    Attributes:
        file: path as it can be opened, or a place in a shard (`regard.data.shards`).
        captions: raw texts.
        split: "train", "val", "test", "unused", or "" where the data names none; any other name as
            it stands.
        key: unique in the data set; the relative file name where there is one.
        digest: SHA-256 of the file where it is known; "" where nobody has read it.
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
        source: the file they came from, for messages.
        in_two_splits: key and splits of the pictures whose captions name different ones; an item
            has the first.
    """

    items: tuple[CaptionedItem, ...]
    source: str
    in_two_splits: tuple[tuple[str, tuple[str, ...]], ...] = ()

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
        """Move a share of the pictures to val, by picture, but none of test or unused ones.

        The same pictures and seed give the same split, whatever their order in the file. At
        least one picture goes to val where there are two or more.

        Args:
            val_fraction: share that goes to val.
            seed: of the draw.
        """
        keys = sorted(i.key for i in self.items if i.split not in _KEPT)
        random.Random(seed).shuffle(keys)
        count = max(1, round(len(keys) * val_fraction)) if len(keys) > 1 else 0
        val = set(keys[:count])
        return replace(self, items=tuple(_assigned(item, val) for item in self.items))

    def check_one_split_each(self) -> None:
        """Refuse pictures of two splits: whichever were taken, the data means something else.

        Raises:
            DatasetError: there are such pictures.
        """
        keys = {item.key for item in self}  # what is absent may have been left out
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
    """Return the split that a name in a file or of a user means; an unknown one stays as it is."""
    name = text.strip()
    return _MEANT.get(name.casefold(), name)


def with_rest_trained(items: Iterable[CaptionedItem]) -> tuple[CaptionedItem, ...]:
    """Take what has no split as training where others are in val: who marks those means that."""
    items = tuple(items)
    if not any(item.split == "val" for item in items):
        return items
    return tuple(item if item.split else replace(item, split="train") for item in items)


def _assigned(item: CaptionedItem, val: set[str]) -> CaptionedItem:
    if item.split in _KEPT:
        return item
    return replace(item, split="val" if item.key in val else "train")
