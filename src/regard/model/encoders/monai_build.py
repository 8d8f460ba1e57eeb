"""MONAI's networks by name, with what their classes must be told.

A ResNet is named as MONAI names it (`resnet10` to `resnet200`); every other network by its class.
Settings of the class follow its name: `monai:SegResNet?init_filters=16&blocks_down=[1,2,2]`.
"""

from __future__ import annotations

import difflib
import inspect
import tomllib
from typing import Any

from torch import nn

from regard.config import EncoderConfig
from regard.errors import ConfigError, MissingExtra

PREFIX = "monai:"
_RESNETS = {
    "resnet10": ("basic", (1, 1, 1, 1), "B", False),
    "resnet18": ("basic", (2, 2, 2, 2), "A", True),
    "resnet34": ("basic", (3, 4, 6, 3), "A", True),
    "resnet50": ("bottleneck", (3, 4, 6, 3), "B", False),
    "resnet101": ("bottleneck", (3, 4, 23, 3), "B", False),
    "resnet152": ("bottleneck", (3, 8, 36, 3), "B", False),
    "resnet200": ("bottleneck", (3, 24, 36, 3), "B", False),
}
"""Block, blocks per stage, shortcut and its bias, as in MONAI's `resnet_params`."""
_ELSEWHERE = ("pretrained", "url", "path_or", "filename", "weights")
"""In the names of settings that would have a network or a file read: a checkpoint, which may be a
stranger's, holds this name, too."""
_CHANNELS = (64, 128, 256, 512)


def _monai(encoder: str) -> Any:
    try:
        import monai.networks.nets
    except ModuleNotFoundError as error:
        missing = (error.name or "monai").split(".")[0]
        raise MissingExtra(missing, "monai", f"the encoder {encoder!r}") from error
    return monai.networks.nets


def create_network(config: EncoderConfig) -> nn.Module:
    """Build the network that `encoder.name` means, for one channel and three axes.

    Raises:
        ConfigError: there is no such network, or it wants other settings.
        MissingExtra: MONAI is not installed.
    """
    nets = _monai(config.name)
    name, _, options = config.name.removeprefix(PREFIX).partition("?")
    settings = _settings(options, config)
    if name in _RESNETS:
        return _build(nets.ResNet, _of_resnet(name, config) | settings, config)
    network = getattr(nets, name, None)
    if not (isinstance(network, type) and issubclass(network, nn.Module)):
        raise _unknown(nets, name)
    if config.volume.channels:
        raise ConfigError(
            f"encoder.volume.channels is {list(config.volume.channels)}; only ResNets "
            f"({', '.join(_RESNETS)}) take it. Of {name} say {config.name}?channels=[...], where "
            "it has such a setting."
        )
    shape = config.volume.shape
    known: dict[str, Any] = {
        "spatial_dims": 3,
        "in_channels": 1,
        "n_input_channels": 1,
        "out_channels": 1,
        "num_classes": 1,
        "img_size": shape,
        "pretrained": False,
        "channels": _CHANNELS[:3],
        "strides": (2, 2),
    }
    taken = _parameters(network)
    return _build(network, {k: v for k, v in known.items() if k in taken} | settings, config)


def _of_resnet(name: str, config: EncoderConfig) -> dict[str, Any]:
    block, layers, shortcut, bias = _RESNETS[name]
    channels = config.volume.channels or _CHANNELS
    if len(channels) != len(layers):
        raise ConfigError(
            f"encoder.volume.channels is {list(channels)}; {name} has {len(layers)} stages."
        )
    return {
        "block": block,
        "layers": list(layers),
        "block_inplanes": list(channels),
        "spatial_dims": 3,
        "n_input_channels": 1,
        "feed_forward": False,
        "shortcut_type": shortcut,
        "bias_downsample": bias,
    }


def _settings(options: str, config: EncoderConfig) -> dict[str, Any]:
    """Read `key=value&key=value` behind the name; values are TOML."""
    settings: dict[str, Any] = {}
    for option in filter(None, options.split("&")):
        key, _, value = option.partition("=")
        if any(word in key for word in _ELSEWHERE):
            raise ConfigError(
                f"encoder.name is {config.name!r}; its setting {key!r} would bring weights from "
                "elsewhere. Name a safetensors file in encoder.weights instead."
            )
        try:
            settings[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                f"encoder.name is {config.name!r}; its setting {option!r} is no key=value of TOML, "
                'such as init_filters=8 or model_name="efficientnet-b0".'
            ) from error
    return settings


def _parameters(network: type[nn.Module]) -> dict[str, inspect.Parameter]:
    """Return what building takes; what a class passes on to its parents, too."""
    taken: dict[str, inspect.Parameter] = {}
    for base in network.__mro__:
        own = inspect.signature(base.__init__).parameters
        taken |= {key: value for key, value in own.items() if key not in taken}
        if not any(p.kind is p.VAR_KEYWORD for p in own.values()):
            break
    return taken


def _build(network: type[nn.Module], settings: dict[str, Any], config: EncoderConfig) -> nn.Module:
    try:
        return network(**settings)
    except (ImportError, RuntimeError, TypeError, ValueError, AssertionError, KeyError) as error:
        raise ConfigError(
            f"MONAI cannot build {config.name}: {one_line(error)}. What a network cannot do "
            "without is said behind its name, such as "
            'monai:EfficientNetBN?model_name="efficientnet-b0".'
        ) from error


def _unknown(nets: Any, name: str) -> ConfigError:
    known = sorted(
        key for key in dir(nets) if isinstance(getattr(nets, key), type) and key[0].isupper()
    )
    near = difflib.get_close_matches(name, [*_RESNETS, *known], n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return ConfigError(
        f"MONAI has no network {name!r}.{hint} There are {', '.join(_RESNETS)} and the classes of "
        "`monai.networks.nets`."
    )


def is_resnet(network: nn.Module) -> bool:
    """Whether a network is MONAI's ResNet."""
    return type(network).__name__ == "ResNet"


def one_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
