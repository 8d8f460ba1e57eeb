"""Batches: which captions of which pictures go through one step together."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from regard.config import TrainingConfig
from regard.errors import ConfigError
from regard.text.vocabulary import END, PAD, START


@dataclass(frozen=True)
class Chunk:
    """Some captions of one picture that share its projection.

    Attributes:
        item: index of the picture.
        captions: their word ids, without start and end, sorted by length.
    """

    item: int
    captions: tuple[tuple[int, ...], ...]

    @property
    def length(self) -> int:
        """Words of the longest caption."""
        return max(map(len, self.captions))


def make_chunks(
    captions: Sequence[Sequence[Sequence[int]]], captions_per_image: int
) -> list[Chunk]:
    """Split every picture's captions into chunks of similar length.

    Captions are sorted by length first, so that the captions of a chunk waste little padding;
    the chunks of a picture differ in size by one at most (5 captions at 3 a chunk: 3 and 2).

    Args:
        captions: for each picture, the ids of each caption.
        captions_per_image: largest chunk.
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
    """Refuse batches of one length where captions of several lengths share a chunk.

    A model that an older regard trained so still captions and can be resumed, so this is asked of
    a new run and not of a recipe.

    Raises:
        ConfigError: training.batching and training.captions_per_image exclude each other.
    """
    if config.batching == "equal" and config.captions_per_image > 1:
        raise ConfigError(
            'training.batching is "equal", one caption length per batch, and '
            f"training.captions_per_image {config.captions_per_image}: captions of one picture "
            "differ in length. Set training.captions_per_image to 1, or training.batching to "
            '"bucket".'
        )


def plan_epoch(
    chunks: Sequence[Chunk], batch_size: int, batching: str, seed: int, epoch: int
) -> list[list[Chunk]]:
    """Return the batches of one epoch, the same for the same seed and epoch.

    All chunks of a batch hold the same number of captions, so that they line up as N·G rows.
    Every caption occurs exactly once; a last batch may be smaller.

    Args:
        chunks: all of them.
        batch_size: captions per batch (at least one chunk).
        batching: "bucket" (similar lengths), "equal" (one length, the paper: of the longest
            caption of each chunk), "random".
        seed: of the run.
        epoch: of the run.
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
            # The noise lets pictures meet others than those of exactly their length.
            noisy = [(chunk.length + order.random() * 1.5, chunk) for chunk in members]
            members = [chunk for _, chunk in sorted(noisy, key=lambda pair: pair[0])]
        size = max(1, batch_size // key[0])
        batches.extend(members[i : i + size] for i in range(0, len(members), size))
    order.shuffle(batches)
    return batches


def collate(chunks: Sequence[Chunk], longest: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return (tokens, targets, steps), each (B, T).

    tokens is what the decoder reads, targets what it should say, steps which are real.

    Args:
        chunks: whose captions they are.
        longest: words of the longest caption of the batch that these are a part of.
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
