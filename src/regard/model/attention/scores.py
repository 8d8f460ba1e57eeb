"""Scores e_ti = f_att(a_i, h_{t-1}): how well each annotation answers the query.

Every family has the same interface: `keys` projects the annotations once per item,
`forward` scores them against the hidden state once per step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from torch import Tensor, nn

from regard.errors import UnknownName
from regard.native.kernels import additive_scores, project


class Scores(nn.Module, ABC):
    """A way to score N items' keys against the G captions of each.

    Attributes:
        scale: what `forward` multiplies scores with at the end.
    """

    scale: float = 1.0

    @abstractmethod
    def keys(self, values: Tensor) -> Tensor:
        """Project annotations (N, L, D) to keys (N, L, A), once per item."""

    @abstractmethod
    def forward(self, hidden: Tensor, keys: Tensor) -> Tensor:
        """Score keys against hidden states.

        Args:
            hidden: (N, G, H), h_{t-1} of the G captions of each item.
            keys: (N, L, A).

        Returns:
            (N, G, L) scores before the softmax.
        """

    def weights(self) -> tuple[Tensor, Tensor | None, Tensor | None] | None:
        """Return query weight (A, H), its bias (A,) and v (A,) of additive scores.

        v is None where a score is the dot product of query and key. None as a whole: neither,
        so no kernel knows these scores.
        """
        return None


class AdditiveScores(Scores):
    """e_ti = v · tanh(W_a a_i + W_h h_{t-1} + b), the paper's MLP (Xu et al. 2015, 3.1.2).

    The tanh makes the query matter: without it, W_h h would add the same number to every
    cell and cancel in the softmax.
    """

    def __init__(self, annotation_dim: int, hidden_dim: int, attention_dim: int) -> None:
        super().__init__()
        self.key = nn.Linear(annotation_dim, attention_dim)
        self.query = nn.Linear(hidden_dim, attention_dim, bias=False)
        self.v = nn.Linear(attention_dim, 1, bias=False)

    def keys(self, values: Tensor) -> Tensor:
        return project(values, self.key.weight)

    def weights(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self.query.weight, self.key.bias, self.v.weight[0]

    def forward(self, hidden: Tensor, keys: Tensor) -> Tensor:
        # --8<-- [start:additive]
        # b is added to the one query, not to the L keys
        query = self.query(hidden) + self.key.bias
        # e_ti = v · tanh(keys_i + query_t), without keeping the (N, G, L, A) tanh of every step
        return additive_scores(keys, query.to(keys.dtype), self.v.weight[0])
        # --8<-- [end:additive]


class DotScores(Scores):
    """e_ti = (W_h h_{t-1}) · (W_a a_i): query from the hidden state, keys from the annotations.

    `scaled` divides by the square root of A (Vaswani et al. 2017, equation 1).
    """

    def __init__(
        self, annotation_dim: int, hidden_dim: int, attention_dim: int, *, scaled: bool
    ) -> None:
        super().__init__()
        self.key = nn.Linear(annotation_dim, attention_dim, bias=False)
        self.query = nn.Linear(hidden_dim, attention_dim)
        self.scale = 1 / math.sqrt(attention_dim) if scaled else 1.0

    def keys(self, values: Tensor) -> Tensor:
        return project(values, self.key.weight)

    def weights(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self.query.weight, self.query.bias, None

    def forward(self, hidden: Tensor, keys: Tensor) -> Tensor:
        # --8<-- [start:dot]
        return self.query(hidden) @ keys.transpose(1, 2) * self.scale
        # --8<-- [end:dot]


class UniformScores(Scores):
    """e_ti = 0: attention frozen at uniform, 1/L on every valid cell.

    The control of Wiegreffe and Pinter (2019): a decoder trained so shows what captions owe to
    the mean of the picture alone.
    """

    def keys(self, values: Tensor) -> Tensor:
        return values[..., :1]

    def forward(self, hidden: Tensor, keys: Tensor) -> Tensor:
        return hidden.new_zeros(hidden.shape[0], hidden.shape[1], keys.shape[1])


_NAMES = ("additive", "dot", "scaled_dot", "uniform")


def build_scores(name: str, annotation_dim: int, hidden_dim: int, attention_dim: int) -> Scores:
    """Build the score function that `decoder.scores` names.

    Raises:
        UnknownName: no such score function.
    """
    if name == "additive":
        return AdditiveScores(annotation_dim, hidden_dim, attention_dim)
    if name in ("dot", "scaled_dot"):
        return DotScores(annotation_dim, hidden_dim, attention_dim, scaled=name == "scaled_dot")
    if name == "uniform":
        return UniformScores()
    raise UnknownName("score function", name, _NAMES)
