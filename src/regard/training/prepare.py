"""What a run needs before its first step: captions, vocabulary, encoder, annotations."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from regard.config import DataConfig
from regard.data.dataset import SPLITS, UNUSED, CaptionDataset
from regard.data.shards import load_captions
from regard.errors import ConfigError, DatasetError
from regard.text.vocabulary import Vocabulary
from regard.training.devices import Devices


@dataclass(frozen=True)
class Splits:
    """The data set's training and validation parts."""

    train: CaptionDataset
    val: CaptionDataset

    @cached_property
    def digest(self) -> str:
        """SHA-256 of which pictures either part holds and what is said of them."""
        parts = [[(i.key, i.split, i.captions) for i in part] for part in (self.train, self.val)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def absolute_paths(config: DataConfig) -> DataConfig:
    """Return the same places as absolute paths, so that a run can go on from any folder."""
    places = {key: getattr(config, key) for key in ("annotations", "images", "store")}
    local = {k: v for k, v in places.items() if v and "://" not in v}
    return replace(config, **{k: str(Path(v).absolute()) for k, v in local.items()})


def load_splits(config: DataConfig, seed: int, val_limit: int, devices: Devices) -> Splits:
    """Load captions and split them, by picture where the data names no val.

    Args:
        config: the `[data]` section.
        seed: of a split that the data does not name.
        val_limit: keep only the first so many val pictures; 0 keeps all.
        devices: one reads, and tells the others: shards without a list are read through.

    Raises:
        ConfigError: the recipe names no captions.
        DatasetError: they cannot be read, a split is empty or has an unknown name, or a picture
            is in two.
    """
    if not config.annotations:
        raise ConfigError(
            "the recipe names no captions. Give --data FILE --images DIR, or set "
            "data.annotations and data.images."
        )
    dataset = devices.broadcast(
        load_captions(config.annotations, config.images, present_only=config.present_only)
        if devices.rank == 0
        else CaptionDataset((), "")
    )
    _check_names(dataset)
    dataset.check_one_split_each()
    if not any(item.split == "val" for item in dataset.items):
        dataset = dataset.with_split(config.val_fraction, seed)
    train, val = dataset.split("train"), dataset.split("val")
    for name, part in (("train", train), ("val", val)):
        if not part.items:
            raise DatasetError(f"{config.annotations} has no pictures in the {name} split.")
    if config.limit:
        train = replace(train, items=train.items[: config.limit])
    if val_limit:
        val = replace(val, items=val.items[:val_limit])
    return Splits(train, val)


def _check_names(dataset: CaptionDataset) -> None:
    """Refuse a split of another name: what it holds out must not be trained on, nor be lost."""
    odd = [item for item in dataset.items if item.split not in (*SPLITS, UNUSED, "")]
    if odd:
        raise DatasetError(
            f"{dataset.source} names the split {odd[0].split!r} for {odd[0].key} "
            f"({len(odd)} such pictures); it must be train, val, test, unused or nothing. Name it "
            "so; unused leaves pictures out. `regard data check` lists them all."
        )


def check_unchanged(splits: Splits, digest: str | None) -> None:
    """Refuse to go on with other captions or splits than the run began with.

    Pictures would cross between train and val, and the epoch's plan would be another one.

    Args:
        splits: as they are read now.
        digest: of those that the run began with; None: an older regard did not keep it.

    Raises:
        DatasetError: they differ.
    """
    if digest is not None and digest != splits.digest:
        source = splits.train.source
        raise DatasetError(
            f"{source} no longer gives the captions and splits that this run began with "
            f"({len(splits.train)} training and {len(splits.val)} val pictures now). Put back "
            f"what changed there, or begin a new run: --init takes this one's folder, --data "
            "the new captions, --out another folder."
        )


def encode_captions(
    dataset: CaptionDataset, vocabulary: Vocabulary, max_length: int | None = None
) -> list[list[list[int]]]:
    """Return the ids of each caption of each picture, cut at `max_length` where it is given."""
    return [[vocabulary.encode(c)[:max_length] for c in item.captions] for item in dataset.items]


def cut_captions(
    captions: list[list[list[int]]], max_length: int
) -> tuple[list[list[list[int]]], str]:
    """Cut captions at `max_length`, and say how many that were; "" where none was longer.

    What is cut off ends in mid-sentence and teaches to do so, so nobody should miss it.
    """
    lengths = [len(ids) for of_picture in captions for ids in of_picture]
    longer = sum(length > max_length for length in lengths)
    cut = [[ids[:max_length] for ids in of_picture] for of_picture in captions]
    if not longer:
        return cut, ""
    return cut, (
        f"{longer} of {len(lengths)} training captions have more than data.max_length = "
        f"{max_length} tokens and are cut; the longest has {max(lengths)}"
    )
