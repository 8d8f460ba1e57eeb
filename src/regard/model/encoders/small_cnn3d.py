"""A small 3D network that is trained from scratch with the decoder, for synthetic volumes.

The 3D sibling of `small_cnn`: two convolutions of stride 2 and two of 1×1×1. A cell of the 4-voxel
grid sees 10×10×10 voxels around its own centre and nothing else: at 2 mm a voxel 20 mm, where a
lesion of the synthetic volumes is 14 to 24 mm wide and cells are 8 mm apart. There is no
normalisation over the scan and no pooling, so a cell cannot know what lies elsewhere: where the
decoder looked is where it saw. Kernels of stride 2 are even, as there.

The view fades towards its edge: the outer positions of the second convolution count a quarter
along each axis. With an even view a cell that has a small lesion in its corner says as much as the
one in the lesion's middle, training settles on either, and attention then lies a cell beside what
it found, always on the same side; so it did, in two of three mentions of small lesions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.config import EncoderConfig
from regard.errors import ConfigError
from regard.media.preprocess import ScanSpec
from regard.model.encoders.base import Encoder

RECEPTIVE_FIELD = 10
"""Side in voxels of what one cell sees: 4 + 3·2."""
_STRIDE = 4
_CHANNELS = (24, 64, 64)
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
        if any(side % _STRIDE for side in volume.shape):
            raise ConfigError(
                f"encoder.volume.shape is {list(volume.shape)}; small_cnn3d takes multiples of "
                f"{_STRIDE}, so that every cell covers the same number of voxels."
            )
        self.name, self.level = config.name, config.level
        first, second, third = _CHANNELS
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
        self.grid_shape = tuple(side // _STRIDE for side in volume.shape)
        self.input_shape = (1, *volume.shape)
        self.spec = ScanSpec(volume.shape, volume.spacing, volume.window)

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (N, slices·rows·cols / 64, 64) for windowed voxels; a scan has no padding."""
        return self._layers(pixels).flatten(2).transpose(1, 2)
