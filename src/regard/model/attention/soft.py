"""From scores to weights to a context vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from regard.model.attention.scores import Scores
from regard.model.rng import Randomness
from regard.native import dispatch
from regard.types import ProjectedAnnotations


class Attended(NamedTuple):
    """What attention returns for B = N·G captions.

    Attributes:
        context: (B, D), before the gate.
        alpha: (B, L), sums to 1 over valid cells and is 0 elsewhere.
        location: (B,) the chosen cell, or None where the context is an expectation.
        location_logprob: (B,) log alpha at that cell, or None.
    """

    context: Tensor
    alpha: Tensor
    location: Tensor | None = None
    location_logprob: Tensor | None = None


class Attention(nn.Module, ABC):
    """Scores, a softmax over valid cells, and a rule that forms the context."""

    def __init__(self, scores: Scores, temperature: float = 1.0) -> None:
        super().__init__()
        self.scores = scores
        self.temperature = temperature

    @abstractmethod
    def forward(
        self,
        hidden: Tensor,
        projected: ProjectedAnnotations,
        *,
        context: str = "expected",
        generator: Randomness | None = None,
    ) -> Attended:
        """Attend.

        Args:
            hidden: (B, H), h_{t-1}; the G = B / N captions of an item are consecutive.
            projected: the N items, shared by groups of G captions.
            context: "expected", "sample" or "argmax"; soft attention knows only "expected".
            generator: of the sampled locations.
        """

    def log_alpha(self, hidden: Tensor, projected: ProjectedAnnotations) -> Tensor:
        """Return log alpha, (N, G, L): -inf on cells that the mask rules out."""
        scores = self.grouped_scores(hidden, projected) / self.temperature
        scores = scores.masked_fill(~projected.mask[:, None], -torch.inf)
        return torch.log_softmax(scores, dim=-1)

    def grouped_scores(self, hidden: Tensor, projected: ProjectedAnnotations) -> Tensor:
        """Return scores, (N, G, L): in float32 also under autocast, so that alpha sums to 1."""
        grouped = hidden.view(projected.values.shape[0], -1, hidden.shape[-1])
        return widened(self.scores(grouped, projected.keys))


def widened(x: Tensor) -> Tensor:
    """Return x in float32, or in float64 where it is that."""
    return x if x.dtype == torch.float64 else x.float()


def expected_context(alpha: Tensor, projected: ProjectedAnnotations) -> Tensor:
    """Return sum_i alpha_ti a_i, (N, G, D), for alpha (N, G, L) (equation 13)."""
    return alpha.to(projected.values.dtype) @ projected.values


class SoftAttention(Attention):
    """Deterministic attention: the context is the expectation (Xu et al. 2015, 4.2)."""

    def forward(
        self,
        hidden: Tensor,
        projected: ProjectedAnnotations,
        *,
        context: str = "expected",
        generator: Randomness | None = None,
    ) -> Attended:
        """See `Attention.forward`; whatever `context` says, soft attention is expected."""
        if dispatch.takes(projected.values):  # what follows below, in one kernel
            scores = self.grouped_scores(hidden, projected)
            alpha, attended = dispatch.attend(
                scores, projected.values, projected.mask, self.temperature
            )
            return Attended(attended.flatten(0, 1), alpha.flatten(0, 1))
        # --8<-- [start:soft]
        alpha = self.log_alpha(hidden, projected).exp()  # alpha_ti = softmax_i(e_ti)
        attended = expected_context(alpha, projected)  # z_t = sum_i alpha_ti a_i
        # --8<-- [end:soft]
        return Attended(attended.flatten(0, 1), alpha.flatten(0, 1))
