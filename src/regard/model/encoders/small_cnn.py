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
from regard.media.preprocess import PreprocessingSpec
from regard.model.encoders.base import PictureEncoder

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
