"""Captioned pictures, whatever file they came from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from regard.media import medium_of


@dataclass(frozen=True)
class CaptionedItem:
    """One picture and its captions.

    Attributes:
        file: path as it can be opened, or a place in a shard (`regard.data.shards`).
        captions: raw texts.
        split: "train", "val", "test", or "" where the data names none.
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
    """

    items: tuple[CaptionedItem, ...]
    source: str

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
        """Move a share of the pictures without a test mark to val, by picture.

        The same pictures and seed give the same split, whatever their order in the file. At
        least one picture goes to val where there are two or more.

        Args:
            val_fraction: share that goes to val.
            seed: of the draw.
        """
        keys = sorted(i.key for i in self.items if i.split != "test")
        random.Random(seed).shuffle(keys)
        count = max(1, round(len(keys) * val_fraction)) if len(keys) > 1 else 0
        val = set(keys[:count])
        return replace(self, items=tuple(_assigned(item, val) for item in self.items))

    def references(self) -> dict[str, list[str]]:
        """Return the captions of each picture by key."""
        return {item.key: list(item.captions) for item in self.items}


def _assigned(item: CaptionedItem, val: set[str]) -> CaptionedItem:
    if item.split == "test":
        return item
    return replace(item, split="val" if item.key in val else "train")
