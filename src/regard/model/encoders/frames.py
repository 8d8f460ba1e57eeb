"""Clips by a picture's encoder: every frame alone, its grid kept or averaged away.

The temporal grid (frames,) is that of Yao et al. 2015, section 4.2: one vector per frame, here
the mean of the frame's map (their GoogLeNet ends in such a mean). The spatio-temporal grid
(frames, rows, cols) keeps the map. Motion features (section 4.1) are the exception to "alone":
they see the frames around their own, and are concatenated to the frame's or the cell's vector.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from regard.config import VideoConfig
from regard.media import ClipSpec
from regard.media.reader import clip_spec
from regard.model.encoders.base import Encoder, PictureEncoder
from regard.model.encoders.motion import MotionNetwork
from regard.model.encoders.onnx_encoder import channels_last


class FrameEncoder(Encoder):
    """K frames of a clip through a picture's encoder."""

    spec: ClipSpec

    def __init__(self, picture: PictureEncoder, config: VideoConfig) -> None:
        """Wrap a picture's encoder; it is used as it is, not copied.

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
        """Return the motion network's: nobody trained it, so that it is never frozen."""
        return [] if self.motion is None else list(self.motion.parameters())

    def frozen_parameters(self) -> list[nn.Parameter]:
        """Return those of the picture's network."""
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
        vectors = cast(Tensor, self.picture(channels_last(pixels)))
        return vectors.mean(1, keepdim=True) if len(self.grid_shape) == 1 else vectors


def _real_frames(pixels: Tensor, mask: Tensor) -> Tensor:
    """Return (N, K) bool: which frames are no padding, from the mask of cells."""
    return mask.view(*pixels.shape[:2], -1)[..., 0]
