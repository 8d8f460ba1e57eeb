"""Inputs of the network: views of pictures, their stored annotations, and batches of them.

A view is the whole picture, mirrored or not, or a random crop. Its name determines its pixels at
any time and on any machine: the store keeps the annotations of every view for later runs.

On a GPU the stored annotations lie in its memory where they fit; otherwise a thread reads the next
batch from the store while this one is trained on.
"""

import math
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from regard.config import DataConfig, Recipe
from regard.data.caption_records import counted, missing_files
from regard.data.dataset import CaptionDataset, CaptionedItem
from regard.data.shards import read_item
from regard.data.store import AnnotationStore, StoreKey
from regard.errors import ConfigError, DatasetError, MediaError
from regard.media import Input, digest_of
from regard.model.encoders import Encoder
from regard.model.encoders.onnx_encoder import channels_last, encode_with
from regard.training.batches import Chunk, Splits, collate
from regard.training.devices import Devices
from regard.training.objectives.base import Batch, copied
from regard.types import Media
from regard.util.folder_lock import ignore
from regard.util.torch_device import memory_errors

Report = Callable[[int, int], None]
"""Called with how many views are in the store, and how many there will be."""
_CROP = "crop"
_LEAST_SIDE = 0.75  # of the picture's side: captions describe all of it, so most stays in view
_KEPT_BYTES = 2**31  # of decoded media that a trainable encoder reads in every epoch
# Threads that decode files, and pictures, frames or slices that are encoded together.
_ON_CPU, _ON_A_GPU = (2, 32), (16, 128)
_ROWS_AT_ONCE = 512  # of the store, copied to a GPU
_SHARE = 0.5  # of a GPU's free memory that annotations may take; steps need the rest


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
            f"data.crops is {crops}, but encoder.medium is {medium!r}: only pictures can be "
            "cropped. Set data.crops to 0."
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
        message: Callable[[str], None] = ignore,
    ) -> None:
        """Encode the views that are not in the store yet.

        Args:
            encoder: frozen or trainable; on the device of this process.
            splits: all of their pictures are encoded.
            folder: folder of the store.
            views: views of training pictures besides "plain" (`views_of`).
            report: called with (rows done, total rows) after each batch.
            devices: the processes that share the work and the folder, and their devices.
            message: receives a line if the lock of a process that was killed is taken over.

        Raises:
            ConfigError: another run fills the store.
            DatasetError: a picture cannot be read; the message names the first ones.
        """
        self.encoder = encoder
        self.device = devices.device
        self._resident: _ResidentAnnotations | None = None
        self._reader: ThreadPoolExecutor | None = None
        self._ahead: dict[tuple[str, ...], Future[tuple[Tensor, Tensor]]] = {}
        self._items: dict[str, CaptionedItem] = {}
        self._kept: dict[str, Media] = {}
        self._kept_bytes = 0
        self.store: AnnotationStore | None = None
        self._find((*splits.train.items, *splits.val.items), splits.train.source)
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
        if devices.rank == 0 and any(w[:2] not in self.store for w in wanted):
            with self.store.locked(message):
                self._fill(self.store, frozen, wanted, report, devices)
        else:
            self._fill(self.store, frozen, wanted, report, devices)
        self._pairs = list(dict.fromkeys((digest, view) for digest, view, _ in wanted))

    def make_resident(self, wanted: str) -> str:
        """Copy the stored annotations to the GPU, if they fit; return a note on it, or "".

        Args:
            wanted: "on", "off", or "auto": on a CUDA GPU, if they take at most half of its free
                memory. Networks and optimizer should be there already.

        Raises:
            DeviceError: `wanted` is "on", and they do not fit.
        """
        if self.store is None or wanted == "off" or self.device.type == "cpu":
            return ""
        size = 2 * len(self._pairs) * math.prod(self.store.row_shape)
        if wanted == "auto":
            if self.device.type != "cuda":
                return ""
            free = torch.cuda.mem_get_info(self.device)[0]
            if size > _SHARE * free:
                return f"annotations ({size / 1e9:.1f} GB) do not fit on {self.device}"
        with memory_errors(str(self.device), "Set training.resident to off"):
            self._resident = _ResidentAnnotations(self.store, self._pairs, self.device)
        return f"annotations ({size / 1e9:.1f} GB) are resident on {self.device}"

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
            readers, pictures = _ON_CPU if self.device.type == "cpu" else _ON_A_GPU
            with ThreadPoolExecutor(readers) as pool:

                def vectors(batch: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
                    files = list(dict.fromkeys(file for file, _ in batch))
                    media = dict(zip(files, pool.map(self._read, files), strict=True))
                    inputs = list(pool.map(lambda p: self._input(frozen, media[p[0]], p[1]), batch))
                    pixels, mask = stacked(inputs)
                    return encode(pixels, mask), mask

                at_once = max(1, pictures // self.encoder.pictures_per_item)
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
        Both are on the device.
        """
        ahead = self._ahead.pop(_key(items, views), None)
        if self._resident is not None:
            found, mask = self._resident.read(self._wanted(items, views))
        else:
            read = self._read_batch(items, views) if ahead is None else ahead.result()
            found, mask = (copied(x, self.device) for x in read)
        if self.store is None:
            return (found if self.device.type == "cpu" else channels_last(found)), mask
        if self._unfinished:  # the stored grid is another; all cells of pictures are real
            mask = mask.new_ones(len(items), math.prod(self.encoder.grid_shape))
        return found.float(), mask

    @property
    def is_resident(self) -> bool:
        """Whether the stored annotations lie in the GPU's memory."""
        return self._resident is not None

    @property
    def reads_ahead(self) -> bool:
        """Whether a GPU would wait for the next batch to be read."""
        return self.device.type != "cpu" and self._resident is None

    def read_ahead(self, parts: list[tuple[list[CaptionedItem], list[str]]]) -> None:
        """Read items and views of the parts of the next batch in the background, for `read`."""
        self._reader = self._reader or ThreadPoolExecutor(1)
        self._ahead = {_key(*part): self._reader.submit(self._read_batch, *part) for part in parts}

    def _read_batch(self, items: list[CaptionedItem], views: list[str]) -> tuple[Tensor, Tensor]:
        """Return pixels or stored vectors, and the mask, on the CPU; ready to be copied to CUDA."""
        if self.store is None:
            pairs = zip((self.media(item.file) for item in items), views, strict=True)
            arrays = stacked([self._input(self.encoder, m, v) for m, v in pairs])
        else:
            arrays = self.store.read(self._wanted(items, views))
        found, mask = map(torch.from_numpy, arrays)
        return (found.pin_memory() if self.device.type == "cuda" else found), mask

    def _wanted(self, items: list[CaptionedItem], views: list[str]) -> list[tuple[str, str]]:
        return [(self._items[i.file].digest, v) for i, v in zip(items, views, strict=True)]

    def vectors(self, pictures: Tensor, mask: Tensor) -> Tensor:
        """Return the annotation vectors for the result of `read`; gradients reach the encoder."""
        if self.store is None:
            return self.encoder(pictures, mask)
        return self.encoder.finish(pictures)

    def held_out_twins(self, splits: Splits) -> str:
        """Return a note on val pictures with the bytes of training pictures; "" without any."""
        learned = {self._items[item.file].digest: item.key for item in splits.train}
        val = [(item.key, self._items[item.file].digest) for item in splits.val]
        twins = (f"{k!r} (in train {learned[d]!r})" for k, d in val if d in learned)
        note = counted("val pictures with the same bytes as training pictures", twins)
        return note and f"{note}. Scores count what was learned by heart: leave one of each out"

    def _find(self, items: tuple[CaptionedItem, ...], source: str) -> None:
        missing: list[str] = []
        for item in items:
            try:
                digest = item.digest or digest_of(item.file)
                self._items[item.file] = replace(item, digest=digest)
            except OSError:
                missing.append(item.file)
        if missing:
            raise DatasetError(missing_files(source, missing, len(items)))

    def _read(self, file: str) -> Media:
        try:
            return read_item(self._items[file], self.encoder.read)
        except MediaError as error:
            raise DatasetError(
                f"a picture cannot be read: {error} `regard data check` lists all of them."
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


class _ResidentAnnotations:
    """Stored annotations on a GPU: vectors (P, L, D) float16 and mask (P, L)."""

    def __init__(
        self, store: AnnotationStore, pairs: list[tuple[str, str]], device: torch.device
    ) -> None:
        self._rows = {pair: row for row, pair in enumerate(pairs)}
        shape = len(pairs), *store.row_shape
        self._vectors = torch.empty(shape, dtype=torch.float16, device=device)
        self._mask = torch.empty(shape[:2], dtype=torch.bool, device=device)
        for first in range(0, len(pairs), _ROWS_AT_ONCE):
            part = slice(first, first + _ROWS_AT_ONCE)
            vectors, mask = store.read(pairs[part])
            self._vectors[part].copy_(torch.from_numpy(vectors))
            self._mask[part].copy_(torch.from_numpy(mask))

    def read(self, wanted: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
        rows = torch.tensor([self._rows[pair] for pair in wanted])
        index = copied(rows, self._vectors.device)
        return self._vectors[index], self._mask[index]


def _key(items: list[CaptionedItem], views: list[str]) -> tuple[str, ...]:
    return *(item.file for item in items), *views


def make_batch(
    chunks: list[Chunk],
    dataset: CaptionDataset,
    pictures: Pictures,
    views: list[str],
    longest: int = 0,
) -> Batch:
    """Return one batch, or a part of one, from chunks of `plan_epoch`, on the pictures' device.

    Args:
        chunks: chunks of the batch or part.
        dataset: the chunks name its items.
        pictures: gives their vectors or pixels.
        views: views of each chunk (`draw_views`).
        longest: words of the longest caption of the whole batch.
    """
    tokens, targets, steps = collate(chunks, longest)
    vectors, mask = pictures.read([dataset.items[c.item] for c in chunks], views)
    batch = Batch(vectors, mask, tokens, targets, steps, tuple(c.item for c in chunks))
    return batch.to(pictures.device)
