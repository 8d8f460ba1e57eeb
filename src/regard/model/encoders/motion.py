"""Local motion: a small 3D CNN whose vectors join a clip's frame vectors.

Yao et al. 2015, section 4.1: 3×3×3 kernels, ReLU, local max-pooling. Deviations: theirs reads
cuboids of HOG, HOF and MBH and is trained to recognise actions beforehand; this one reads the
frames' pixels and their differences from the frame before, and is trained with the captions. It
pools over space alone, so that every frame keeps its own vector.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

_SIDE = 28  # frames are averaged down to this many pixels a side at most: cuboids are coarse too
LAYERS = 3
"""Convolutions; a frame's vector sees so many frames to each side, and one more before it."""


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
        # Reproducible, and torch's global generator is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.ModuleList(
                nn.Conv3d(width, wider, 3, padding=1) for width, wider in pairwise(widths)
            )
            for layer in self.layers:
                layer = cast(nn.Conv3d, layer)
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(cast(Tensor, layer.bias))

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
