"""Captions of different lengths without padding: the rows of every step that hold a word.

Captions are put in order of their lengths, the longest first, so that step t concerns the first
n_t of them. Their rows stand step by step: n_0 rows of step 0, n_1 of step 1, and so on. What
is computed on such rows costs nothing for padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where the R rows of B captions of up to T steps lie.

    Attributes:
        order: (B,) the caption that is first, second, ... in order of length.
        counts: captions that have a step t, for t = 0 ... T' - 1, where T' is the longest.
        flat: (R,) index of each row in (B, T) read row by row.
        shape: (B, T).
    """

    order: Tensor
    counts: tuple[int, ...]
    flat: Tensor
    shape: tuple[int, int]

    def pack(self, x: Tensor) -> Tensor:
        """Return the rows (R, ...) of x (B, T, ...)."""
        return x.flatten(0, 1).index_select(0, self.flat)

    def unpack(self, rows: Tensor) -> Tensor:
        """Return (B, T, ...) with the rows (R, ...) in place and 0 where there is none."""
        captions, steps = self.shape
        padded = rows.new_zeros(captions * steps, *rows.shape[1:])
        return padded.index_copy(0, self.flat, rows).view(captions, steps, *rows.shape[1:])


def packing(steps: Tensor) -> Packing:
    """Plan the rows of captions.

    Args:
        steps: (B, T) bool, True = a word; a caption is as long as its last one.
    """
    captions, longest = steps.shape
    places = torch.arange(1, longest + 1, device=steps.device)
    lengths = (steps * places).amax(1)
    order = torch.argsort(lengths, descending=True, stable=True)
    present = lengths[order] >= places[:, None]  # (T, B), in order
    counts = tuple(n for n in present.sum(1).tolist() if n)
    step, row = present.nonzero(as_tuple=True)
    return Packing(order, counts, order[row] * longest + step, (captions, longest))


def unpadded(captions: int, steps: int, device: torch.device) -> Packing:
    """Plan the rows of captions that all have `steps` steps; the device is not waited for."""
    order = torch.arange(captions, device=device)
    flat = order * steps + torch.arange(steps, device=device)[:, None]
    return Packing(order, (captions,) * steps, flat.flatten(), (captions, steps))
