"""What captioning at COCO's size must compute and move, counted before it is measured."""

from __future__ import annotations

from dataclasses import dataclass

LOW, FULL = 2, 4
"""Bytes of a number in bfloat16 and in float32."""


@dataclass(frozen=True)
class Sizes:
    """The work: those of the literature, or a toy's."""

    pictures: int = 113_287
    captions: int = 5
    cells: int = 196
    features: int = 512
    hidden: int = 512
    embedding: int = 512
    attention: int = 512
    words: int = 9_490
    shortest: int = 7
    longest: int = 20
    mean: float = 10.5


TINY = Sizes(24, 5, 9, 16, 12, 12, 8, 60, 3, 6, 4.5)


def train_flops(s: Sizes, pictures: int, captions: int, words: int) -> float:
    """Count the useful operations of training once on so many captions of so many words in all.

    Forward, and backward twice that; once for the projection, the start and the context, whose
    annotations have no gradient. The end is a word more.
    """
    start = 2 * s.cells * s.features * s.attention + 4 * s.features * s.hidden
    lstm = 8 * s.hidden * (s.embedding + s.features + s.hidden)
    said = 2 * s.embedding * (s.hidden + s.features + s.words)
    scores = 2 * s.hidden * s.attention + 4 * s.cells * s.attention
    context = 2 * s.cells * s.features
    step = 3 * (scores + 2 * s.hidden + lstm + said) + 2 * context
    return 2.0 * start * pictures + float(step) * (words + captions)


def step_bytes(s: Sizes, pictures: int, *, backward: bool) -> float:
    """Count one step of attention for some pictures, however many captions they share.

    It reads keys and values; the backward pass reads them again and writes the keys' gradient.
    """
    keys, values = s.cells * s.attention * LOW, s.cells * s.features * LOW
    return float(pictures) * (2 * keys + values if backward else keys + values)


def train_bytes(s: Sizes, pictures: int, steps: int, weights: int) -> dict[str, float]:
    """Count one training step of `pictures`, all their captions, over `steps` words.

    The least that a schedule must move which keeps neither the tanh nor more than one gradient
    of the keys: what is counted is larger than a cache and is moved once. A batch whose keys and
    values lie in the cache (50 MB on an H100: 125 pictures) may do with less.
    """
    keys, values = s.cells * s.attention * LOW, s.cells * s.features * LOW
    said = float(pictures * s.captions * steps)
    return {
        "annotations, read and copied": 2.0 * pictures * values,
        "projection and start": pictures * (3.0 * values + 2.0 * keys),
        "attention, forward": steps * step_bytes(s, pictures, backward=False),
        "attention, backward": steps * step_bytes(s, pictures, backward=False) + pictures * keys,
        # written, read by the loss; their gradient written, read by two products
        "logits": 5 * said * s.words * LOW,
        "the words' share of the gates": 4 * said * 4 * s.hidden * LOW,
        "weights, gradients, Adam": 8.0 * weights * FULL,
    }


def beam_bytes(s: Sizes, pictures: int, beam: int, steps: int) -> dict[str, float]:
    """Count a beam search of `pictures` over `steps` words."""
    keys, values = s.cells * s.attention * LOW, s.cells * s.features * LOW
    rows = float(pictures * beam * steps)
    return {
        "annotations, read and copied": 2.0 * pictures * values,
        "projection and start": pictures * (2.0 * values + keys),
        "attention": steps * step_bytes(s, pictures, backward=False),
        "logits": 2 * rows * s.words * LOW,
        "alpha": 2 * rows * s.cells * FULL,
    }
