"""Encoders: a table of names, each loaded on first use."""

import importlib
from pathlib import Path

from regard.config import EncoderConfig
from regard.errors import ConfigError, UnknownName
from regard.model.encoders.auxiliary_heads import AuxiliaryHeads
from regard.model.encoders.base import Encoder, PictureEncoder
from regard.model.encoders.int8_weights import UNREADABLE, read_weights, write_weights
from regard.model.encoders.sequences import FrameEncoder, SliceEncoder

_TABLE = {
    "clip_vit_b16": "regard.model.encoders.clip_vit:ClipVit",
    "efficientnet_lite0": "regard.model.encoders.efficientnet_lite:EfficientNetLite",
    "efficientnet_lite0_clip": "regard.model.encoders.efficientnet_lite:DistilledLite",
    "efficientnet_lite2": "regard.model.encoders.efficientnet_lite:EfficientNetLite",
    "googlenet": "regard.model.encoders.googlenet:GoogLeNet",
    "small_cnn": "regard.model.encoders.small_cnn:SmallCNN",
    "small_cnn3d": "regard.model.encoders.small_cnn:SmallCNN3D",
}
_FAMILIES = {
    "timm": "regard.model.encoders.timm_backbone:TimmBackbone",
    "monai": "regard.model.encoders.monai_network:MonaiNetwork",
}
ENCODER_FILE = "encoder.safetensors"
_OWN = "encoder."  # begins the names of an encoder's weights in a model's file


def known_encoders() -> tuple[str, ...]:
    """Return the names that `encoder.name` takes."""
    return (*_TABLE, *(f"{family}:NAME" for family in _FAMILIES))


def build_encoder(config: EncoderConfig, *, pretrained: bool = True) -> Encoder:
    """Build the encoder that a config names, frozen and in evaluation mode.

    Weights that are not pretrained (`untrained_parameters`) are never frozen.

    Args:
        config: the `[encoder]` section.
        pretrained: start from `encoder.weights`, or else from the weights in its package; False
            leaves random weights, to be overwritten by a checkpoint.

    Raises:
        UnknownName: the encoder is unknown.
        ConfigError: a setting does not fit the encoder.
        MissingExtra: its package is not installed.
    """
    encoder = _of_medium(_named(config, pretrained), config)
    if config.volume.numbers or config.volume.parts:
        encoder = AuxiliaryHeads(encoder, config.volume.numbers, config.volume.parts)
    if pretrained and config.weights:
        _start_from(encoder, config.weights)
    encoder.requires_grad_(config.trainable)
    kept = encoder.frozen_parameters()
    if config.frozen_blocks and not kept:
        raise ConfigError(
            f"encoder.frozen_blocks is {config.frozen_blocks}, but {encoder.name} cannot be "
            "fine-tuned in part. Leave it out, or use an EfficientNet-Lite."
        )
    for parameter in kept:
        parameter.requires_grad_(False)
    for parameter in encoder.untrained_parameters():
        parameter.requires_grad_(True)
    return encoder.eval()


def _named(config: EncoderConfig, pretrained: bool) -> Encoder:
    family = config.name.partition(":")[0] if ":" in config.name else ""
    place = _FAMILIES.get(family) if family else _TABLE.get(config.name)
    if place is None:
        raise UnknownName("encoder", config.name, known_encoders())
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)(config, pretrained=pretrained)


def own_part(encoder: Encoder) -> tuple[str, Encoder] | None:
    """Return the part of an encoder whose weights have a file of their own.

    Returns:
        The beginning of its weights' names within the encoder ("" or "picture."), and the part;
        None if a checkpoint keeps all weights together.
    """
    if encoder.own_file:
        return "", encoder
    if isinstance(encoder, FrameEncoder | SliceEncoder) and encoder.picture.own_file:
        return "picture.", encoder.picture
    return None


def _start_from(encoder: Encoder, place: str) -> None:
    path = Path(place)
    own = own_part(encoder)
    try:
        if own is not None:
            encoder = own[1]
            weights = read_weights(path / ENCODER_FILE if path.is_dir() else path)
        elif path.is_dir():
            whole = read_weights(path / "model.safetensors")
            weights = {k.removeprefix(_OWN): v for k, v in whole.items() if k.startswith(_OWN)}
        else:
            weights = read_weights(path)
    except UNREADABLE as error:
        raise ConfigError(
            f"encoder.weights is {place!r}, which cannot be read: {error}. Name a file of weights "
            f"of {encoder.name}, or a model folder that has them."
        ) from error
    encoder.load_pretrained(weights, place)


def _of_medium(encoder: Encoder, config: EncoderConfig) -> Encoder:
    """Return an encoder that reads the config's medium."""
    if encoder.medium == config.medium:
        return encoder
    if isinstance(encoder, PictureEncoder):
        if config.medium == "video":
            return FrameEncoder(encoder, config.video)
        return SliceEncoder(encoder, config.volume)
    raise ConfigError(
        f"encoder.medium is {config.medium!r}, but {config.name} reads {encoder.medium}s only."
    )


__all__ = [
    "AuxiliaryHeads",
    "Encoder",
    "FrameEncoder",
    "PictureEncoder",
    "SliceEncoder",
    "build_encoder",
    "known_encoders",
    "own_part",
    "write_weights",
]
