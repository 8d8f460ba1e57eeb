"""MONAI's networks by name, with the arguments of their classes.

A ResNet is named as MONAI names it (`resnet10` to `resnet200`); every other network by its class.
Settings of the class follow its name: `monai:SegResNet?init_filters=16&blocks_down=[1,2,2]`.
"""

import difflib
import inspect
import tomllib
from typing import Any, cast

import torch
from torch import Tensor, nn

from regard.config import EncoderConfig
from regard.errors import ConfigError, MissingExtra
from regard.model.encoders.base import ScanEncoder, reproducible_weights

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
"""Parts of the names of settings that would download or read a file, which an untrusted checkpoint
must not do."""
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
        ConfigError: the network does not exist, or its settings are wrong.
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
            f"({', '.join(_RESNETS)}) take it. For {name} write {config.name}?channels=[...], if "
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
                f"encoder.name is {config.name!r}; its setting {key!r} would download weights. "
                "Name a safetensors file in encoder.weights instead."
            )
        try:
            settings[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                f"encoder.name is {config.name!r}; its setting {option!r} is not a TOML key=value, "
                'such as init_filters=8 or model_name="efficientnet-b0".'
            ) from error
    return settings


def _parameters(network: type[nn.Module]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a class, including those that it passes on to its parents."""
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
            f"MONAI cannot build {config.name}: {one_line(error)}. Give required settings after "
            "its name, such as "
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
    """Return whether a network is MONAI's ResNet."""
    return type(network).__name__ == "ResNet"


def one_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


_KEPT = "_feature_map_of_a_trace"
_GROUPS = 8  # channels are normalised in at most so many groups


class _FeatureMapExit(Exception):
    """Carries the feature map out of a network that is cut after it; not an error."""

    def __init__(self, feature_map: Tensor) -> None:
        super().__init__()
        self.feature_map = feature_map


class MonaiNetwork(ScanEncoder):
    """One feature map of a MONAI network; the grid is (slices, rows, cols).

    `level` is "strideN", the last feature map whose cells are N voxels wide along every axis, or
    the name of a module, such as "layer3" of a ResNet or "features.denseblock2" of a DenseNet.
    """

    exportable = False  # few scans are encoded at a time: tracing takes longer than it saves

    def __init__(self, config: EncoderConfig, *, pretrained: bool = True) -> None:
        """Build the network with fresh weights, always the same ones.

        Args:
            config: name (with the prefix `monai:`), level and volume are read.
            pretrained: ignored; all encoders take it. MONAI's weights lie on a hub and were
                trained for other tasks; weights are always fresh, so the encoder must be
                trained (`encoder.trainable = true`).

        Raises:
            ConfigError: the network or level does not exist, it cannot read this input, or its
                cells do not cover it evenly.
            MissingExtra: MONAI is not installed.
        """
        super().__init__(config.volume)
        self.name, self.level = config.name, config.level
        with reproducible_weights():
            self._network = _without_batch_norm(create_network(config)).eval()
            maps = _maps(self._network, torch.zeros(1, *self.input_shape), config)
            self._module = _chosen(config, maps)
            self._network.get_submodule(self._module).register_forward_hook(_leave)
            self._take_out_what_follows()
        shape = maps[self._module]
        self.annotation_dim, self.grid_shape = shape[1], tuple(shape[2:])
        strides = (v // c for v, c in zip(config.volume.shape, self.grid_shape, strict=True))
        self.shift = tuple(
            (stride - 1) // 2 if is_resnet(self._network) else 0 for stride in strides
        )

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (N, slices·rows·cols, D) for windowed voxels; a scan has no padding."""
        return self._feature_map(_moved(pixels, self.shift)).flatten(2).transpose(1, 2)

    def _feature_map(self, pixels: Tensor) -> Tensor:
        try:
            self._network(pixels)
        except _FeatureMapExit as reached:
            return reached.feature_map
        # While it is traced: what runs behind the map are identities, and no part of the graph.
        kept = self._network.get_submodule(self._module).__dict__.pop(_KEPT, None)
        assert kept is not None, f"{self._module} was not reached"
        return cast("Tensor", kept)

    def _take_out_what_follows(self) -> None:
        """Remove the modules behind the map, so that no checkpoint stores them."""
        reached: set[nn.Module] = set()

        def note(module: nn.Module, _inputs: Any) -> None:
            reached.add(module)

        handles = [m.register_forward_pre_hook(note) for m in self._network.modules()]
        with torch.no_grad():
            self._feature_map(torch.zeros(1, *self.input_shape))
        for handle in handles:
            handle.remove()
        for parent in list(self._network.modules()):
            for name, child in list(parent.named_children()):
                is_list = isinstance(child, nn.ModuleList | nn.ModuleDict)  # is never run itself
                if not is_list and not reached & set(child.modules()):
                    setattr(parent, name, nn.Identity())


def _moved(pixels: Tensor, shift: tuple[int, ...]) -> Tensor:
    """Return the input shifted towards its first voxel; the edge is repeated."""
    for axis, by in enumerate(shift, start=2):
        if by:
            voxels = torch.arange(pixels.shape[axis], device=pixels.device) + by
            pixels = pixels.index_select(axis, voxels.clamp(0, pixels.shape[axis] - 1))
    return pixels


def _without_batch_norm(network: nn.Module) -> nn.Module:
    """Replace every BatchNorm by GroupNorm, in place."""
    for name, child in list(network.named_modules()):
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            channels = child.num_features
            groups = next(g for g in range(min(_GROUPS, channels), 0, -1) if channels % g == 0)
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, nn.GroupNorm(groups, channels))
    return network


def _maps(network: nn.Module, pixels: Tensor, config: EncoderConfig) -> dict[str, torch.Size]:
    """Return the shape of every module's feature map by name, in the order of their ends."""
    maps: dict[str, torch.Size] = {}

    def watch(name: str) -> Any:
        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            maps.pop(name, None)  # of a module that runs twice the last map counts
            if isinstance(output, Tensor) and output.dim() == 5:
                maps[name] = output.shape

        return note

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in network.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            network(pixels)
    except Exception as error:
        # A head may fail on an input that the maps before it are good for.
        if not maps:
            raise ConfigError(
                f"{config.name} cannot read an input of {list(config.volume.shape)} voxels "
                f"(encoder.volume.shape): {one_line(error)}"
            ) from error
    finally:
        for handle in handles:
            handle.remove()
    return maps


def _chosen(config: EncoderConfig, maps: dict[str, torch.Size]) -> str:
    """Return the module that `level` names."""
    level, shape = config.level, config.volume.shape
    if level.startswith("stride") and level[6:].isdecimal():
        stride = max(1, int(level[6:]))
        wanted = tuple(-(-voxels // stride) for voxels in shape)
        # Reversed: of several the last, which has seen most layers.
        found = [m for m in reversed(maps) if tuple(maps[m][2:]) == wanted]
        name = found[0] if found else ""
    else:
        name = level if level in maps else ""
    if not name:
        raise ConfigError(
            f"encoder.level is {level!r}; {config.name} has no such map. "
            f'Name a module ({_listed(maps)}), or "strideN" with the voxels that a cell is wide.'
        )
    cells = tuple(maps[name][2:])
    if any(v % c for v, c in zip(shape, cells, strict=True)):
        grid = "×".join(map(str, cells))
        raise ConfigError(
            f"encoder.volume.shape is {list(shape)}, and level {level!r} of {config.name} divides "
            f"it into {grid} cells, which do not cover it evenly. Use multiples of the stride, "
            "such as 16 or 32, so that every cell covers the same number of voxels."
        )
    return name


def _listed(maps: dict[str, torch.Size]) -> str:
    """Name the last module of every size of map."""
    last = {tuple(shape[2:]): name for name, shape in maps.items()}
    sizes = [f"{name} of {'×'.join(map(str, cells))} cells" for cells, name in last.items()]
    return ", ".join(sizes) or "it has none"


def _leave(module: nn.Module, _inputs: Any, output: Tensor) -> None:
    if torch.compiler.is_compiling():  # a tracer loses its way where an exception leaves a module
        module.__dict__[_KEPT] = output
        return
    raise _FeatureMapExit(output)
