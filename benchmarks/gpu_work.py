"""The work of the GPU benchmark: COCO-sized random data, with counts of operations and bytes.

The counts come before any measurement; benchmarks/README.md works them out by hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regard.text.vocabulary import END, PAD, SPECIALS, START
from regard.training.batches import Chunk

LOW, FULL = 2, 4
"""Bytes of a number in bfloat16 and in float32."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the work: those of the literature, or a toy's."""

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
    """Count the useful operations of training once on a number of captions and words.

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


_TOPICS, _OF_EACH = 50, 3
"""Topics in all, and those of a picture."""
_AT_ONCE = 1024


@dataclass(frozen=True)
class Resident:
    """Annotations and captions.

    Attributes:
        vectors: (P, L, D) bfloat16.
        tokens: (P, G, longest + 2): <start>, the words, <end>, padding.
        lengths: (P, G) words, on the host.
    """

    vectors: Tensor
    tokens: Tensor
    lengths: Tensor

    def chunks(self) -> list[Chunk]:
        """Return the pictures as batches are planned from them, where only lengths matter."""
        words = [(0,) * n for n in range(self.tokens.shape[-1])]
        return [
            Chunk(item, tuple(words[n] for n in of_picture))
            for item, of_picture in enumerate(self.lengths.tolist())
        ]


def draw_data(s: Sizes, device: torch.device, seed: int = 0) -> Resident:
    """Draw pictures that contain a few topics, and captions about them.

    A cell is noise and, in a part of the grid, its topic's vector; every other word on average is
    one of a topic of the picture, the rest fall off as 1 / rank. So there is something to learn.
    """
    draw = torch.Generator(device).manual_seed(seed)
    vectors = torch.empty(s.pictures, s.cells, s.features, dtype=torch.bfloat16, device=device)
    topics = torch.randn(_TOPICS, s.features, generator=draw, device=device)
    of_picture = torch.randint(_TOPICS, (s.pictures, _OF_EACH), generator=draw, device=device)
    for first in range(0, s.pictures, _AT_ONCE):
        part = of_picture[first : first + _AT_ONCE]
        shape = (len(part), s.cells, s.features)
        noise = torch.randn(shape, generator=draw, device=device)
        which = torch.randint(_OF_EACH + 3, shape[:2], generator=draw, device=device)
        there = (which < _OF_EACH)[..., None]
        topic = topics[part.gather(1, which.clamp(max=_OF_EACH - 1))]
        vectors[first : first + _AT_ONCE] = noise + topic * there
    tokens, lengths = _captions(s, of_picture, draw)
    return Resident(vectors, tokens, lengths.cpu())


def _captions(s: Sizes, topics: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    device = topics.device
    shape = (s.pictures, s.captions, s.longest)
    spread = s.longest - s.shortest
    coins = torch.rand(*shape[:2], spread, generator=draw, device=device)
    lengths = s.shortest + (coins < (s.mean - s.shortest) / spread).sum(-1)
    known = s.words - len(SPECIALS)
    of_topic = max(1, known // 2 // _TOPICS)
    common = torch.rand(shape, generator=draw, device=device)
    common = (float(known // 2) ** common).long().clamp(max=known - 1)  # as 1 / rank
    asked = torch.randint(_OF_EACH, shape, generator=draw, device=device)
    topic = topics[:, None].expand(-1, s.captions, -1).gather(2, asked)
    word = torch.randint(of_topic, shape, generator=draw, device=device)
    of_picture = (known // 2 + topic * of_topic + word) % known
    coin = torch.rand(shape, generator=draw, device=device) < 0.5
    words = torch.where(coin, of_picture, common) + len(SPECIALS)
    place = torch.arange(s.longest, device=device)
    words = words.masked_fill(place >= lengths[..., None], PAD)
    tokens = torch.full((*shape[:2], s.longest + 2), PAD, device=device)
    tokens[..., 0] = START
    tokens[..., 1:-1] = words
    tokens.scatter_(2, (lengths + 1)[..., None], END)
    return tokens, lengths
