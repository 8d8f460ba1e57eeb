"""What a run needs before its first step: captions, vocabulary, encoder, annotations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from regard.config import DataConfig
from regard.data.dataset import CaptionDataset
from regard.data.shards import load_captions
from regard.errors import ConfigError, DatasetError
from regard.training.devices import Devices
from regard.vocabulary import Vocabulary


@dataclass(frozen=True)
class Splits:
    """The data set's training and validation parts."""

    train: CaptionDataset
    val: CaptionDataset


def absolute_paths(config: DataConfig) -> DataConfig:
    """Return the same places as absolute paths, so that a run can go on from any folder."""
    places = {key: getattr(config, key) for key in ("annotations", "images", "store")}
    local = {k: v for k, v in places.items() if v and "://" not in v}
    return replace(config, **{k: str(Path(v).absolute()) for k, v in local.items()})


def load_splits(config: DataConfig, seed: int, val_limit: int, devices: Devices) -> Splits:
    """Load captions and split them, by picture where the data names no split.

    Args:
        config: the `[data]` section.
        seed: of a split that the data does not name.
        val_limit: keep only the first so many val pictures; 0 keeps all.
        devices: one reads, and tells the others: shards without a list are read through.

    Raises:
        ConfigError: the recipe names no captions.
        DatasetError: they cannot be read, or a split is empty.
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
