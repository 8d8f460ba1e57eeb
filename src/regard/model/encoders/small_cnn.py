"""A small network that is trained from scratch with the decoder, for synthetic scenes.

Three convolutions of stride 2, one of 3×3 between them and one of 1×1: a cell of the 8-pixel
grid sees 20×20 pixels around its own centre and nothing else. A shape of the synthetic scenes
is some 15 pixels wide, so that the cell nearest to its middle sees it whole. There is no
normalisation over the picture and no pooling, so a cell cannot know what lies elsewhere: where
the decoder looked is where it saw. Kernels of stride 2 are even, since an odd one would shift
what a cell sees by half a pixel of its layer away from where the grid says that the cell lies.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.config import EncoderConfig
from regard.errors import ConfigError
from regard.media.preprocess import PreprocessingSpec, ScanSpec
from regard.model.encoders.base import Encoder, PictureEncoder

RECEPTIVE_FIELD = 20
"""Side in pixels of what one cell sees: 6 + 2·2 + 2·3 + 4·1."""
_STRIDE = 8
_CHANNELS = (16, 32, 64)


class SmallCNN(PictureEncoder):
    """Five convolutions; the grid has one cell per 8×8 pixels, 64 features each."""

    def __init__(self, config: EncoderConfig, *, pretrained: bool = True) -> None:
        """Build the network with fresh weights, always the same ones.

        Args:
            config: image_size and resize are read.
            pretrained: there are no such weights; taken so that all encoders are built alike.

        Raises:
            ConfigError: the size is no multiple of 8, or the level is not "stride8".
        """
        super().__init__()
        if config.level != "stride8":
            raise ConfigError(f"encoder.level is {config.level!r}; small_cnn has stride8.")
        if config.image_size % _STRIDE:
            raise ConfigError(
                f"encoder.image_size is {config.image_size}; small_cnn takes multiples of "
                f"{_STRIDE}, so that every cell covers the same number of pixels."
            )
        self.name, self.level = config.name, config.level
        first, second, third = _CHANNELS
        # Reproducible, and torch's global generator is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
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
            for layer in self._layers:
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.constant_(layer.bias, 0.0)  # type: ignore[arg-type]
        self.annotation_dim = third
        cells = config.image_size // _STRIDE
        self.grid_shape = (cells, cells)
        self.spec = PreprocessingSpec(
            size=config.image_size,
            resize=config.resize,
            interpolation="bilinear",
            mean=(190.0, 190.0, 190.0),
            std=(64.0, 64.0, 64.0),
        )

    def feature_map(self, pixels: Tensor) -> Tensor:
        """Map (N, 3, S, S) pixels to (N, 64, S / 8, S / 8)."""
        return self._layers(pixels)


RECEPTIVE_FIELD_3D = 10
"""Side in voxels of what one cell sees: 4 + 3·2."""
_STRIDE_3D = 4
_CHANNELS_3D = (24, 64, 64)
_FADE = (0.25, 1.0, 1.0, 0.25)


class _FadingConv3d(nn.Conv3d):
    """A convolution of 4×4×4 whose outer positions count less."""

    fade: Tensor

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(inside, outside, 4, stride=2, padding=1)
        axis = torch.tensor(_FADE)
        fade = axis[:, None, None] * axis[:, None] * axis
        self.register_buffer("fade", fade, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight * self.fade, self.bias)

    @torch.no_grad()
    def make_up(self) -> None:
        """Scale fresh weights so that outputs vary as they would without the fading."""
        self.weight *= (self.fade.numel() / self.fade.square().sum()).sqrt()


class SmallCNN3D(Encoder):
    """Four convolutions; the grid has one cell per 4×4×4 voxels, 64 features each."""

    grid_axes = ("slices", "rows", "cols")

    def __init__(self, config: EncoderConfig, *, pretrained: bool = True) -> None:
        """Build the network with fresh weights, always the same ones.

        Args:
            config: level and volume are read.
            pretrained: there are no such weights; taken so that all encoders are built alike.

        Raises:
            ConfigError: a side of the input is no multiple of 4, or the level is not "stride4".
        """
        super().__init__()
        if config.level != "stride4":
            raise ConfigError(f"encoder.level is {config.level!r}; small_cnn3d has stride4.")
        volume = config.volume
        if any(side % _STRIDE_3D for side in volume.shape):
            raise ConfigError(
                f"encoder.volume.shape is {list(volume.shape)}; small_cnn3d takes multiples of "
                f"{_STRIDE_3D}, so that every cell covers the same number of voxels."
            )
        self.name, self.level = config.name, config.level
        first, second, third = _CHANNELS_3D
        # Reproducible, and torch's global generator is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self._layers = nn.Sequential(
                nn.Conv3d(1, first, 4, stride=2, padding=1),
                nn.ReLU(),
                _FadingConv3d(first, second),
                nn.ReLU(),
                nn.Conv3d(second, third, 1),
                nn.ReLU(),
                nn.Conv3d(third, third, 1),
            )
            for layer in self._layers:
                if isinstance(layer, nn.Conv3d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.constant_(layer.bias, 0.0)  # type: ignore[arg-type]
                if isinstance(layer, _FadingConv3d):
                    layer.make_up()
        self.annotation_dim = third
        self.grid_shape = tuple(side // _STRIDE_3D for side in volume.shape)
        self.input_shape = (1, *volume.shape)
        self.spec = ScanSpec(volume.shape, volume.spacing, volume.window)

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (N, slices·rows·cols / 64, 64) for windowed voxels; a scan has no padding."""
        return self._layers(pixels).flatten(2).transpose(1, 2)
