"""What a run needs before its first step: captions, vocabulary, encoder, annotations."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from regard.config import DataConfig
from regard.data.dataset import CaptionDataset, CaptionedItem
from regard.data.shards import load_captions, read_item
from regard.data.store import AnnotationStore, StoreKey
from regard.encoders import Encoder
from regard.encoders.fast import encode_with
from regard.errors import ConfigError, DatasetError, MediaError
from regard.media import Input, digest_of
from regard.training.batches import Chunk, collate
from regard.training.devices import Devices
from regard.training.objective import Batch
from regard.types import Media
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


_KEPT_BYTES = 2**31  # of decoded media that a trainable encoder reads in every epoch
_PICTURES_AT_ONCE = 32  # pictures, frames or slices that are encoded together


class Pictures:
    """Gives a batch its pictures (clips, scans): stored annotation vectors, or pixels.

    A frozen encoder is run once and its vectors are read from the store; a trainable one gets
    pixels, since its vectors change with every step.
    """

    def __init__(
        self,
        encoder: Encoder,
        splits: Splits,
        folder: Path,
        *,
        flip: bool,
        report: Callable[[int, int], None],
        devices: Devices,
    ) -> None:
        """Encode what the store does not hold yet.

        Args:
            encoder: frozen or trainable.
            splits: whose pictures are wanted.
            folder: of the store.
            flip: also mirrored training pictures.
            report: is told (rows done, rows wanted) after each batch.
            devices: that share the work; their folder is one.

        Raises:
            DatasetError: a picture cannot be read; the message names the first ones.
        """
        self.encoder = encoder
        self.flip = flip
        self._digests: dict[str, str] = {}
        self._items: dict[str, CaptionedItem] = {}
        self._kept: dict[str, Media] = {}
        self._kept_bytes = 0
        self.store: AnnotationStore | None = None
        everything = (*splits.train.items, *splits.val.items)
        self._check(everything)
        if any(parameter.requires_grad for parameter in encoder.parameters()):
            return
        key = StoreKey(encoder.digest(), encoder.grid_shape, encoder.annotation_dim)
        self.store = AnnotationStore(folder, key)
        wanted = [(self._digests[i.file], "plain", i.file) for i in everything]
        if flip:
            wanted += [(self._digests[i.file], "flip", i.file) for i in splits.train.items]
        self._fill(self.store, wanted, report, devices)

    def _fill(
        self,
        store: AnnotationStore,
        wanted: list[tuple[str, str, str]],
        report: Callable[[int, int], None],
        devices: Devices,
    ) -> None:
        """Encode this device's part of what is missing, and find what the others encoded."""
        first, after = (r * len(wanted) // devices.world for r in (devices.rank, devices.rank + 1))
        share = wanted[first:after]
        missing = {(digest, view) for digest, view, _ in share if (digest, view) not in store}
        if missing:
            encode = encode_with(self.encoder)  # takes seconds
            total = len(store) + len(missing)
            with ThreadPoolExecutor(2) as pool:

                def vectors(batch: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
                    inputs = list(
                        pool.map(lambda pair: self._input(self._read(pair[0]), pair[1]), batch)
                    )
                    mask = np.stack([i.mask for i in inputs])
                    return encode(np.stack([i.pixels for i in inputs]), mask), mask

                at_once = max(1, _PICTURES_AT_ONCE // self.encoder.pictures_per_item)
                for done in store.fill(share, vectors, at_once):
                    report(done, total)
        devices.barrier()
        store.refresh()
        absent = [file for digest, view, file in wanted if (digest, view) not in store]
        if absent:
            raise DatasetError(
                f"the store {store.folder} lacks {len(absent)} of {len(wanted)} views, which other "
                "devices encoded elsewhere. Name a folder in data.store that all of them see."
            )

    def read(self, items: list[CaptionedItem], views: list[str]) -> tuple[Tensor, Tensor]:
        """Return stored vectors (N, L, D) or pixels (N, ...) as float32, and mask (N, L)."""
        if self.store is None:
            inputs = [self._input(self.media(i.file), v) for i, v in zip(items, views, strict=True)]
            mask = np.stack([i.mask for i in inputs])
            return torch.from_numpy(np.stack([i.pixels for i in inputs])), torch.from_numpy(mask)
        wanted = [(self._digests[i.file], v) for i, v in zip(items, views, strict=True)]
        vectors, mask = self.store.read(wanted)
        return torch.from_numpy(vectors).float(), torch.from_numpy(mask)

    def vectors(self, pictures: Tensor, mask: Tensor) -> Tensor:
        """Return annotation vectors of what `read` gave; gradients reach the encoder."""
        return pictures if self.store is not None else self.encoder(pictures, mask)

    def _check(self, items: tuple[CaptionedItem, ...]) -> None:
        missing: list[str] = []
        for item in items:
            try:
                self._items[item.file] = item
                self._digests[item.file] = item.digest or digest_of(item.file)
            except OSError:
                missing.append(item.file)
        if missing:
            raise DatasetError(
                f"{len(missing)} of {len(items)} pictures cannot be opened, the first: "
                f"{', '.join(missing[:3])}. `regard data check` lists them all."
            )

    def _read(self, file: str) -> Media:
        try:
            return read_item(self._items[file], self.encoder.read)
        except MediaError as error:
            raise DatasetError(
                f"a picture cannot be read: {error} `regard data check` lists all such."
            ) from error

    def media(self, file: str) -> Media:
        """Return a file as it was read; it is kept, and not decoded again."""
        if file in self._kept:
            return self._kept[file]
        media = self._read(file)
        if self._kept_bytes + media.pixels.nbytes <= _KEPT_BYTES:
            self._kept[file] = media
            self._kept_bytes += media.pixels.nbytes
        return media

    def _input(self, media: Media, view: str) -> Input:
        found = self.encoder.prepare(media)
        if view != "flip":
            return found
        return replace(found, pixels=np.ascontiguousarray(found.pixels[..., ::-1]))


def make_batch(
    chunks: list[Chunk],
    dataset: CaptionDataset,
    pictures: Pictures,
    views: list[str],
    longest: int = 0,
) -> Batch:
    """Gather one batch, or a part of one, from the chunks that an epoch's plan put together.

    Args:
        chunks: of the part.
        dataset: whose items they name.
        pictures: gives their vectors or pixels.
        views: of each chunk, "plain" or "flip".
        longest: words of the longest caption of the whole batch.
    """
    tokens, targets, steps = collate(chunks, longest)
    vectors, mask = pictures.read([dataset.items[c.item] for c in chunks], views)
    return Batch(vectors, mask, tokens, targets, steps, tuple(c.item for c in chunks))
