"""Batches: the splits of a run, and the grouping of their captions into steps."""

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from regard.config import TrainingConfig
from regard.data.dataset import CaptionDataset
from regard.errors import ConfigError
from regard.text.vocabulary import END, PAD, START, Vocabulary


@dataclass(frozen=True)
class Splits:
    """The training and validation parts of a data set."""

    train: CaptionDataset
    val: CaptionDataset

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the keys, splits and captions of both parts."""
        parts = [[(i.key, i.split, i.captions) for i in part] for part in (self.train, self.val)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def encode_captions(
    dataset: CaptionDataset, vocabulary: Vocabulary, max_length: int | None = None
) -> list[list[list[int]]]:
    """Return the word ids of each caption of each picture, cut at `max_length` if it is given."""
    return [[vocabulary.encode(c)[:max_length] for c in item.captions] for item in dataset.items]


@dataclass(frozen=True)
class Chunk:
    """Captions of one picture that share its projection.

    Attributes:
        item: index of the picture.
        captions: their word ids, without start and end, sorted by length.
    """

    item: int
    captions: tuple[tuple[int, ...], ...]

    @property
    def length(self) -> int:
        """Number of words of the longest caption."""
        return max(map(len, self.captions))


def make_chunks(
    captions: Sequence[Sequence[Sequence[int]]], captions_per_image: int
) -> list[Chunk]:
    """Split the captions of every picture into chunks of similar length.

    Captions are sorted by length first, which keeps the padding in a chunk small. The sizes of a
    picture's chunks differ by at most one (5 captions with 3 per chunk: 3 and 2).

    Args:
        captions: word ids of each caption of each picture.
        captions_per_image: size of the largest chunk.
    """
    chunks: list[Chunk] = []
    for item, of_picture in enumerate(captions):
        ordered = sorted((tuple(c) for c in of_picture), key=len)
        count = -(-len(ordered) // captions_per_image)
        for k in range(count):
            start, stop = k * len(ordered) // count, (k + 1) * len(ordered) // count
            chunks.append(Chunk(item, tuple(ordered[start:stop])))
    return chunks


def check_batching(config: TrainingConfig) -> None:
    """Check that batches of one length do not take several captions of a picture.

    Only new runs are checked, not recipes: runs of older versions can still be loaded and resumed.

    Raises:
        ConfigError: training.batching and training.captions_per_image exclude each other.
    """
    if config.batching == "equal" and config.captions_per_image > 1:
        raise ConfigError(
            'training.batching is "equal", one caption length per batch, and '
            f"training.captions_per_image is {config.captions_per_image}: captions of one picture "
            "differ in length. Set training.captions_per_image to 1, or training.batching to "
            '"bucket".'
        )


def plan_epoch(
    chunks: Sequence[Chunk], batch_size: int, batching: str, seed: int, epoch: int
) -> list[list[Chunk]]:
    """Return the batches of one epoch. They depend only on the arguments.

    All chunks of a batch hold the same number of captions G, so a batch has N·G rows. Every
    caption occurs exactly once; the last batch of each G may be smaller.

    Args:
        chunks: all chunks of the training split.
        batch_size: captions per batch (at least one chunk).
        batching: "bucket" (similar lengths), "equal" (one length, as in the paper: that of the
            longest caption of each chunk) or "random".
        seed: the run's seed.
        epoch: number of the epoch.
    """
    order = random.Random(f"{seed} {epoch}")
    groups: dict[tuple[int, ...], list[Chunk]] = defaultdict(list)
    for chunk in chunks:
        key = (len(chunk.captions), chunk.length) if batching == "equal" else (len(chunk.captions),)
        groups[key].append(chunk)
    batches: list[list[Chunk]] = []
    for key in sorted(groups):
        members = list(groups[key])
        order.shuffle(members)
        if batching == "bucket":
            # Noise mixes captions of nearly the same length.
            noisy = [(chunk.length + order.random() * 1.5, chunk) for chunk in members]
            members = [chunk for _, chunk in sorted(noisy, key=lambda pair: pair[0])]
        size = max(1, batch_size // key[0])
        batches.extend(members[i : i + size] for i in range(0, len(members), size))
    order.shuffle(batches)
    return batches


def collate(chunks: Sequence[Chunk], longest: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return (tokens, targets, steps), each (B, T): inputs, targets, and which steps are real.

    For the captions [7, 8] and [9], with <start> 1, <end> 2 and <pad> 0:
    tokens [[1, 9, 0], [1, 7, 8]], targets [[9, 2, 0], [7, 8, 2]].

    Args:
        chunks: their captions are the rows.
        longest: words of the longest caption of the whole batch, if the chunks are a part of one.
    """
    captions = [caption for chunk in chunks for caption in chunk.captions]
    steps = max(longest, *map(len, captions)) + 1
    tokens = torch.full((len(captions), steps), PAD)
    targets = torch.full((len(captions), steps), PAD)
    for row, caption in enumerate(captions):
        words = torch.tensor(caption, dtype=torch.long)
        tokens[row, 0] = START
        tokens[row, 1 : len(caption) + 1] = words
        targets[row, : len(caption)] = words
        targets[row, len(caption)] = END
    lengths = torch.tensor([len(c) + 1 for c in captions])
    return tokens, targets, torch.arange(steps) < lengths[:, None]
