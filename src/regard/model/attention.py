"""Attention: scores, soft and hard contexts, the gate."""

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from regard.config import DecoderConfig
from regard.model.rng import Rng, exponential
from regard.native import dispatch
from regard.native.functional import additive_scores, project
from regard.types import ProjectedAnnotations, location_chooser


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


class ScoreFunction(nn.Module, ABC):
    """Interface of score functions: N items' keys against the hidden states of G captions each.

    Attributes:
        scale: factor that `forward` multiplies scores with at the end.
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

        v is None where a score is the dot product of query and key. Returns None for any other
        scores, which no kernel supports.
        """
        return None


class AdditiveScores(ScoreFunction):
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


class DotScores(ScoreFunction):
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


class UniformScores(ScoreFunction):
    """e_ti = 0: attention frozen at uniform, 1/L on every valid cell.

    The control of Wiegreffe and Pinter (2019): a decoder trained with it sees only the mean of the
    picture.
    """

    def keys(self, values: Tensor) -> Tensor:
        return values[..., :1]

    def forward(self, hidden: Tensor, keys: Tensor) -> Tensor:
        return hidden.new_zeros(hidden.shape[0], hidden.shape[1], keys.shape[1])


class AttentionOutput(NamedTuple):
    """The output of attention for B = N·G captions.

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
    """ScoreFunction, a softmax over valid cells, and a rule that forms the context."""

    def __init__(self, scores: ScoreFunction, temperature: float = 1.0) -> None:
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
        generator: Rng | None = None,
    ) -> AttentionOutput:
        """Attend.

        Args:
            hidden: (B, H), h_{t-1}; the G = B / N captions of an item are consecutive.
            projected: the N items, shared by groups of G captions.
            context: "expected", "sample" or "argmax"; soft attention supports only "expected".
            generator: random generator of the sampled locations.
        """

    def log_alpha(self, hidden: Tensor, projected: ProjectedAnnotations) -> Tensor:
        """Return log alpha, (N, G, L): -inf on cells that the mask rules out."""
        scores = self.grouped_scores(hidden, projected) / self.temperature
        scores = scores.masked_fill(~projected.mask[:, None], -torch.inf)
        return torch.log_softmax(scores, dim=-1)

    def grouped_scores(self, hidden: Tensor, projected: ProjectedAnnotations) -> Tensor:
        """Return scores, (N, G, L): in float32 also under autocast, so that alpha sums to 1."""
        grouped = hidden.view(projected.values.shape[0], -1, hidden.shape[-1])
        return at_least_float32(self.scores(grouped, projected.keys))


def at_least_float32(x: Tensor) -> Tensor:
    """Return x in float32; float64 stays float64."""
    return x if x.dtype == torch.float64 else x.float()


def expected_context(alpha: Tensor, projected: ProjectedAnnotations) -> Tensor:
    """Return sum_i alpha_ti a_i, (N, G, D), for alpha (N, G, L) (equation 13)."""
    return alpha.to(projected.values.dtype) @ projected.values


class SoftAttention(Attention):
    """Deterministic attention: the context is the expectation (Xu et al. 2015, 4.2)."""

    def forward(
        self, hidden: Tensor, projected: ProjectedAnnotations, **ignored: Any
    ) -> AttentionOutput:
        """See `Attention.forward`; soft attention ignores `context` and `generator`."""
        values, mask = projected.values, projected.mask
        if dispatch.SOFT_ATTENTION.choose(dispatch.case_of(values)) == dispatch.TRITON:
            from regard.native import triton_kernels  # what follows below, in one kernel

            scores = self.grouped_scores(hidden, projected)
            alpha, attended = triton_kernels.attend(scores, values, mask, self.temperature)
            return AttentionOutput(attended.flatten(0, 1), alpha.flatten(0, 1))
        # --8<-- [start:soft]
        alpha = self.log_alpha(hidden, projected).exp()  # alpha_ti = softmax_i(e_ti)
        attended = expected_context(alpha, projected)  # z_t = sum_i alpha_ti a_i
        # --8<-- [end:soft]
        return AttentionOutput(attended.flatten(0, 1), alpha.flatten(0, 1))


class HardAttention(Attention):
    """Stochastic attention: s_t ~ Multinoulli(alpha_t), z_t = a_{s_t} (Xu et al. 2015, 4.1).

    Training samples (`context="sample"`) and weighs the gradient by REINFORCE. At test time
    the sampled, the most likely or the expected location can be requested; the released code
    and the default here take the expectation.
    """

    def forward(
        self,
        hidden: Tensor,
        projected: ProjectedAnnotations,
        *,
        context: str = "expected",
        generator: Rng | None = None,
    ) -> AttentionOutput:
        """See `Attention.forward`.

        Raises:
            UnknownName: `context` is not "expected", "sample" or "argmax".
        """
        log_alpha = self.log_alpha(hidden, projected)
        alpha = log_alpha.exp()
        choose = location_chooser(context, lambda a: exponential(a, tuple(a.shape), generator))
        if choose is None:
            attended = expected_context(alpha, projected)
            return AttentionOutput(attended.flatten(0, 1), alpha.flatten(0, 1))
        location = choose(alpha.detach().flatten(0, 1))[:, None]
        location_logprob = log_alpha.flatten(0, 1).gather(1, location).squeeze(1)
        chosen = _gather(projected.values, location.view(log_alpha.shape[:2]))
        return AttentionOutput(
            chosen.flatten(0, 1), alpha.flatten(0, 1), location.squeeze(1), location_logprob
        )


def _gather(values: Tensor, location: Tensor) -> Tensor:
    """Return a_{s}, (N, G, D), of values (N, L, D) at cells (N, G)."""
    return values[torch.arange(values.shape[0], device=values.device)[:, None], location]


def build_attention(config: DecoderConfig, features: int) -> Attention:
    """Build the attention that a config names, over annotations of so many features."""
    sizes = features, config.hidden_dim, config.attention_dim
    if config.scores == "uniform":
        scores: ScoreFunction = UniformScores()
    elif config.scores == "additive":
        scores = AdditiveScores(*sizes)
    else:
        scores = DotScores(*sizes, scaled=config.scores == "scaled_dot")
    attention = HardAttention if config.attention == "hard" else SoftAttention
    return attention(scores, config.temperature)
