"""The interface of encoders, and shared parts of their constructors."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from regard.config import EncoderConfig, VolumeConfig
from regard.errors import ConfigError
from regard.media import PreprocessingSpec, ScanSpec
from regard.media.preprocess import spec_digest
from regard.media.reader import Reader


@contextmanager
def reproducible_weights() -> Generator[None]:
    """Seed torch within the block so that weights are reproducible, then restore its generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def init_convolutions(layers: Iterable[nn.Module]) -> None:
    """Draw the weights of convolutions before a ReLU (He et al. 2015), and zero their biases."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(cast("Tensor", layer.bias))


def check_level(config: EncoderConfig, levels: Iterable[str]) -> None:
    """Check the level of an encoder.

    Raises:
        ConfigError: `encoder.level` is not among `levels`.
    """
    if config.level not in (levels := tuple(levels)):
        raise ConfigError(
            f"encoder.level is {config.level!r}; {config.name} has {', '.join(levels)}."
        )


class Encoder(nn.Module, Reader, ABC):
    """A network that turns preprocessed pixels into annotation vectors a_1 ... a_L.

    Attributes, besides those of `Reader`:
        exportable: whether its vectors of real cells depend on the pixels alone, not on the
            mask, so that a graph of pixels can stand for it.
        own_file: whether a checkpoint keeps its weights in a file of their own, which several
            models may share: for large networks that are rarely fine-tuned.
    """

    exportable: bool = True
    own_file: bool = False

    @abstractmethod
    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the annotation vectors, (N, L, D), cells in row-major order.

        Args:
            pixels: (N, *input_shape) float32.
            mask: (N, L) bool, True = real cell; None: all are. What lies on padding must not
                reach a real cell's vector.
        """

    def untrained_parameters(self) -> list[nn.Parameter]:
        """Return weights that are not pretrained; they are trained even in a frozen encoder.

        They learn at the decoder's rate, not at that of fine-tuned weights.
        """
        return []

    def frozen_parameters(self) -> list[nn.Parameter]:
        """Return the weights that stay fixed while the others are fine-tuned."""
        return []

    def frozen_part(self) -> Encoder | None:
        """Return the frozen part of this encoder, or None if all of it is trained.

        Its vectors need to be computed only once. `finish` continues from them.
        """
        trained = any(parameter.requires_grad for parameter in self.parameters())
        return None if trained else self

    def finish(self, vectors: Tensor) -> Tensor:
        """Return the annotation vectors from those of the frozen part; gradients go through."""
        return vectors

    def train(self, mode: bool = True) -> Encoder:
        """Set the mode; BatchNorm keeps its statistics even during fine-tuning.

        A caption batch is too small and too uniform to re-estimate ImageNet statistics.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                module.eval()
        return self

    def matrices(self) -> list[str]:
        """Return the names of the weights that a file of their own may hold in 8 bits."""
        layers = self.named_modules()
        return [f"{name}.weight" for name, layer in layers if isinstance(layer, nn.Linear)]

    def load_pretrained(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Load weights that training starts from; the names and shapes must be the same.

        Args:
            weights: by the names of `state_dict`.
            source: where they come from, for messages.

        Raises:
            ConfigError: names or shapes differ.
        """
        try:
            self.load_state_dict(weights)
        except RuntimeError as error:
            raise ConfigError(
                f"encoder.weights is {source!r}, which does not fit {self.name}: {error}"
            ) from error

    def digest(self, weights: Mapping[str, Tensor] | None = None) -> str:
        """Return a SHA-256 over name, level, preprocessing and weights.

        Annotations made with one digest cannot be used with another.

        Args:
            weights: instead of the encoder's own, by the same names.
        """
        sha = hashlib.sha256(f"{self.name} {self.level} {spec_digest(self.spec)}".encode())
        for key, value in sorted((weights or self.state_dict()).items()):
            sha.update(key.encode())
            # Weights are stored as float16; the digest must not change by that.
            stable = value.to(torch.float16) if value.is_floating_point() else value
            sha.update(stable.cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()


class PictureEncoder(Encoder):
    """An encoder of pictures, by a feature map of (rows, cols)."""

    grid_axes = ("rows", "cols")
    grid_shape: tuple[int, int]
    spec: PreprocessingSpec

    def _read_squares(
        self,
        config: EncoderConfig,
        strides: Mapping[str, int],
        *,
        multiple: int,
        mean: float,
        std: float,
    ) -> int:
        """Set name, level, grid and preprocessing of a network that reads squares.

        Args:
            config: name, level, image_size and resize are read.
            strides: pixels of a cell's side, by level.
            multiple: divisor of the sizes that the network takes.
            mean: subtracted from every colour, 0-255.
            std: divisor of the result.

        Returns:
            The stride of the config's level.

        Raises:
            ConfigError: the level is unknown, or the size is not a multiple of `multiple`.
        """
        check_level(config, strides)
        if config.image_size % multiple:
            raise ConfigError(
                f"encoder.image_size is {config.image_size}; {config.name} takes multiples of "
                f"{multiple}, so that every cell covers the same number of pixels."
            )
        self.name, self.level = config.name, config.level
        stride = strides[config.level]
        self.grid_shape = (config.image_size // stride, config.image_size // stride)
        self.spec = PreprocessingSpec(
            config.image_size, config.resize, "bilinear", (mean, mean, mean), (std, std, std)
        )
        return stride

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


class ScanEncoder(Encoder):
    """An encoder of scans, on a grid of (slices, rows, cols)."""

    grid_axes = ("slices", "rows", "cols")
    spec: ScanSpec

    def __init__(self, config: VolumeConfig) -> None:
        """Set the preprocessing.

        Args:
            config: shape, spacing and window are read.
        """
        super().__init__()
        self.spec = ScanSpec(config.shape, config.spacing, config.window)
        self.input_shape = (1, *config.shape)
