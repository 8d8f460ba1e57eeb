"""What every encoder promises: a square picture in, a grid of annotation vectors out."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from regard.media.preprocess import PreprocessingSpec, spec_digest


class Encoder(nn.Module, ABC):
    """A network that turns preprocessed pixels into annotation vectors a_1 ... a_L.

    Attributes:
        name: the name in the encoder table.
        level: the feature map that is read.
        annotation_dim: D, features per annotation vector.
        grid_shape: (rows, cols); L is their product.
        spec: the preprocessing that its pixels need; stored in every checkpoint.
    """

    name: str
    level: str
    annotation_dim: int
    grid_shape: tuple[int, int]
    spec: PreprocessingSpec

    @abstractmethod
    def feature_map(self, pixels: Tensor) -> Tensor:
        """Map (N, 3, S, S) float32 pixels to an (N, D, rows, cols) feature map."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the annotation vectors, (N, L, D), cells in row-major order."""
        return self.feature_map(pixels).flatten(2).transpose(1, 2)

    def train(self, mode: bool = True) -> Encoder:
        """Switch the mode; BatchNorm keeps its statistics even while it is fine-tuned.

        A caption batch is too small and too alike to re-estimate ImageNet statistics.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                module.eval()
        return self

    def digest(self) -> str:
        """Return a SHA-256 over name, level, preprocessing and weights.

        Annotations made under one digest are of no use under another.
        """
        sha = hashlib.sha256(f"{self.name} {self.level} {spec_digest(self.spec)}".encode())
        for key, value in sorted(self.state_dict().items()):
            sha.update(key.encode())
            # Weights travel as float16; the digest must survive the journey.
            stable = value.to(torch.float16) if value.is_floating_point() else value
            sha.update(stable.cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()
