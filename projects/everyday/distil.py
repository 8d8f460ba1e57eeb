"""A small encoder that learns what CLIP's grid holds.

EfficientNet-Lite0 reads 256 pixels to 8×8 cells, and a 1×1 convolution maps its features to those
of CLIP's annotations (`regard.model.encoders.efficientnet_lite.DistilledLite`). Its targets are the
means of the large grid's cells. The loss has three parts: the distance of the cells, each feature
in units of its deviation; the distance of the picture's mean; and the divergence of what the bank
names in a cell from what it names in the target, since small errors in the directions of concepts
change the words. The bank stays as it is, so a concept that is taught later has the same direction
in both models.

Half of each batch learns from captions and labels instead, as the bank did, since the small encoder
soon knows the pictures of the other half by heart: their loss falls, and that of others does not.

The first blocks are not trained, so their features are computed once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from projects.everyday.bank import head_loss, rarities
from projects.everyday.encode import PARTS, VIEW, Parts
from regard.config import EncoderConfig
from regard.data import AnnotationStore
from regard.model.encoders.efficientnet_lite import DistilledLite
from regard.model.pointer import Pointer

ENCODER, SIZE, FROZEN_BLOCKS = "efficientnet_lite0_clip", 256, 11
SAMPLES, BATCH, LEARNING_RATE = 40_000, 24, 1e-3
_WEIGHT_DECAY, _BETAS = 0.05, (0.9, 0.99)
_WARM_UP, _LAST_RATE = 100, 0.01  # steps; share of the rate at the end of the cosine
_CLIP_NORM = 1.0
_FLIPPED, _PASTED = 0.5, 0.5  # shares of the batches
_SHORTEST, _LONGEST = 1 / 4, 5 / 8  # side of a pasted rectangle in shares of the grid's
_MEAN_WEIGHT, _NAMING_WEIGHT, _LABEL_WEIGHT = 1.0, 0.5, 0.1
_LEAST = 1e-8


def student_config(weights: str = "") -> EncoderConfig:
    """Return the recipe of the small encoder; its last blocks and its head are trained.

    Args:
        weights: as `encoder.weights`; "": the shipped model's or, without one, ImageNet's.
    """
    return EncoderConfig(
        ENCODER, SIZE, "dense", "squash", trainable=True, frozen_blocks=FROZEN_BLOCKS,
        weights=weights,
    )  # fmt: skip


@torch.no_grad()
def first_features(
    student: DistilledLite,
    files: Sequence[str],
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Return what the frozen first blocks give for N pictures, (N, L', F) float16.

    Raises:
        MediaError: a picture cannot be read.
    """
    first = student.frozen_part()
    assert first is not None  # blocks are frozen
    found: list[Tensor] = []
    for at in range(0, len(files), BATCH):
        batch = files[at : at + BATCH]
        pixels = np.stack([student.prepare(student.read(Path(file))).pixels for file in batch])
        channels_last = torch.from_numpy(pixels).to(memory_format=torch.channels_last)
        found.append(first(channels_last).half())
        report(at + len(batch), len(files))
    return torch.cat(found)


def normalised(vectors: Tensor, parts: Parts = PARTS) -> Tensor:
    """Return annotations (..., D) whose parts have mean 0 and variance 1."""
    each = (functional.layer_norm(x, x.shape[-1:]) for x in vectors.split(parts.sizes, -1))
    return torch.cat(list(each), -1)


def targets_of(
    store: AnnotationStore, digests: Sequence[str], side: int, parts: Parts = PARTS
) -> Tensor:
    """Return the means of stored cells on a grid of side×side cells, (N, side², D) float16."""
    found: list[Tensor] = []
    for at in range(0, len(digests), 64):
        vectors, _ = store.read((digest, VIEW) for digest in digests[at : at + 64])
        grid = torch.from_numpy(vectors).float().transpose(1, 2).unflatten(2, store.key.grid_shape)
        pooled = functional.adaptive_avg_pool2d(grid, side).flatten(2).transpose(1, 2)
        found.append(normalised(pooled, parts).half())
    return torch.cat(found)


@dataclass(frozen=True)
class Losses:
    """The parts of the loss of a batch: means over its pictures, cells and features.

    Attributes:
        cells: squared distance of the cells, in units of each feature's variance.
        mean: the same of the pictures' means.
        naming: Kullback-Leibler divergence of what the cells name, in nats.
    """

    cells: Tensor
    mean: Tensor
    naming: Tensor

    @property
    def total(self) -> Tensor:
        """The weighted sum, which is trained."""
        return self.cells + _MEAN_WEIGHT * self.mean + _NAMING_WEIGHT * self.naming


def losses(found: Tensor, wanted: Tensor, deviation: Tensor, pointer: Pointer) -> Losses:
    """Compare annotations (N, L, D) with their targets.

    Args:
        found: the student's.
        wanted: the targets.
        deviation: (D,), of each feature over all targets.
        pointer: with the bank.
    """
    with torch.no_grad():
        shares = _logits(pointer, wanted).softmax(-1)
    divergence = shares * (shares.clamp_min(_LEAST).log() - _logits(pointer, found).log_softmax(-1))
    return Losses(
        ((found - wanted) / deviation).square().mean(),
        ((found.mean(1) - wanted.mean(1)) / deviation).square().mean(),
        divergence.sum(-1).mean(),
    )


def _logits(pointer: Pointer, vectors: Tensor) -> Tensor:
    """Return the logits of C concepts and of nothing, (N, L, C + 1)."""
    mask = torch.ones(vectors.shape[:2], dtype=torch.bool)
    cells, whole = pointer.likeness(vectors, mask)
    scores = pointer.scores(cells, whole, pointer.vectors, pointer.threshold)
    return torch.cat([scores, scores.new_zeros(*scores.shape[:2], 1)], -1)


def augmented(features: Tensor, targets: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
    """Return a batch with flips and pasted rectangles, the same in features and targets.

    Args:
        features: (N, s·side, s·side, F), of the first blocks.
        targets: (N, side, side, D).
        rng: of all draws.
    """
    side = targets.shape[1]
    fine = features.shape[1] // side
    if rng.random() < _FLIPPED:
        features, targets = features.flip(2), targets.flip(2)
    if rng.random() < _PASTED:
        low, high = (max(1, round(share * side)) for share in (_SHORTEST, _LONGEST))
        rows, cols = rng.randint(low, high), rng.randint(low, high)
        top, left = rng.randint(0, side - rows), rng.randint(0, side - cols)
        other = rng.sample(range(len(targets)), len(targets))
        features, targets = features.clone(), targets.clone()
        for grid, scale in ((features, fine), (targets, 1)):
            at = (
                slice(None),
                slice(scale * top, scale * (top + rows)),
                slice(scale * left, scale * (left + cols)),
            )
            grid[at] = grid[other][at]
    return features, targets


@dataclass(frozen=True)
class Lessons:
    """N pictures to learn from.

    Attributes:
        features: (N, L', F), what the first blocks give for them.
        taught: M of the N, which have targets.
        targets: (M, L, D), see `targets_of`.
        labels: (N, C) in 0..1, what captions and labels say that they show.
        absence: (N, 1), the weight of what they do not say (`weak_labels.Examples`).
    """

    features: Tensor
    taught: Sequence[int]
    targets: Tensor
    labels: Tensor
    absence: Tensor


def distil(
    student: DistilledLite,
    lessons: Lessons,
    pointer: Pointer,
    *,
    samples: int = SAMPLES,
    batch_size: int = BATCH,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
) -> Iterator[tuple[Losses, Tensor]]:
    """Train the last blocks and the head of a small encoder in place, by AdamW.

    Args:
        student: with frozen first blocks.
        lessons: the pictures.
        pointer: with the bank.
        samples: pictures drawn in all, from each half.
        batch_size: pictures of a step, from each half.
        learning_rate: at its peak.
        seed: seed of all draws.

    Yields:
        The losses of each step: those of the cells, and that of the labels.
    """
    rng, steps = random.Random(seed), max(1, samples // batch_size)
    generator = torch.Generator().manual_seed(seed)
    flat = lessons.targets[:: max(1, len(lessons.targets) // 500)].float().flatten(0, 1)
    deviation = flat.std(0).clamp_min(1e-3)
    student.start_at(flat.mean(0))
    rare = rarities(lessons.labels)
    weights = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, learning_rate, _BETAS, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    student.train().to(memory_format=torch.channels_last)  # depthwise layers: twice as fast
    for _ in range(steps):
        inputs, wanted = _taught_batch(lessons, batch_size, rng)
        rows = torch.multinomial(rare, batch_size, replacement=True, generator=generator)
        both = student.finish(torch.cat([inputs, lessons.features[rows].float()]))
        found = losses(both[:batch_size], wanted, deviation, pointer)
        cells = _logits(pointer, both[batch_size:])[..., :-1]
        pictures = cells.logsumexp(1) - math.log(cells.shape[1])
        labelled = head_loss(pictures, lessons.labels[rows].float(), lessons.absence[rows])
        optimizer.zero_grad(set_to_none=True)
        (found.total + _LABEL_WEIGHT * labelled).backward()
        torch.nn.utils.clip_grad_norm_(weights, _CLIP_NORM)
        optimizer.step()
        schedule.step()
        yield found, labelled.detach()
    student.eval()


def _taught_batch(lessons: Lessons, size: int, rng: random.Random) -> tuple[Tensor, Tensor]:
    """Draw pictures with targets: features (B, L', F) and targets (B, L, D), augmented."""
    rows = rng.choices(range(len(lessons.taught)), k=size)
    features = lessons.features[[lessons.taught[row] for row in rows]].float()
    targets = lessons.targets[rows].float()
    grids = (x.unflatten(1, (math.isqrt(x.shape[1]),) * 2) for x in (features, targets))
    features, targets = augmented(*grids, rng)
    return features.flatten(1, 2), targets.flatten(1, 2)


def _rate(step: int, steps: int) -> float:
    """Return the share of the peak rate: linear warm-up times a cosine."""
    cosine = (1 + math.cos(math.pi * min(1, step / steps))) / 2
    return min(1, (step + 1) / _WARM_UP) * (_LAST_RATE + (1 - _LAST_RATE) * cosine)
