"""Encoders of clips and scans that apply a picture's encoder, and a small 3D CNN for motion.

Local motion follows Yao et al. 2015, section 4.1: 3×3×3 kernels, ReLU, local max-pooling.
Deviations: theirs reads cuboids of HOG, HOF and MBH and is trained to recognise actions beforehand;
this one reads the frames' pixels and their differences from the frame before, and is trained with
the captions. It pools over space only, so that every frame keeps its own vector.
"""

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.config import VideoConfig, VolumeConfig
from regard.errors import ConfigError
from regard.media import ClipSpec
from regard.media.reader import clip_spec
from regard.model.encoders.base import (
    Encoder,
    PictureEncoder,
    ScanEncoder,
    init_convolutions,
    reproducible_weights,
)
from regard.model.encoders.onnx_encoder import channels_last

_SIDE = 28  # frames are averaged down to at most this many pixels a side; cuboids are coarse, too
LAYERS = 3
"""Convolutions; a frame's vector sees this many frames to each side, and one more before it."""


class MotionNetwork(nn.Module):
    """Three 3D convolutions over frames, rows and columns."""

    def __init__(self, features: int, grid: tuple[int, int]) -> None:
        """Build the network with fresh weights, always the same ones.

        Args:
            features: per frame and cell (`encoder.video.motion_dim`).
            grid: (rows, cols) that a frame's map is averaged to; (1, 1) on a temporal grid.
        """
        super().__init__()
        self.grid = grid
        widths = (6, max(8, features // 4), max(8, features // 2), features)
        with reproducible_weights():
            self.layers = nn.ModuleList(
                nn.Conv3d(width, wider, 3, padding=1) for width, wider in pairwise(widths)
            )
            init_convolutions(self.layers)

    def forward(self, pixels: Tensor, real: Tensor) -> Tensor:
        """Return motion vectors, (N, K, rows·cols, features).

        Args:
            pixels: (N, K, 3, S, S), as the picture's encoder reads them.
            real: (N, K) bool, False = padding. The last real frame is followed by zeros in every
                layer, just as the last of the K is, so that padding changes no vector.
        """
        present = real[:, None, :, None, None].to(pixels.dtype)
        clip = _smaller(pixels).transpose(1, 2) * present  # (N, 3, K, S', S')
        # --8<-- [start:motion]
        change = (clip[:, :, 1:] - clip[:, :, :-1]) * present[:, :, 1:]
        x = torch.cat([clip, functional.pad(change, (0, 0, 0, 0, 1, 0))], 1)
        for at, layer in enumerate(self.layers):
            if at:
                x = functional.max_pool3d(x, (1, 2, 2), ceil_mode=True)
            x = layer(x).relu() * present
        # --8<-- [end:motion]
        maps = functional.adaptive_avg_pool2d(x.transpose(1, 2).flatten(0, 1), self.grid)
        return maps.flatten(2).transpose(1, 2).unflatten(0, real.shape)


def _smaller(pixels: Tensor) -> Tensor:
    """Average (N, K, 3, S, S) frames down to at most 28 pixels a side."""
    side = pixels.shape[-1]
    small = side // -(-side // _SIDE)
    if small == side:
        return pixels
    averaged = functional.adaptive_avg_pool2d(pixels.flatten(0, 1), small)
    return averaged.unflatten(0, pixels.shape[:2])


class FrameEncoder(Encoder):
    """Encoder of clips that applies a picture's encoder to each frame."""

    spec: ClipSpec

    def __init__(self, picture: PictureEncoder, config: VideoConfig) -> None:
        """Wrap a picture's encoder without copying it.

        Args:
            picture: encodes each frame.
            config: all of it is read.
        """
        super().__init__()
        self.picture = picture
        self.name, self.level = picture.name, picture.level
        self.annotation_dim = picture.annotation_dim
        self.spec = clip_spec(picture.spec, config)
        self.input_shape = (config.frames, *picture.input_shape)
        self.pictures_per_item = config.frames
        self.frames_alone = config.motion == "none"
        self.grid_axes, self.grid_shape = ("frames",), (config.frames,)
        if config.grid == "spatio_temporal":
            self.grid_axes = ("frames", "rows", "cols")
            self.grid_shape = (config.frames, *picture.grid_shape)
        self.motion: MotionNetwork | None = None
        if config.motion == "conv3d":
            spatial = config.grid == "spatio_temporal"
            self.motion = MotionNetwork(
                config.motion_dim, picture.grid_shape if spatial else (1, 1)
            )
            self.annotation_dim += config.motion_dim
            self.exportable = False  # a graph of pixels cannot know where the clip ends

    def untrained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the motion network, which is not pretrained."""
        return [] if self.motion is None else list(self.motion.parameters())

    def frozen_parameters(self) -> list[nn.Parameter]:
        """Return the frozen parameters of the picture's network."""
        return self.picture.frozen_parameters()

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (N, K, D), or (N, K·rows·cols, D) on a spatio-temporal grid.

        Frames that a clip lacks (masked) are not encoded: their vectors are 0.
        """
        vectors = self._appearance(pixels, mask)
        if self.motion is None:
            return vectors
        real = torch.ones(pixels.shape[:2], dtype=torch.bool, device=pixels.device)
        moved = self.motion(pixels, real if mask is None else _real_frames(pixels, mask))
        return torch.cat([vectors, moved.flatten(1, 2)], -1)

    def _appearance(self, pixels: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            vectors = self._frames(pixels.flatten(0, 1))
            return vectors.unflatten(0, (pixels.shape[0], -1)).flatten(1, 2)
        real = _real_frames(pixels, mask)
        vectors = self._frames(pixels[real])
        whole = vectors.new_zeros(*real.shape, *vectors.shape[1:])
        return whole.index_put((real,), vectors).flatten(1, 2)

    def _frames(self, pixels: Tensor) -> Tensor:
        """Map frames (M, 3, S, S) to (M, cells, D), one cell each on a temporal grid."""
        vectors = cast("Tensor", self.picture(channels_last(pixels)))
        return vectors.mean(1, keepdim=True) if len(self.grid_shape) == 1 else vectors


def _real_frames(pixels: Tensor, mask: Tensor) -> Tensor:
    """Return (N, K) bool from the mask of cells: True = the frame is not padding."""
    return mask.view(*pixels.shape[:2], -1)[..., 0]


_WHITE = 255.0


class SliceEncoder(ScanEncoder):
    """Encoder of scans that applies a picture's encoder to each slice."""

    mean: Tensor
    std: Tensor

    def __init__(self, picture: PictureEncoder, config: VolumeConfig) -> None:
        """Wrap a picture's encoder without copying it.

        Args:
            picture: encodes each slice.
            config: shape, spacing and window are read.

        Raises:
            ConfigError: the input's rows and cols are not the size that the encoder reads.
        """
        super().__init__(config)
        size = picture.spec.size
        if config.shape[1:] != (size, size):
            raise ConfigError(
                f"encoder.volume.shape is {list(config.shape)}, and {picture.name} reads slices of "
                f"{size} × {size}: set it to [slices, {size}, {size}]."
            )
        if config.window == "zscore":
            raise ConfigError(
                f"encoder.volume.window is 'zscore', and {picture.name} reads shades between black "
                "and white: use percentile, or a CT window."
            )
        self.picture = picture
        self.name, self.level = picture.name, picture.level
        self.annotation_dim = picture.annotation_dim
        self.pictures_per_item = config.shape[0]
        self.grid_shape = (config.shape[0], *picture.grid_shape)
        for name, value in (("mean", picture.spec.mean), ("std", picture.spec.std)):
            # Not saved: the picture's specification is the encoder's own.
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)

    def frozen_parameters(self) -> list[nn.Parameter]:
        """Return the frozen parameters of the picture's network."""
        return self.picture.frozen_parameters()

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (N, slices·rows·cols, D) for windowed voxels in 0..1; a scan has no padding."""
        slices = pixels.transpose(1, 2).flatten(0, 1).expand(-1, 3, -1, -1)
        vectors = cast("Tensor", self.picture((slices * _WHITE - self.mean) / self.std))
        return vectors.unflatten(0, (pixels.shape[0], -1)).flatten(1, 2)
