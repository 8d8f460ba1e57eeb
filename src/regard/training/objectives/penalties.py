"""Penalties on attention, each with its reduction."""

from __future__ import annotations

import torch
from torch import Tensor


def doubly_stochastic(alpha: Tensor, steps: Tensor, cells: Tensor) -> Tensor:
    """Penalise cells that a caption looked at too little or too much.

    sum_i (1 - sum_t alpha_ti)^2 (Xu et al. 2015, equation 14): **summed over valid cells,
    averaged over captions**; padding steps are left out. Published code scales this in other
    ways: the released code sums over the batch and averages over cells (batch / L times
    this), others average over both (1 / L times this).

    Args:
        alpha: (B, T, L).
        steps: (B, T) bool, True = a real word.
        cells: (B, L) bool, True = a real cell.

    Returns:
        A scalar.
    """
    # --8<-- [start:doubly]
    looked = (alpha * steps.unsqueeze(-1)).sum(1)  # sum_t alpha_ti, (B, L)
    return ((1 - looked).square() * cells).sum(1).mean()
    # --8<-- [end:doubly]


def attention_entropy(alpha: Tensor, steps: Tensor) -> Tensor:
    """Return H[s] = -sum_t sum_i alpha_ti log alpha_ti in nats.

    **Summed over cells and real words**, one value per caption.

    Args:
        alpha: (B, T, L); cells with alpha 0 add nothing.
        steps: (B, T) bool.

    Returns:
        (B,).
    """
    # Not torch.special.entr: its slope at 0 is infinite, and alpha gets there in float32.
    entropy = -(alpha * alpha.clamp_min(torch.finfo(alpha.dtype).tiny).log()).sum(-1)
    return (entropy * steps).sum(1)
