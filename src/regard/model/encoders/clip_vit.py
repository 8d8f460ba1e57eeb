"""CLIP's image tower, ViT-B/16 (Radford et al. 2021): 14×14 cells of 768 features at 224 pixels.

At level "last" the annotations are the patch tokens after the tower's last LayerNorm. CLIP itself
reads only the token of the whole picture there; the patch tokens reach it through attention. They
know well what the picture shows, and badly where: cells hold what lies elsewhere.

At level "dense" 512 features that know where join them (ClearCLIP: Lan et al. 2024, arXiv
2407.12442): the last block without its residual and MLP, its attention of queries with queries,
then the LayerNorm and the projection to CLIP's embedding. Both parts are normalised.

The weights are those of OpenAI. `_weights` says where they come from.
"""

import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.config import EncoderConfig
from regard.errors import ConfigError, needs_extra
from regard.model.encoders.base import PictureEncoder, reproducible_weights
from regard.model.encoders.int8_weights import read_weights
from regard.pretrained import shipped_encoders

_LOG = logging.getLogger(__name__)
_MEAN = (122.7709383, 116.7460125, 104.09373615)
_STD = (68.5005327, 66.6321579, 70.32316305)
_LEVELS: tuple[str, ...] = ("last", "dense")
HUB, REVISION = "openai/clip-vit-base-patch16", "57c216476eefef5ab752ec549e440a49ae4ae5f3"
"""The repository of the weights on the hub, and its commit."""
_FILES = ("model.safetensors", "pytorch_model.bin")
_SIZE = "about 600 MB"


@dataclass(frozen=True)
class TowerSizes:
    """Sizes of a tower: pixels of a patch's side, features, heads, blocks, embedding."""

    patch: int = 16
    width: int = 768
    heads: int = 12
    blocks: int = 12
    embedding: int = 512


VIT_B16 = TowerSizes()


class ClipBlock(nn.Module):
    """A transformer block with LayerNorm before attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        """Build the block with fresh weights."""
        super().__init__()
        self._heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (N, 1 + L, width) to tokens."""
        return self.attend_and_transform(tokens)[0]

    def attend_and_transform(
        self, tokens: Tensor, *, dense: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return the next tokens and, if `dense`, what attention of queries with queries adds."""
        parts = self.qkv(self.norm1(tokens)).unflatten(-1, (3, self._heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)  # (N, heads, 1 + L, ·)
        mixed = [
            functional.scaled_dot_product_attention(query, other, value).transpose(1, 2).flatten(2)
            for other in ((key, query) if dense else (key,))
        ]
        # One product for both: in 8 bits onnxruntime takes no weight that two products share.
        added, *alike = self.out(torch.cat(mixed, 1)).split(tokens.shape[1], 1)
        tokens = tokens + added
        inner = self.fc1(self.norm2(tokens))
        tokens = tokens + self.fc2(inner * torch.sigmoid(1.702 * inner))  # QuickGELU
        return tokens, alike[0] if alike else None


class ClipVit(PictureEncoder):
    """The tower, read at level "last" (D = 768) or "dense" (D = 768 + 512)."""

    own_file = True

    def __init__(
        self, config: EncoderConfig, *, pretrained: bool = True, sizes: TowerSizes | None = None
    ) -> None:
        """Build the tower.

        Args:
            config: name, image_size, level, resize and weights are read.
            pretrained: load CLIP's weights, unless `weights` names others; False leaves random
                ones for a checkpoint to overwrite.
            sizes: sizes of the tower; None: those of ViT-B/16.

        Raises:
            ConfigError: the level is unknown, the size is not a multiple of the patch's, or the
                weights cannot be found or fetched.
            MissingExtra: they must be fetched and huggingface_hub is not installed.
        """
        super().__init__()
        sizes = sizes or VIT_B16
        strides = dict.fromkeys(_LEVELS, sizes.patch)
        self._read_squares(config, strides, multiple=sizes.patch, mean=0.0, std=1.0)
        self.spec = replace(self.spec, interpolation="bicubic", mean=_MEAN, std=_STD)
        self.annotation_dim = sizes.width
        with reproducible_weights():
            self.patch = nn.Conv2d(3, sizes.width, sizes.patch, sizes.patch, bias=False)
            self.picture = nn.Parameter(torch.zeros(sizes.width))
            cells = math.prod(self.grid_shape)
            self.position = nn.Parameter(0.02 * torch.randn(1 + cells, sizes.width))
            self.norm_first, self.norm_last = nn.LayerNorm(sizes.width), nn.LayerNorm(sizes.width)
            blocks = range(sizes.blocks)
            self.blocks = nn.ModuleList(ClipBlock(sizes.width, sizes.heads) for _ in blocks)
            self.projection: nn.Linear | None = None
            if self.level == "dense":
                self.projection = nn.Linear(sizes.width, sizes.embedding, bias=False)
                self.annotation_dim += sizes.embedding
        if pretrained and not config.weights:
            source, weights = _weights(config.name, self.state_dict().keys())
            self.load_pretrained(weights, source)

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the annotation vectors, (N, L, D); a picture has no padding."""
        cells = self.patch(pixels).flatten(2).transpose(1, 2)
        picture = self.picture.expand(cells.shape[0], 1, -1)
        tokens = self.norm_first(torch.cat([picture, cells], 1) + self.position)
        *blocks, last = cast("Iterable[ClipBlock]", self.blocks)
        for block in blocks:
            tokens = block(tokens)
        tokens, alike = last.attend_and_transform(tokens, dense=self.projection is not None)
        cells = self.norm_last(tokens[:, 1:])
        if self.projection is None or alike is None:
            return cells
        dense = self.projection(self.norm_last(alike[:, 1:]))
        return torch.cat([_normalised(cells), _normalised(dense)], -1)

    def feature_map(self, pixels: Tensor) -> Tensor:
        """Map (N, 3, S, S) pixels to (N, D, S / 16, S / 16)."""
        return self(pixels).transpose(1, 2).unflatten(2, self.grid_shape)

    def load_pretrained(self, weights: Mapping[str, Tensor], source: str) -> None:
        """See `Encoder.load_pretrained`; names may also be those of Hugging Face's CLIP.

        A projection that this level does not need is left out, and position codes are resampled
        to its grid.
        """
        named = _own_names(weights)
        if self.projection is None:
            named.pop(_PROJECTION, None)
        if "position" in named:
            named["position"] = _resampled(named["position"], self.grid_shape)
        super().load_pretrained(named, source)


def _normalised(x: Tensor) -> Tensor:
    """Return vectors of mean 0 and variance 1."""
    return functional.layer_norm(x, x.shape[-1:])


def _resampled(position: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resample position codes (1 + L, D), the picture's first, to another grid."""
    side = math.isqrt(len(position) - 1)
    if (side, side) == grid or side * side != len(position) - 1:
        return position
    codes = position[1:].unflatten(0, (side, side)).permute(2, 0, 1)[None]
    codes = functional.interpolate(codes, grid, mode="bicubic", antialias=True)
    return torch.cat([position[:1], codes[0].flatten(1).T])


# Names of weights

_TOWER, _PROJECTION = "vision_model.", "projection.weight"
_NAMES = (
    (r"embeddings\.class_embedding", "picture"),
    (r"embeddings\.patch_embedding\.", "patch."),
    (r"embeddings\.position_embedding\.weight", "position"),
    (r"pre_layrnorm\.", "norm_first."),
    (r"post_layernorm\.", "norm_last."),
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.", r"blocks.\1.norm\2."),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"blocks.\1.out."),
    (r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.", r"blocks.\1.\2."),
    (r"encoder\.layers\.(\d+)\.mlp\.", r"blocks.\1."),
)
"""Names in Hugging Face's CLIP, after `vision_model.`, and those of `ClipVit`."""


def _own_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the image tower of Hugging Face's CLIP; weights with own names stay as they are."""
    tower = {k.removeprefix(_TOWER): v for k, v in weights.items() if k.startswith(_TOWER)}
    if not tower:
        return dict(weights)
    found: dict[str, Tensor] = {}
    if "visual_projection.weight" in weights:
        found[_PROJECTION] = weights["visual_projection.weight"].float()
    for name, value in tower.items():
        for pattern, own in _NAMES:
            name = re.sub(rf"^{pattern}", own, name)
        found[name] = value.float()
    found.pop("embeddings.position_ids", None)  # 0, 1, 2, ... in older files
    for query in [name for name in found if re.search(r"\d\.q\.", name)]:
        parts = [query.replace(".q.", f".{part}.", 1) for part in "qkv"]
        joined = torch.cat([found.pop(part) for part in parts if part in found])
        found[query.replace(".q.", ".qkv.", 1)] = joined
    return found


# Places of weights


def _weights(name: str, wanted: Iterable[str]) -> tuple[str, dict[str, Tensor]]:
    """Return a source's name and CLIP's weights, from the nearest place that has them.

    That is a shipped model with this encoder, the local cache of the hub, or the hub.
    """
    for path in shipped_encoders(name):
        weights = read_weights(path)
        if weights.keys() >= set(wanted):  # else made for another level
            return str(path), weights
    with needs_extra("huggingface_hub", "hub", f"fetching the weights of {name}"):
        path = _from_hub(name)
    return str(path), read_weights(path)


def _from_hub(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    for file in _FILES:
        try:
            return Path(hf_hub_download(HUB, file, revision=REVISION, local_files_only=True))
        except OSError:
            continue
    _LOG.warning("fetching the weights of %s once: %s of %s", name, _SIZE, HUB)
    reason: Exception | None = None
    for file in _FILES:
        try:
            return Path(hf_hub_download(HUB, file, revision=REVISION))
        except EntryNotFoundError as error:  # the commit may have one of the two files only
            reason = reason or error
        except (HfHubHTTPError, OSError) as error:
            reason = error
            break
    raise ConfigError(
        f"the weights of {name} cannot be fetched: {str(reason).splitlines()[0]} Expected a "
        f"shipped model with this encoder, {HUB} in the hub's cache, or a network. On a machine "
        f"with a network, `hf download {HUB} --revision {REVISION}` fetches them; copy the "
        "file here and name it in encoder.weights."
    ) from reason
