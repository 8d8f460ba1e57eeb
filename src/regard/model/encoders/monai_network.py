"""Any MONAI network as an encoder of scans: `monai:resnet10`, `monai:DenseNet121`, `monai:UNet` ...

A network is built for three axes and one input channel, and cut behind the module whose output is
read as the annotation grid; what lies behind it is taken out. Two things differ from MONAI's own:

- **Normalisation.** MONAI's ResNets have BatchNorm in every block, whatever `norm` they are given.
  An encoder keeps BatchNorm's statistics as they are while it trains (`Encoder.train`), which suits
  statistics of ImageNet; those of a fresh network are mean 0 and variance 1, so that it would train
  with no normalisation at all, and a batch of few scans is too small to estimate them. Every
  BatchNorm is therefore exchanged for GroupNorm, which has none. GroupNorm looks at the whole scan:
  a cell's vector knows the scan's overall brightness, besides what it sees itself.
- **Place.** Kernels of odd size and stride 2, as a ResNet has, look around the first voxel of
  their cell, not around its middle: three of them centre a vector 3.5 voxels short of the middle
  of the cell that the grid draws. A ResNet's input is therefore moved by as many whole voxels,
  (N - 1) // 2 at stride N, so that a vector stands for the cell in whose place it is, to half a
  voxel. Other networks are taken as they are.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from regard.config import EncoderConfig
from regard.errors import ConfigError
from regard.media import ScanSpec
from regard.model.encoders.base import Encoder
from regard.model.encoders.monai_build import create_network, is_resnet, one_line

_KEPT = "_feature_map_of_a_trace"
_GROUPS = 8  # channels are normalised in at most so many groups


class _Reached(Exception):
    """No error: carries the wanted feature map out of a network that is cut there."""

    def __init__(self, feature_map: Tensor) -> None:
        super().__init__()
        self.feature_map = feature_map


class MonaiNetwork(Encoder):
    """One feature map of a MONAI network; the grid is (slices, rows, cols).

    `level` is "strideN", the last feature map whose cells are N voxels wide along every axis, or
    the name of a module, such as "layer3" of a ResNet or "features.denseblock2" of a DenseNet.
    """

    grid_axes = ("slices", "rows", "cols")
    spec: ScanSpec
    exportable = False  # few scans are encoded at a time: tracing takes longer than it saves

    def __init__(self, config: EncoderConfig, *, pretrained: bool = True) -> None:
        """Build the network with fresh weights, always the same ones.

        Args:
            config: name (with the prefix `monai:`), level and volume are read.
            pretrained: taken so that all encoders are built alike. The weights that MONAI knows
                of lie on a hub and are of other uses; fresh ones are drawn either way, so
                the encoder is one to train (`encoder.trainable = true`).

        Raises:
            ConfigError: there is no such network or level, it cannot read this input, or its
                cells do not cover it evenly.
            MissingExtra: MONAI is not installed.
        """
        super().__init__()
        self.name, self.level = config.name, config.level
        volume = config.volume
        self.spec = ScanSpec(volume.shape, volume.spacing, volume.window)
        self.input_shape = (1, *volume.shape)
        # Reproducible, and torch's global generator is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self._network = _without_batch_norm(create_network(config)).eval()
            maps = _maps(self._network, torch.zeros(1, *self.input_shape), config)
            self._module = _chosen(config, maps)
            self._network.get_submodule(self._module).register_forward_hook(_leave)
            self._take_out_what_follows()
        shape = maps[self._module]
        self.annotation_dim, self.grid_shape = shape[1], tuple(shape[2:])
        strides = (v // c for v, c in zip(volume.shape, self.grid_shape, strict=True))
        self.shift = tuple(
            (stride - 1) // 2 if is_resnet(self._network) else 0 for stride in strides
        )

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (N, slices·rows·cols, D) for windowed voxels; a scan has no padding."""
        return self._feature_map(_moved(pixels, self.shift)).flatten(2).transpose(1, 2)

    def _feature_map(self, pixels: Tensor) -> Tensor:
        try:
            self._network(pixels)
        except _Reached as reached:
            return reached.feature_map
        # While it is traced: what runs behind the map are identities, and no part of the graph.
        kept = self._network.get_submodule(self._module).__dict__.pop(_KEPT, None)
        assert kept is not None, f"{self._module} was not reached"
        return cast(Tensor, kept)

    def _take_out_what_follows(self) -> None:
        """Replace what runs only behind the map by nothing, so that no checkpoint carries it."""
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
    """Return the input moved towards its first voxel by `shift`; what comes in repeats the edge."""
    for axis, by in enumerate(shift, start=2):
        if by:
            voxels = torch.arange(pixels.shape[axis], device=pixels.device) + by
            pixels = pixels.index_select(axis, voxels.clamp(0, pixels.shape[axis] - 1))
    return pixels


def _without_batch_norm(network: nn.Module) -> nn.Module:
    """Exchange every BatchNorm for GroupNorm, in place."""
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
            f"encoder.level is {level!r}; {config.name} has no such map of (slices, rows, cols). "
            f'Name a module ({_listed(maps)}), or "strideN" with the voxels that a cell is wide.'
        )
    cells = tuple(maps[name][2:])
    if any(v % c for v, c in zip(shape, cells, strict=True)):
        grid = "×".join(map(str, cells))
        raise ConfigError(
            f"encoder.volume.shape is {list(shape)}, and level {level!r} of {config.name} makes "
            f"{grid} cells of it, which do not cover it evenly. Take multiples of the stride, "
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
    raise _Reached(output)
