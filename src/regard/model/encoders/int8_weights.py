"""Files of encoder weights whose matrices are stored in 8 bits.

A matrix W (out, in) is stored as integers Q and one scale for each output channel, W = Q · s:

    NAME          int8 (out, in), -127 to 127; of a convolution (out, in, height, width)
    NAME.scale    float32 (out,)

All other weights are stored as they are. A matrix that was read from such a file is written again
bit for bit.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from regard.model.encoders.base import Encoder

SCALE = ".scale"
_LARGEST = 127
UNREADABLE = (OSError, SafetensorError, RuntimeError)
"""Exceptions of a file of weights that cannot be read."""


def quantise(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return integers (out, in) and scales (out,) of a float32 matrix (out, in)."""
    top = matrix.abs().amax(1)
    scale = torch.where(top > 0, top / _LARGEST, torch.ones_like(top))
    integers, error = _rounded(matrix, scale)
    # Of a matrix that was stored before, rounding may make (127 s) / 127 a neighbour of s. Then the
    # neighbour gives its rows exactly.
    for other in (0.0, torch.inf):
        near = torch.nextafter(scale, torch.full_like(scale, other))
        rows = ((error > 0) & (near * _LARGEST == top)).nonzero()[:, 0]
        again, left = _rounded(matrix[rows], near[rows])
        rows, again = rows[left == 0], again[left == 0]
        scale[rows], integers[rows] = near[rows], again
    return integers, scale


def _rounded(matrix: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the integers of a matrix (out, in) with given scales, and the error of each row."""
    integers = (matrix / scale[:, None]).round().clamp(-_LARGEST, _LARGEST).to(torch.int8)
    return integers, (integers * scale[:, None] - matrix).abs().amax(1)


def packed(
    weights: Mapping[str, Tensor], matrices: Iterable[str], *, lossy: bool = False
) -> dict[str, Tensor]:
    """Return weights with matrices in 8 bits.

    Args:
        weights: by name, float32.
        matrices: names of those that may be quantised.
        lossy: quantise all of them; else only those whose values 8 bits hold exactly.
    """
    found = dict(weights)
    for name in matrices:
        matrix = weights[name].flatten(1)
        integers, scale = quantise(matrix)
        if lossy or torch.equal(integers * scale[:, None], matrix):
            found |= {name: integers.view_as(weights[name]), name + SCALE: scale}
    return found


def unpacked(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as float32; the reverse of `packed`."""
    found: dict[str, Tensor] = {}
    for name, value in stored.items():
        scale = stored.get(name + SCALE)
        if value.dtype == torch.int8 and scale is not None:
            found[name] = (value.flatten(1) * scale.float()[:, None]).view_as(value)
        elif stored.get(name.removesuffix(SCALE), value).dtype != torch.int8:
            found[name] = value.float() if value.is_floating_point() else value
    return found


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of weights as float32: safetensors, or torch's `.bin`, weights only.

    Raises:
        UNREADABLE: it is missing, damaged, or holds more than weights.
    """
    if path.suffix == ".bin":
        try:
            return unpacked(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # torch raises many kinds on damaged or unsafe files
            raise OSError(f"{path.name} is damaged or unsafe: {error}") from error
    return unpacked(load_file(path))


def write_weights(network: Encoder, path: Path, *, int8: bool = False) -> None:
    """Write the weights of an encoder into a file; see `packed`.

    Args:
        network: matrices that 8 bits represent exactly are stored in 8 bits.
        path: the file, which is replaced.
        int8: store all matrices in 8 bits, with rounding.

    Raises:
        OSError: it cannot be written.
    """
    stored = packed(network.state_dict(), network.matrices(), lossy=int8)
    save_file({k: v.cpu().contiguous() for k, v in stored.items()}, path, {"format": "pt"})
