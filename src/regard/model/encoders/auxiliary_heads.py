"""An encoder whose vectors also say what it was taught: numbers of the whole, shares of the parts.

A fresh 3D network learns little from a few hundred captions. Where masks and numbers are known for
the training scans, it can be taught those first (as `projects/hippocampus` does), and here
its answers stay in the vectors: behind the D features of the network, normed, each cell's vector
has

- K contributions, one to each number. A number is read by one look: a softmax over the cells by
  their vectors and places, and the mean of their values under it. A contribution is a cell's value,
  weighed by the look and times L, so that a number is the mean of its contributions over all
  L cells, padding among them, at which the look may lie: padding is a place like another to it. The
  mean annotation, with which the decoder begins, is over real cells, and holds a number as it is
  only where nothing is padding; elsewhere that part of it which real cells contribute;
- P logits of the share of the cell that each part fills.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from regard.model.encoders.base import Encoder


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
            self.query = nn.Linear(inner.annotation_dim, numbers, bias=False)
            self.place = nn.Parameter(torch.zeros(cells, numbers))
            self.value = nn.Linear(inner.annotation_dim, numbers)
            self.share = nn.Linear(inner.annotation_dim, parts)
            for weight in (self.query.weight, self.value.weight, self.value.bias):
                nn.init.zeros_(weight)  # the first look is spread evenly, and says nothing

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (N, L, D + K + P)."""
        vectors = self.norm(cast("Tensor", self.inner(pixels, mask)))
        look = (self.query(vectors) + self.place).softmax(1)
        contributions = look * self.value(vectors) * look.shape[1]
        return torch.cat([vectors, contributions, self.share(vectors)], -1)

    def answered(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers (N, K) and the shares' logits (N, L, P) that vectors say."""
        said = vectors[..., -self.numbers - self.parts :]
        return said[..., : self.numbers].mean(1), said[..., self.numbers :]
