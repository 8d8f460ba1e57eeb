"""Inputs of the network: views of pictures, their stored annotations, and batches of them.

A view is the whole picture, mirrored or not, or a random crop. Its name determines its pixels at
any time and on any machine: the store keeps the annotations of every view for later runs.
"""

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
from regard.training.batches import Chunk, Splits, collate
from regard.training.devices import Devices
from regard.training.objectives.base import Batch
from regard.types import Media

Report = Callable[[int, int], None]
"""Called with how many views are in the store, and how many there will be."""
_CROP = "crop"
_LEAST_SIDE = 0.75  # of the picture's side: captions describe all of it, so most stays in view
_KEPT_BYTES = 2**31  # of decoded media that a trainable encoder reads in every epoch
_PICTURES_AT_ONCE = 32  # pictures, frames or slices that are encoded together


def views_of(config: DataConfig) -> list[str]:
    """Return the names of all views of a training picture, "plain" first.

    If pictures may be mirrored, every second one of the views "crop1", "crop2", ... is.
    """
    flip = ["flip"] if config.flip else []
    mirror = ["", "-flip"] if config.flip else [""]
    crops = [f"{_CROP}{k + 1}{mirror[k % len(mirror)]}" for k in range(config.crops)]
    return ["plain", *flip, *crops]


def check_views(recipe: Recipe) -> None:
    """Check that only pictures are cropped.

    Runs are checked and not recipes, since a model that was trained on crops of pictures may still
    caption clips.

    Raises:
        ConfigError: the recipe asks for crops of clips or scans.
    """
    crops, medium = recipe.data.crops, recipe.encoder.medium
    if crops and medium != "image":
        raise ConfigError(
            f"data.crops is {crops}, and encoder.medium {medium!r}: only pictures can be cropped. "
            "Set data.crops to 0."
        )


def draw_views(config: DataConfig, pictures: int, generator: torch.Generator) -> list[str]:
    """Draw a view for each of a number of pictures, all views with the same probability."""
    views = views_of(config)
    drawn = torch.randint(len(views), (pictures,), generator=generator)
    return [views[k] for k in drawn.tolist()]


def is_mirrored(view: str) -> bool:
    """Return whether left and right are swapped in a view."""
    return view.endswith("flip")


def crop(media: Media, view: str) -> Media:
    """Return the part of a picture that a view shows.

    Each side is cropped to between three quarters and all of its length, so the encoder, which
    resizes to a square, also sees it stretched a little. The crop depends only on the picture and
    the name of the view.

    Args:
        media: (height, width, 3) pixels.
        view: its name.
    """
    if not view.startswith(_CROP):
        return media
    draws = random.Random(f"{view} {media.digest}")
    intervals: list[slice] = []
    for side in media.pixels.shape[:2]:
        kept = max(1, round(side * draws.uniform(_LEAST_SIDE, 1.0)))
        first = round((side - kept) * draws.random())
        intervals.append(slice(first, first + kept))
    return replace(media, pixels=np.ascontiguousarray(media.pixels[tuple(intervals)]))


def stacked(inputs: Sequence[Input]) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels and masks of several inputs as arrays."""
    return np.stack([i.pixels for i in inputs]), np.stack([i.mask for i in inputs])


class Pictures:
    """The pictures (clips, scans) of batches: stored annotation vectors, or pixels.

    A frozen encoder, or the frozen part of one, runs once and its vectors are read from the store.
    An encoder that is trained as a whole receives pixels, since its vectors change with every step.
    """

    def __init__(
        self,
        encoder: Encoder,
        splits: Splits,
        folder: Path,
        *,
        views: Sequence[str],
        report: Report,
        devices: Devices,
    ) -> None:
        """Encode the views that are not in the store yet.

        Args:
            encoder: frozen or trainable.
            splits: all of their pictures are encoded.
            folder: folder of the store.
            views: views of training pictures besides "plain" (`views_of`).
            report: called with (rows done, total rows) after each batch.
            devices: the processes that share the work and the folder.

        Raises:
            DatasetError: a picture cannot be read; the message names the first ones.
        """
        self.encoder = encoder
        self._items: dict[str, CaptionedItem] = {}
        self._kept: dict[str, Media] = {}
        self._kept_bytes = 0
        self.store: AnnotationStore | None = None
        self._find((*splits.train.items, *splits.val.items))
        frozen = encoder.frozen_part()
        self._unfinished = frozen is not encoder
        if frozen is None:
            return
        key = StoreKey(frozen.digest(), frozen.grid_shape, frozen.annotation_dim)
        self.store = AnnotationStore(folder, key)
        # All views of a picture in a row, so that a batch reads the picture once for them.
        wanted = [
            (self._items[item.file].digest, view, item.file)
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
        report: Report,
        devices: Devices,
    ) -> None:
        """Encode this device's share of the missing views, then open those of the others."""
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
                    pixels, mask = stacked(inputs)
                    return encode(pixels, mask), mask

                at_once = max(1, _PICTURES_AT_ONCE // self.encoder.pictures_per_item)
                # If `report` raises, the generator is closed and writes what is encoded.
                with closing(store.fill(share, vectors, at_once)) as filled:
                    for done in filled:
                        report(done, total)
        devices.barrier()
        store.refresh()
        absent = [file for digest, view, file in wanted if (digest, view) not in store]
        if absent:
            raise DatasetError(
                f"the store {store.folder} lacks {len(absent)} of {len(wanted)} views, which other "
                "devices encoded elsewhere. Set data.store to a folder that all of them share."
            )

    def read(self, items: list[CaptionedItem], views: list[str]) -> tuple[Tensor, Tensor]:
        """Return the input of `vectors`, float32, and the mask (N, L) of its output.

        The input is pixels (N, ...), or from the store vectors of the encoder or its frozen part.
        """
        if self.store is None:
            pairs = zip((self.media(item.file) for item in items), views, strict=True)
            pixels, mask = stacked([self._input(self.encoder, m, v) for m, v in pairs])
            return torch.from_numpy(pixels), torch.from_numpy(mask)
        wanted = [(self._items[i.file].digest, v) for i, v in zip(items, views, strict=True)]
        vectors, mask = self.store.read(wanted)
        if self._unfinished:  # the stored grid is another; all cells of pictures are real
            mask = np.ones((len(items), math.prod(self.encoder.grid_shape)), bool)
        return torch.from_numpy(vectors).float(), torch.from_numpy(mask)

    def vectors(self, pictures: Tensor, mask: Tensor) -> Tensor:
        """Return the annotation vectors for the result of `read`; gradients reach the encoder."""
        if self.store is None:
            return self.encoder(pictures, mask)
        return self.encoder.finish(pictures)

    def _find(self, items: tuple[CaptionedItem, ...]) -> None:
        missing: list[str] = []
        for item in items:
            try:
                digest = item.digest or digest_of(item.file)
                self._items[item.file] = replace(item, digest=digest)
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
        """Return the decoded file. It is cached up to a limit of memory."""
        if file in self._kept:
            return self._kept[file]
        media = self._read(file)
        if self._kept_bytes + media.pixels.nbytes <= _KEPT_BYTES:
            self._kept[file] = media
            self._kept_bytes += media.pixels.nbytes
        return media

    @staticmethod
    def _input(encoder: Encoder, media: Media, view: str) -> Input:
        found = encoder.prepare(crop(media, view))
        if not is_mirrored(view):
            return found
        return replace(found, pixels=np.ascontiguousarray(found.pixels[..., ::-1]))


def make_batch(
    chunks: list[Chunk],
    dataset: CaptionDataset,
    pictures: Pictures,
    views: list[str],
    longest: int = 0,
) -> Batch:
    """Return one batch, or a part of one, from chunks of `plan_epoch`.

    Args:
        chunks: chunks of the batch or part.
        dataset: the chunks name its items.
        pictures: gives their vectors or pixels.
        views: views of each chunk (`draw_views`).
        longest: words of the longest caption of the whole batch.
    """
    tokens, targets, steps = collate(chunks, longest)
    vectors, mask = pictures.read([dataset.items[c.item] for c in chunks], views)
    return Batch(vectors, mask, tokens, targets, steps, tuple(c.item for c in chunks))
