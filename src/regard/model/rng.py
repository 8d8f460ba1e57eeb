"""Random numbers for a slice of a batch: drawn for the whole batch, then sliced.

If several processes share a batch, or it is done in several passes, dropout masks and samples
should be those of the whole batch at once. So each part draws the numbers of the whole batch, from
a generator in the same state, and keeps the rows of its own pictures.

Numbers are drawn where the generator is, and then copied to the device of the tensor that they are
for. Runs pass generators of the CPU, so a run draws the same numbers on every device.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class SlicedGenerator:
    """A generator for a slice of a batch of pictures.

    Attributes:
        generator: in the same state at the beginning of every slice.
        part: the pictures of this slice.
        pictures: number of pictures in the whole batch.
    """

    generator: torch.Generator
    part: slice
    pictures: int


Rng = torch.Generator | SlicedGenerator
"""Source of random numbers: a generator for all rows, or one for a slice of them."""


def spawn(rng: Rng) -> Rng:
    """Return an independent generator, seeded by one number drawn from `rng`.

    Use it if the number of draws is not known in advance: `rng` then has the same state afterwards
    in every slice of a batch.
    """
    generator = rng.generator if isinstance(rng, SlicedGenerator) else rng
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    own = torch.Generator(generator.device).manual_seed(seed)
    return replace(rng, generator=own) if isinstance(rng, SlicedGenerator) else own


def bernoulli(like: Tensor, shape: tuple[int, ...], probability: float, rng: Rng | None) -> Tensor:
    """Return 1 with a probability, else 0; see `_draw` for the arguments."""
    return _draw(lambda x, g: x.bernoulli_(probability, generator=g), like, shape, rng)


def shared_bernoulli(like: Tensor, size: int, probability: float, rng: Rng | None) -> Tensor:
    """Return True with a probability, (size,), the same in all slices of a batch."""
    generator = rng.generator if isinstance(rng, SlicedGenerator) else rng
    return like.new_empty(size).bernoulli_(probability, generator=generator).bool()


def exponential(like: Tensor, shape: tuple[int, ...], rng: Rng | None) -> Tensor:
    """Return exponential numbers of mean 1; see `_draw` for the arguments."""
    return _draw(lambda x, g: x.exponential_(generator=g), like, shape, rng)


def uniform(like: Tensor, shape: tuple[int, ...], rng: Rng | None) -> Tensor:
    """Return numbers in [0, 1); see `_draw` for the arguments."""
    return _draw(lambda x, g: x.uniform_(generator=g), like, shape, rng)


def sample_categorical(weights: Tensor, rng: Rng | None) -> Tensor:
    """Return one column of each row, (R,), with probabilities in proportion to its weights.

    arg max(w / E) with exponential E is distributed as w; torch.multinomial draws one column in
    this way too, but does not support rows that other processes hold.

    Args:
        weights: (R, C), not negative.
        rng: random generator of the numbers.
    """
    return (weights / exponential(weights, tuple(weights.shape), rng)).argmax(-1)


def _draw(
    fill: Callable[[Tensor, torch.Generator | None], Tensor],
    like: Tensor,
    shape: tuple[int, ...],
    rng: Rng | None,
) -> Tensor:
    """Return a tensor of random numbers.

    Args:
        fill: draws in place.
        like: gives the type, and the device of the result.
        shape: shape of the result; its rows are pictures, or the same number of rows of each.
        rng: None is torch's own generator of that device.
    """
    if rng is None:
        return fill(like.new_empty(shape), None)
    generator = rng.generator if isinstance(rng, SlicedGenerator) else rng
    place = generator.device
    pinned = like.is_cuda and place.type == "cpu"  # the copy then waits for nothing

    def filled(*sizes: int) -> Tensor:
        empty = torch.empty(sizes, dtype=like.dtype, device=place, pin_memory=pinned)
        return fill(empty, generator)

    if isinstance(rng, SlicedGenerator):
        rows, *rest = shape
        rows_per_picture = rows // len(range(rng.pictures)[rng.part])
        whole = filled(rng.pictures * rows_per_picture, *rest)
        drawn = whole.view(rng.pictures, rows_per_picture, *rest)[rng.part].reshape(shape)
    else:
        drawn = filled(*shape)
    return drawn.to(like.device, non_blocking=True)
