"""What every encoder promises: a picture, clip or scan in, a grid of annotation vectors out."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from regard.media import PreprocessingSpec
from regard.media.preprocess import spec_digest
from regard.media.reader import Reader


class Encoder(nn.Module, Reader, ABC):
    """A network that turns preprocessed pixels into annotation vectors a_1 ... a_L.

    Attributes, besides those of `Reader`:
        exportable: whether its vectors of real cells depend on the pixels alone, not on the
            mask, so that a graph of pixels can stand for it.
    """

    exportable: bool = True

    @abstractmethod
    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the annotation vectors, (N, L, D), cells in row-major order.

        Args:
            pixels: (N, *input_shape) float32.
            mask: (N, L) bool, True = real cell; None: all are. What lies on padding must not
                reach a real cell's vector.
        """

    def untrained_parameters(self) -> list[nn.Parameter]:
        """Return the weights that start from nothing and are trained even in a frozen encoder.

        They learn at the decoder's rate, not at that of weights which are fine-tuned.
        """
        return []

    def frozen_parameters(self) -> list[nn.Parameter]:
        """Return the weights that stay as they are while the others are fine-tuned."""
        return []

    def frozen_part(self) -> Encoder | None:
        """Return what of this encoder no training changes, as an encoder; None: nothing of it.

        Its vectors need to be made only once. `finish` goes on from them.
        """
        trained = any(parameter.requires_grad for parameter in self.parameters())
        return None if trained else self

    def finish(self, vectors: Tensor) -> Tensor:
        """Return the annotation vectors from those of the frozen part; gradients go through."""
        return vectors

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


class PictureEncoder(Encoder):
    """An encoder of pictures, by a feature map of (rows, cols)."""

    grid_axes = ("rows", "cols")
    grid_shape: tuple[int, int]
    spec: PreprocessingSpec

    @abstractmethod
    def feature_map(self, pixels: Tensor) -> Tensor:
        """Map (N, 3, S, S) float32 pixels to an (N, D, rows, cols) feature map."""

    @property
    def input_shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """(3, S, S)."""
        return 3, self.spec.size, self.spec.size

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the annotation vectors, (N, L, D); a picture has no padding."""
        return self.feature_map(pixels).flatten(2).transpose(1, 2)
