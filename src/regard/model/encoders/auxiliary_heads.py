"""An encoder with auxiliary heads: numbers of the whole scan, and shares of its parts.

A fresh 3D network learns little from a few hundred captions. If masks and numbers are known for
the training scans, it can learn those first (as `projects/hippocampus` does), and its
predictions stay in the vectors. After the D features of the network, normalised, each cell's vector
has

- K contributions, one to each number. A number is attention pooling: a softmax over the cells by
  their vectors and positions, and the mean of their values under it. A contribution is a cell's
  value, times its weight, times L, so that a number is the mean of its contributions over all L
  cells, padding included, which the pooling may attend to. The mean annotation, from which the
  decoder starts, is over real cells; it holds a number only if there is no padding, else the part
  of the number that real cells contribute;
- P logits of the share of the cell that each part fills.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

from regard.model.encoders.base import Encoder, reproducible_weights


class AuxiliaryHeads(Encoder):
    """An encoder of one grid, with layers for numbers and shares on its vectors."""

    def __init__(self, inner: Encoder, numbers: int, parts: int) -> None:
        """Wrap an encoder without copying it.

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
        with reproducible_weights():
            self.norm = nn.LayerNorm(inner.annotation_dim)
            self.query = nn.Linear(inner.annotation_dim, numbers, bias=False)
            self.place = nn.Parameter(torch.zeros(math.prod(inner.grid_shape), numbers))
            self.value = nn.Linear(inner.annotation_dim, numbers)
            self.share = nn.Linear(inner.annotation_dim, parts)
            for weight in (self.query.weight, self.value.weight, self.value.bias):
                nn.init.zeros_(weight)  # the first pooling is uniform, and its values are 0

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (N, L, D + K + P)."""
        vectors = self.norm(cast("Tensor", self.inner(pixels, mask)))
        pooling = (self.query(vectors) + self.place).softmax(1)
        contributions = pooling * self.value(vectors) * pooling.shape[1]
        return torch.cat([vectors, contributions, self.share(vectors)], -1)

    def predictions(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers (N, K) and the shares' logits (N, L, P) that vectors hold."""
        heads = vectors[..., -self.numbers - self.parts :]
        return heads[..., : self.numbers].mean(1), heads[..., self.numbers :]
