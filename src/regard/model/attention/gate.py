"""The gate beta: how much of the picture enters this word."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    """beta_t = sigmoid(f_beta(h_{t-1})) (Xu et al. 2015, 4.2.1).

    The paper's gate is one number per caption and step; some published code uses one per
    annotation feature and calls it by the same name. Here `features` says which: 1, or D.
    """

    def __init__(self, hidden_dim: int, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_dim, features)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden states (B, H) to beta, (B, 1) or (B, D), in [0, 1]."""
        return torch.sigmoid(self.linear(hidden))
