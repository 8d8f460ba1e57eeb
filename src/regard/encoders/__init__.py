"""Encoders: one table of names, each loaded when it is asked for."""

from __future__ import annotations

import importlib

from regard.config import EncoderConfig
from regard.encoders.base import Encoder
from regard.errors import UnknownName

_TABLE = {
    "efficientnet_lite0": "regard.encoders.efficientnet_lite:EfficientNetLite",
    "efficientnet_lite2": "regard.encoders.efficientnet_lite:EfficientNetLite",
    "small_cnn": "regard.encoders.small_cnn:SmallCNN",
}
_TIMM = "regard.encoders.timm_backbone:TimmBackbone"


def known_encoders() -> tuple[str, ...]:
    """Return the names that `encoder.name` takes."""
    return (*_TABLE, "timm:NAME")


def build_encoder(config: EncoderConfig, *, pretrained: bool = True) -> Encoder:
    """Build the encoder that a config names, frozen and in evaluation mode.

    Args:
        config: the `[encoder]` section.
        pretrained: start from the weights that its package brings; False leaves random
            weights, to be overwritten by a checkpoint.

    Raises:
        UnknownName: no such encoder.
        ConfigError: a setting does not fit the encoder.
        MissingExtra: its package is not installed.
    """
    place = _TIMM if config.name.startswith("timm:") else _TABLE.get(config.name)
    if place is None:
        raise UnknownName("encoder", config.name, known_encoders())
    module, name = place.split(":")
    encoder: Encoder = getattr(importlib.import_module(module), name)(config, pretrained=pretrained)
    return encoder.requires_grad_(config.trainable).eval()


__all__ = ["Encoder", "build_encoder", "known_encoders"]
