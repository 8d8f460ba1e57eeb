"""An encoder whose vectors also say what it was taught: numbers of the whole, shares of the parts.

A fresh 3D network learns little from a few hundred captions. Where masks and numbers are known for
the training scans, it can be taught those first (`regard.training.mask_targets`), and here its
answers stay in the vectors: behind the D features of the network, normed, each cell's vector has

- K contributions, one to each number: a number is the mean of its contributions over all cells, so
  that the mean annotation, with which the decoder begins, holds every number as it is;
- P logits of the share of the cell that each part fills.

The layers that make them know which cell they are in: a tilt is a matter of what lies where.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from regard.encoders.base import Encoder

_HIDDEN = 64


class TaughtEncoder(Encoder):
    """Another encoder of one grid, and layers for numbers and shares on its vectors."""

    def __init__(self, inner: Encoder, numbers: int, parts: int) -> None:
        """Wrap an encoder; it is used as it is, not copied.

        Args:
            inner: makes the vectors.
            numbers: K.
            parts: P.
        """
        super().__init__()
        self.inner = inner
        self.name, self.level, self.spec = inner.name, inner.level, inner.spec
        self.grid_axes, self.grid_shape = inner.grid_axes, inner.grid_shape
        self.input_shape, self.exportable = inner.input_shape, inner.exportable
        self.pictures_per_item = inner.pictures_per_item
        self.numbers, self.parts = numbers, parts
        self.annotation_dim = inner.annotation_dim + numbers + parts
        cells = 1
        for count in inner.grid_shape:
            cells *= count
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.norm = nn.LayerNorm(inner.annotation_dim)
            self.hidden = nn.Linear(inner.annotation_dim, _HIDDEN)
            self.place = nn.Parameter(torch.zeros(cells, _HIDDEN))
            self.answers = nn.Linear(_HIDDEN, numbers + parts)

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (N, L, D + K + P)."""
        vectors = self.norm(cast(Tensor, self.inner(pixels, mask)))
        answers = self.answers(torch.relu(self.hidden(vectors) + self.place))
        return torch.cat([vectors, answers], -1)

    def answered(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers (N, K) and the shares' logits (N, L, P) that vectors say."""
        said = vectors[..., -self.numbers - self.parts :]
        return said[..., : self.numbers].mean(1), said[..., self.numbers :]
