"""Small networks that are trained from scratch with the decoder, for synthetic scenes and volumes.

In both a cell sees what surrounds its own centre and nothing else: there is no normalisation over
the picture and no pooling, so a cell cannot know what lies elsewhere, and where the decoder looked
is where it saw. Kernels of stride 2 are even, since an odd one would shift what a cell sees by half
a pixel of its layer from where the grid says that the cell lies.

`SmallCNN`: three convolutions of stride 2, one of 3×3 between them and one of 1×1. A cell of the
8-pixel grid sees 20×20 pixels. A shape of the synthetic scenes is some 15 pixels wide, so that the
cell nearest to its centre sees all of it.

`SmallCNN3D`: two convolutions of stride 2 and two of 1×1×1. A cell of the 4-voxel grid sees
10×10×10 voxels: at 2 mm a voxel 20 mm, where a lesion of the synthetic volumes is 14 to 24 mm wide
and cells are 8 mm apart. What it sees fades towards the edge: the outer positions of the second
convolution count a quarter along each axis. Without the fading a cell that has a small lesion in
its corner scores as high as the one in the lesion's centre, training settles on either, and
attention then lies a cell beside the lesion, always on the same side; this happened in two of three
mentions of small lesions.
"""

from typing import cast

import torch
from torch import Tensor, nn

from regard.config import EncoderConfig
from regard.errors import ConfigError
from regard.model.encoders.base import (
    PictureEncoder,
    ScanEncoder,
    check_level,
    init_convolutions,
    reproducible_weights,
)

RECEPTIVE_FIELD = 20
"""Side in pixels of what one cell sees: 6 + 2·2 + 2·3 + 4·1."""
RECEPTIVE_FIELD_3D = 10
"""Side in voxels of what one cell of a volume sees: 4 + 3·2."""
_STRIDE, _STRIDE_3D = 8, 4
_CHANNELS, _CHANNELS_3D = (16, 32, 64), (24, 64, 64)
_FADE = (0.25, 1.0, 1.0, 0.25)


class SmallCNN(PictureEncoder):
    """Five convolutions; the grid has one cell per 8×8 pixels, 64 features each."""

    def __init__(self, config: EncoderConfig, *, pretrained: bool = True) -> None:
        """Build the network with fresh weights, always the same ones.

        Args:
            config: image_size and resize are read.
            pretrained: ignored, since no weights exist; all encoders take it.

        Raises:
            ConfigError: the size is not a multiple of 8, or the level is not "stride8".
        """
        super().__init__()
        self._read_squares(config, {"stride8": _STRIDE}, multiple=_STRIDE, mean=190.0, std=64.0)
        first, second, third = _CHANNELS
        with reproducible_weights():
            self._layers = nn.Sequential(
                nn.Conv2d(3, first, 6, stride=2, padding=2),
                nn.ReLU(),
                nn.Conv2d(first, first, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(first, second, 4, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(second, third, 2, stride=2),
                nn.ReLU(),
                nn.Conv2d(third, third, 1),
            )
            init_convolutions(self._layers)
        self.annotation_dim = third

    def feature_map(self, pixels: Tensor) -> Tensor:
        """Map (N, 3, S, S) pixels to (N, 64, S / 8, S / 8)."""
        return self._layers(pixels)


class _FadingConv3d(nn.Conv3d):
    """A convolution of 4×4×4 whose outer positions count less."""

    fade: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 4, stride=2, padding=1)
        axis = torch.tensor(_FADE)
        fade = axis[:, None, None] * axis[:, None] * axis
        self.register_buffer("fade", fade, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight * self.fade, self.bias)

    @torch.no_grad()
    def rescale(self) -> None:
        """Scale fresh weights so that outputs vary as much as without the fading."""
        self.weight *= (self.fade.numel() / self.fade.square().sum()).sqrt()


class SmallCNN3D(ScanEncoder):
    """Four convolutions; the grid has one cell per 4×4×4 voxels, 64 features each."""

    def __init__(self, config: EncoderConfig, *, pretrained: bool = True) -> None:
        """Build the network with fresh weights, always the same ones.

        Args:
            config: level and volume are read.
            pretrained: ignored, since no weights exist; all encoders take it.

        Raises:
            ConfigError: a side of the input is not a multiple of 4, or the level is not "stride4".
        """
        super().__init__(config.volume)
        check_level(config, ["stride4"])
        shape = config.volume.shape
        if any(side % _STRIDE_3D for side in shape):
            raise ConfigError(
                f"encoder.volume.shape is {list(shape)}; small_cnn3d takes multiples of "
                f"{_STRIDE_3D}, so that every cell covers the same number of voxels."
            )
        self.name, self.level = config.name, config.level
        first, second, third = _CHANNELS_3D
        with reproducible_weights():
            self._layers = nn.Sequential(
                nn.Conv3d(1, first, 4, stride=2, padding=1),
                nn.ReLU(),
                _FadingConv3d(first, second),
                nn.ReLU(),
                nn.Conv3d(second, third, 1),
                nn.ReLU(),
                nn.Conv3d(third, third, 1),
            )
            init_convolutions(self._layers)
        cast("_FadingConv3d", self._layers[2]).rescale()
        self.annotation_dim = third
        self.grid_shape = tuple(side // _STRIDE_3D for side in shape)

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (N, slices·rows·cols / 64, 64) for windowed voxels; a scan has no padding."""
        return self._layers(pixels).flatten(2).transpose(1, 2)
