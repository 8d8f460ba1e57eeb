"""Any timm backbone as an encoder: `timm:vgg19`, `timm:resnet101`, `timm:convnext_tiny` ...

timm is imported only when such an encoder is asked for, since it needs a torchvision that
fits the installed torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regard.config import EncoderConfig
from regard.encoders.base import Encoder
from regard.errors import ConfigError, MissingExtra, UnknownName
from regard.media.preprocess import PreprocessingSpec

PREFIX = "timm:"


class TimmBackbone(Encoder):
    """One feature map of a timm network; `level` is an index into its `features_only` maps.

    The paper's VGG-19 conv5_4 (14×14×512 at 224 pixels) is `timm:vgg19` at level 4;
    ResNet-101 at level 3 gives 14×14×1024.
    """

    def __init__(self, config: EncoderConfig, *, pretrained: bool = True) -> None:
        """Build the network.

        Args:
            config: name (with the prefix `timm:`), image_size, level and resize are read.
            pretrained: let timm load its weights (from its cache or its hub).

        Raises:
            ConfigError: the level is no index of a feature map, or the weights cannot be had.
            MissingExtra: timm, or a torchvision that it can import, is not installed.
            UnknownName: timm has no such backbone.
        """
        super().__init__()
        self.name, self.level = config.name, config.level
        network: Any = _create(config, pretrained)
        self._network: Any = network
        with torch.no_grad():
            probe = self.feature_map(torch.zeros(1, 3, config.image_size, config.image_size))
        self.annotation_dim = int(probe.shape[1])
        self.grid_shape = (int(probe.shape[2]), int(probe.shape[3]))
        settings = network.pretrained_cfg
        self.spec = PreprocessingSpec(
            size=config.image_size,
            resize=config.resize,
            interpolation="bilinear" if settings.get("interpolation") == "bilinear" else "bicubic",
            mean=_scaled(settings["mean"]),
            std=_scaled(settings["std"]),
        )

    def feature_map(self, pixels: Tensor) -> Tensor:
        """Map (N, 3, S, S) pixels to (N, D, rows, cols)."""
        feature_map = self._network(pixels)[0]
        channels = self._network.feature_info.channels()[0]
        # Some families (swin) return channels last.
        if feature_map.shape[1] != channels and feature_map.shape[-1] == channels:
            feature_map = feature_map.permute(0, 3, 1, 2)
        return feature_map


def _create(config: EncoderConfig, pretrained: bool) -> torch.nn.Module:
    try:
        import timm  # pyright: ignore[reportMissingImports]  an extra
    except (ImportError, RuntimeError) as error:
        # A torchvision built for another torch fails with RuntimeError on import.
        raise MissingExtra("timm", "timm", f"the encoder {config.name!r}") from error
    name = config.name.removeprefix(PREFIX)
    if not timm.is_model(name):
        raise UnknownName("timm backbone", name, timm.list_models())
    try:
        level = int(config.level)
    except ValueError as error:
        raise ConfigError(
            f"encoder.level is {config.level!r}; for a timm backbone it is the index of a "
            "feature map, such as 3 or -1."
        ) from error
    options: dict[str, object] = {"features_only": True, "out_indices": (level,)}
    if "vit" in name:
        options["img_size"] = config.image_size
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except (OSError, RuntimeError, IndexError, AssertionError) as error:
        raise ConfigError(f"timm cannot build {name!r} at level {level}: {error}") from error


def _scaled(values: tuple[float, ...]) -> tuple[float, float, float]:
    red, green, blue = (255.0 * value for value in values)
    return red, green, blue
