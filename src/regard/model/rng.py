"""Random numbers of a part of a batch: drawn for the whole batch, and cut.

A batch that several processes share, or that is done in several passes, should see the dropout
masks and the samples that it would see in one piece. So every part draws the numbers of the whole
batch, from a generator in the same state, and keeps the rows of its own pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """A generator for a part of a batch of pictures.

    Attributes:
        generator: in the same state at the beginning of every part.
        part: which pictures of the batch the part holds.
        pictures: of the whole batch.
    """

    generator: torch.Generator
    part: slice
    pictures: int


Randomness = torch.Generator | Draws
"""What random numbers are drawn from: a generator, for all rows, or for a part of them."""


def fork(source: Randomness) -> Randomness:
    """Return a source of its own, seeded by a number drawn from `source`.

    Whoever draws nobody knows how many numbers draws from it, and leaves `source` where all parts
    of a batch have it.
    """
    generator = source.generator if isinstance(source, Draws) else source
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    own = torch.Generator(generator.device).manual_seed(seed)
    return replace(source, generator=own) if isinstance(source, Draws) else own


def bernoulli(
    like: Tensor, shape: tuple[int, ...], chance: float, source: Randomness | None
) -> Tensor:
    """Return 1 with a chance, else 0; see `_drawn` for the arguments."""
    return _drawn(lambda x, g: x.bernoulli_(chance, generator=g), like, shape, source)


def exponential(like: Tensor, shape: tuple[int, ...], source: Randomness | None) -> Tensor:
    """Return exponential numbers of mean 1; see `_drawn` for the arguments."""
    return _drawn(lambda x, g: x.exponential_(generator=g), like, shape, source)


def uniform(like: Tensor, shape: tuple[int, ...], source: Randomness | None) -> Tensor:
    """Return numbers in [0, 1); see `_drawn` for the arguments."""
    return _drawn(lambda x, g: x.uniform_(generator=g), like, shape, source)


def choose(weights: Tensor, source: Randomness | None) -> Tensor:
    """Return one column for each row, (R,), drawn with chances in proportion to its weights.

    arg max(w / E) with exponential E is distributed as w; torch.multinomial draws one column in
    this way too, but cannot be told of rows that other processes hold.

    Args:
        weights: (R, C), not negative.
        source: of the numbers.
    """
    return (weights / exponential(weights, tuple(weights.shape), source)).argmax(-1)


def _drawn(
    fill: Callable[[Tensor, torch.Generator | None], Tensor],
    like: Tensor,
    shape: tuple[int, ...],
    source: Randomness | None,
) -> Tensor:
    """Fill a tensor.

    Args:
        fill: draws in place.
        like: gives type and device.
        shape: of what is returned; its rows are pictures, or the same number of each.
        source: None is torch's own generator.
    """
    if not isinstance(source, Draws):
        return fill(like.new_empty(shape), source)
    rows, *rest = shape
    of_each = rows // len(range(source.pictures)[source.part])
    whole = fill(like.new_empty(source.pictures * of_each, *rest), source.generator)
    return whole.view(source.pictures, of_each, *rest)[source.part].reshape(shape)
