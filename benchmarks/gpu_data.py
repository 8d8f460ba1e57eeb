"""A data set of COCO's size out of random numbers, resident on one device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from gpu_counts import Sizes
from torch import Tensor

from regard.text.vocabulary import END, PAD, SPECIALS, START
from regard.training.batches import Chunk

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


def make(s: Sizes, device: torch.device, seed: int = 0) -> Resident:
    """Draw pictures that hold a few topics, and captions that speak of them.

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
