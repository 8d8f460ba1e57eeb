"""Position codes: where on the grid an annotation vector lies.

Soft attention over bare annotations cannot tell left from right, or the order of frames,
beyond what the encoder leaks. With a code per grid axis added to the annotations, it can. The
papers use none.
"""

import math

import torch
from torch import Tensor, nn

from regard.errors import ConfigError


class PositionCode(nn.Module):
    """Adds a code per grid axis to annotations (N, L, D)."""

    code: Tensor

    def __init__(self, kind: str, grid_shape: tuple[int, ...], features: int) -> None:
        """Build the code.

        Args:
            kind: "none", "learned" (one vector per row, column, ...) or "sinusoidal"
                (Vaswani et al. 2017, section 3.5, the features split among the axes).
            grid_shape: cells along each axis; may be empty where kind is "none".
            features: D.

        Raises:
            ConfigError: a code is requested and the grid is unknown.
        """
        super().__init__()
        self.kind = kind
        self.grid_shape = grid_shape
        if kind != "none" and not grid_shape:
            raise ConfigError(
                f"decoder.position is {kind!r} and decoder.grid_shape is empty: a position code "
                "needs the grid's shape, such as [7, 7]."
            )
        if kind == "learned":
            self.axes = nn.ParameterList(
                nn.Parameter(torch.randn(cells, features) * 0.02) for cells in grid_shape
            )
        elif kind == "sinusoidal":
            self.register_buffer("code", _sinusoidal(grid_shape, features), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Return values (N, L, D) with the code added.

        Raises:
            ConfigError: L is not the grid that the code was made for.
        """
        if self.kind == "none":
            return values
        if values.shape[1] != math.prod(self.grid_shape):
            raise ConfigError(
                f"the position code was made for a {self.grid_shape} grid but received "
                f"{values.shape[1]} cells. Use the encoder and size of its training."
            )
        return values + (self.code if self.kind == "sinusoidal" else self._learned())

    def _learned(self) -> Tensor:
        total = self.axes[0]
        for axis in list(self.axes)[1:]:
            total = (total[..., None, :] + axis).flatten(0, -2)
        return total


def _sinusoidal(grid_shape: tuple[int, ...], features: int) -> Tensor:
    """Return (L, D): each axis fills its own share of the features."""
    share = features // len(grid_shape) // 2 * 2
    parts: list[Tensor] = []
    rates = torch.exp(-math.log(10000.0) * torch.arange(0, share, 2) / share)
    for axis, cells in enumerate(grid_shape):
        angles = torch.arange(cells)[:, None] * rates
        code = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
        view = [1] * len(grid_shape) + [share]
        view[axis] = cells
        parts.append(code.view(view).expand(*grid_shape, share))
    code = torch.cat(parts, -1).flatten(0, -2)
    return nn.functional.pad(code, (0, features - code.shape[1]))
