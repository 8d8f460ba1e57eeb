"""Clips by a picture's encoder: every frame alone, its grid kept or averaged away.

The temporal grid (frames,) is that of Yao et al. 2015, section 4.2: one vector per frame, here
the mean of the frame's map (their GoogLeNet ends in such a mean). The spatio-temporal grid
(frames, rows, cols) keeps the map.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor

from regard.config import VideoConfig
from regard.encoders.base import Encoder, PictureEncoder
from regard.media import ClipSpec


class FrameEncoder(Encoder):
    """K frames of a clip through a picture's encoder."""

    spec: ClipSpec

    def __init__(self, picture: PictureEncoder, config: VideoConfig) -> None:
        """Wrap a picture's encoder; it is used as it is, not copied.

        Args:
            picture: encodes each frame.
            config: frames and grid are read.
        """
        super().__init__()
        self.picture = picture
        self.name, self.level = picture.name, picture.level
        self.annotation_dim = picture.annotation_dim
        self.spec = ClipSpec(
            picture=picture.spec,
            frames=config.frames,
            choice=config.choice,
            take=config.take,
            first_frames=config.first_frames,
            every=config.every,
        )
        self.input_shape = (config.frames, *picture.input_shape)
        self.pictures_per_item = config.frames
        self.frames_alone = config.motion == "none"
        self.grid_axes, self.grid_shape = ("frames",), (config.frames,)
        if config.grid == "spatio_temporal":
            self.grid_axes = ("frames", "rows", "cols")
            self.grid_shape = (config.frames, *picture.grid_shape)

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (N, K, D), or (N, K·rows·cols, D) on a spatio-temporal grid.

        Frames that a clip lacks (masked) are not encoded: their vectors are 0.
        """
        if mask is None:
            vectors = self._frames(pixels.flatten(0, 1))
            return vectors.unflatten(0, (pixels.shape[0], -1)).flatten(1, 2)
        real = mask.view(*pixels.shape[:2], -1)[..., 0]
        vectors = self._frames(pixels[real])
        whole = vectors.new_zeros(*real.shape, *vectors.shape[1:])
        return whole.index_put((real,), vectors).flatten(1, 2)

    def _frames(self, pixels: Tensor) -> Tensor:
        """Map frames (M, 3, S, S) to (M, cells, D), one cell each on a temporal grid."""
        vectors = cast(Tensor, self.picture(pixels))
        return vectors.mean(1, keepdim=True) if len(self.grid_shape) == 1 else vectors
