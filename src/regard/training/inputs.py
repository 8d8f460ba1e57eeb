"""Views of a training picture: as it is, mirrored, or a random part of it.

A view is known by its name, from which the same pixels come at any time, on any machine: the store
keeps the annotations of every view, and the next run finds them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from regard.config import DataConfig, Recipe
from regard.data.dataset import CaptionDataset, CaptionedItem
from regard.data.shards import read_item
from regard.data.store import AnnotationStore, StoreKey
from regard.errors import ConfigError, DatasetError, MediaError
from regard.media import Input, digest_of
from regard.model.encoders import Encoder
from regard.model.encoders.onnx_encoder import encode_with
from regard.training.batches import Chunk, collate
from regard.training.devices import Devices
from regard.training.objectives.base import Batch
from regard.training.prepare import Splits
from regard.types import Media

_LEAST_SIDE = 0.75  # of the picture's; people describe the whole, which should stay in view
_CROP = "crop"


def views_of(config: DataConfig) -> list[str]:
    """Return the names of all views of a training picture, "plain" first.

    Of the views "crop1", "crop2", ... every second one is mirrored where pictures may be.
    """
    flip = ["flip"] if config.flip else []
    mirror = ["", "-flip"] if config.flip else [""]
    crops = [f"{_CROP}{k + 1}{mirror[k % len(mirror)]}" for k in range(config.crops)]
    return ["plain", *flip, *crops]


def check_views(recipe: Recipe) -> None:
    """Refuse views that a medium does not have.

    A model of pictures that was trained on parts of them may still caption clips, so this is asked
    of a run and not of a recipe.

    Raises:
        ConfigError: parts are wanted of clips or scans.
    """
    crops, medium = recipe.data.crops, recipe.encoder.medium
    if crops and medium != "image":
        raise ConfigError(
            f"data.crops is {crops}, and encoder.medium {medium!r}: only pictures are cut. Set "
            "data.crops to 0."
        )


def draw_views(config: DataConfig, pictures: int, generator: torch.Generator) -> list[str]:
    """Draw a view for each of so many pictures, all views alike."""
    views = views_of(config)
    drawn = torch.randint(len(views), (pictures,), generator=generator)
    return [views[k] for k in drawn.tolist()]


def mirrored(view: str) -> bool:
    """Whether a view is mirrored, left for right."""
    return view.endswith("flip")


def cut(media: Media, view: str) -> Media:
    """Return the part of a picture that a view shows, at its own place and shape.

    Each side is cut to between three quarters and the whole of its length, so that a part is also
    stretched a little. Where it lies depends on the picture and the view's name alone.

    Args:
        media: (height, width, 3) pixels.
        view: its name.
    """
    if not view.startswith(_CROP):
        return media
    draws = random.Random(f"{view} {media.digest}")
    rows, cols = (_interval(side, draws) for side in media.pixels.shape[:2])
    return replace(media, pixels=np.ascontiguousarray(media.pixels[rows, cols]))


def _interval(side: int, draws: random.Random) -> slice:
    kept = max(1, round(side * draws.uniform(_LEAST_SIDE, 1.0)))
    first = round((side - kept) * draws.random())
    return slice(first, first + kept)


_KEPT_BYTES = 2**31  # of decoded media that a trainable encoder reads in every epoch
_PICTURES_AT_ONCE = 32  # pictures, frames or slices that are encoded together


class Pictures:
    """Gives a batch its pictures (clips, scans): stored annotation vectors, or pixels.

    A frozen encoder, or the frozen part of one, is run once and its vectors are read from the
    store; one that is trained as a whole gets pixels, since its vectors change with every step.
    """

    def __init__(
        self,
        encoder: Encoder,
        splits: Splits,
        folder: Path,
        *,
        views: Sequence[str],
        report: Callable[[int, int], None],
        devices: Devices,
    ) -> None:
        """Encode what the store does not hold yet.

        Args:
            encoder: frozen or trainable.
            splits: whose pictures are wanted.
            folder: of the store.
            views: of training pictures that are wanted besides "plain" (`training.views`).
            report: is told (rows done, rows wanted) after each batch.
            devices: that share the work; their folder is one.

        Raises:
            DatasetError: a picture cannot be read; the message names the first ones.
        """
        self.encoder = encoder
        self._digests: dict[str, str] = {}
        self._items: dict[str, CaptionedItem] = {}
        self._kept: dict[str, Media] = {}
        self._kept_bytes = 0
        self.store: AnnotationStore | None = None
        everything = (*splits.train.items, *splits.val.items)
        self._check(everything)
        frozen = encoder.frozen_part()
        self._unfinished = frozen is not encoder
        if frozen is None:
            return
        key = StoreKey(frozen.digest(), frozen.grid_shape, frozen.annotation_dim)
        self.store = AnnotationStore(folder, key)
        # All views of a picture one after the other: it is read once for those of a batch.
        wanted = [
            (self._digests[item.file], view, item.file)
            for split, seen in ((splits.train, ("plain", *views)), (splits.val, ("plain",)))
            for item in split.items
            for view in seen
        ]
        self._fill(self.store, frozen, wanted, report, devices)

    def _fill(
        self,
        store: AnnotationStore,
        frozen: Encoder,
        wanted: list[tuple[str, str, str]],
        report: Callable[[int, int], None],
        devices: Devices,
    ) -> None:
        """Encode this device's part of what is missing, and find what the others encoded."""
        first, after = (r * len(wanted) // devices.world for r in (devices.rank, devices.rank + 1))
        share = wanted[first:after]
        missing = {(digest, view) for digest, view, _ in share if (digest, view) not in store}
        if missing:
            encode = encode_with(frozen)  # takes seconds
            total = len(store) + len(missing)
            with ThreadPoolExecutor(2) as pool:

                def vectors(batch: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
                    files = list(dict.fromkeys(file for file, _ in batch))
                    media = dict(zip(files, pool.map(self._read, files), strict=True))
                    inputs = list(pool.map(lambda p: self._input(frozen, media[p[0]], p[1]), batch))
                    mask = np.stack([i.mask for i in inputs])
                    return encode(np.stack([i.pixels for i in inputs]), mask), mask

                at_once = max(1, _PICTURES_AT_ONCE // self.encoder.pictures_per_item)
                # Closed at once where `report` is interrupted: then it writes what it has.
                with closing(store.fill(share, vectors, at_once)) as filled:
                    for done in filled:
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
        """Return what `vectors` takes, as float32, and mask (N, L) of the vectors.

        That is pixels (N, ...), or what the store holds: vectors, or those of the frozen part.
        """
        if self.store is None:
            media = (self.media(i.file) for i in items)
            pairs = zip(media, views, strict=True)
            inputs = [self._input(self.encoder, m, v) for m, v in pairs]
            mask = np.stack([i.mask for i in inputs])
            return torch.from_numpy(np.stack([i.pixels for i in inputs])), torch.from_numpy(mask)
        wanted = [(self._digests[i.file], v) for i, v in zip(items, views, strict=True)]
        vectors, mask = self.store.read(wanted)
        if self._unfinished:  # another grid, of pictures, all of whose cells are real
            mask = np.ones((len(items), math.prod(self.encoder.grid_shape)), bool)
        return torch.from_numpy(vectors).float(), torch.from_numpy(mask)

    def vectors(self, pictures: Tensor, mask: Tensor) -> Tensor:
        """Return annotation vectors of what `read` gave; gradients reach the encoder."""
        if self.store is None:
            return self.encoder(pictures, mask)
        return self.encoder.finish(pictures)

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

    @staticmethod
    def _input(encoder: Encoder, media: Media, view: str) -> Input:
        found = encoder.prepare(cut(media, view))
        if not mirrored(view):
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
        views: of each chunk (`training.views`).
        longest: words of the longest caption of the whole batch.
    """
    tokens, targets, steps = collate(chunks, longest)
    vectors, mask = pictures.read([dataset.items[c.item] for c in chunks], views)
    return Batch(vectors, mask, tokens, targets, steps, tuple(c.item for c in chunks))
