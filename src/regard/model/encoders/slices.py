"""Scans by a picture's encoder: every slice alone, as a grey picture."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from regard.config import VolumeConfig
from regard.errors import ConfigError
from regard.media import ScanSpec
from regard.model.encoders.base import Encoder, PictureEncoder

_WHITE = 255.0


class SliceEncoder(Encoder):
    """The slices of a scan through a picture's encoder; the grid is (slices, rows, cols)."""

    spec: ScanSpec
    mean: Tensor
    std: Tensor

    def __init__(self, picture: PictureEncoder, config: VolumeConfig) -> None:
        """Wrap a picture's encoder; it is used as it is, not copied.

        Args:
            picture: encodes each slice.
            config: shape, spacing and window are read.

        Raises:
            ConfigError: the input's rows and cols are not the size that the encoder reads.
        """
        super().__init__()
        size = picture.spec.size
        if config.shape[1:] != (size, size):
            raise ConfigError(
                f"encoder.volume.shape is {list(config.shape)}, and {picture.name} reads slices of "
                f"{size} × {size}: set it to [slices, {size}, {size}]."
            )
        if config.window == "zscore":
            raise ConfigError(
                f"encoder.volume.window is 'zscore', and {picture.name} reads shades between black "
                "and white: use percentile, or a CT window."
            )
        self.picture = picture
        self.name, self.level = picture.name, picture.level
        self.annotation_dim = picture.annotation_dim
        self.spec = ScanSpec(config.shape, config.spacing, config.window)
        self.input_shape = (1, *config.shape)
        self.pictures_per_item = config.shape[0]
        self.grid_axes = ("slices", "rows", "cols")
        self.grid_shape = (config.shape[0], *picture.grid_shape)
        for name, value in (("mean", picture.spec.mean), ("std", picture.spec.std)):
            # Not saved: the picture's specification is the encoder's own.
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)

    def frozen_parameters(self) -> list[nn.Parameter]:
        """Return those of the picture's network."""
        return self.picture.frozen_parameters()

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (N, slices·rows·cols, D) for windowed voxels in 0..1; a scan has no padding."""
        slices = pixels.transpose(1, 2).flatten(0, 1).expand(-1, 3, -1, -1)
        vectors = cast(Tensor, self.picture((slices * _WHITE - self.mean) / self.std))
        return vectors.unflatten(0, (pixels.shape[0], -1)).flatten(1, 2)
