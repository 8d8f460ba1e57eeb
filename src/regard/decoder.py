"""The attention LSTM of Show, Attend and Tell (Xu et al. 2015, section 3.1).

One step, for the word y_t:

    scores  e_t = f_att(a, h_{t-1})
    alpha_t = softmax(e_t);  z_t = beta_t sum_i alpha_ti a_i      (or beta_t a_{s_t})
    h_t, c_t = LSTM([E y_{t-1}; z_t], h_{t-1}, c_{t-1})
    logits = L_o tanh(E y_{t-1} + L_h h_t + L_z z_t)

Whatever decodes (teacher forcing, greedy, beam, sampling, REINFORCE, self-critical training)
calls this step. `forward` is a loop over its recurrent half, followed by its output half for
all steps at once, since the vocabulary product does not feed back.

Deviations from the paper: the first word is a learned <start> embedding, not zeros; the tanh
of the deep output follows the released code (`output_activation = "linear"` is equation 7);
annotations may be projected to D and normalised (`feature_dim`, `annotation_norm`; off in
the paper's presets).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regard.attention import Gate, HardAttention, SoftAttention, build_scores
from regard.attention.position import PositionCode
from regard.attention.soft import Attended
from regard.config import DecoderConfig
from regard.types import DecoderState, ProjectedAnnotations, Step


@dataclass(frozen=True)
class Unrolled:
    """What teacher forcing yields for B captions of T steps.

    Attributes:
        logits: (B, T, V).
        alpha: (B, T, L).
        beta: (B, T, 1 or D), or None without a gate.
        location: (B, T), or None where contexts are expectations.
        location_logprob: (B, T), or None likewise.
    """

    logits: Tensor
    alpha: Tensor
    beta: Tensor | None
    location: Tensor | None
    location_logprob: Tensor | None


@dataclass(frozen=True)
class _Recurrence:
    """The recurrent half of a step: everything but the vocabulary."""

    state: DecoderState
    context: Tensor
    beta: Tensor | None
    attended: Attended


class AttentionDecoder(nn.Module):
    """LSTM decoder with soft or hard attention over annotation vectors."""

    def __init__(self, config: DecoderConfig, *, annotation_dim: int, vocabulary_size: int) -> None:
        """Build the decoder with fresh weights (drawn from torch's global generator).

        Args:
            config: the `[decoder]` section.
            annotation_dim: features of the encoder's vectors.
            vocabulary_size: V, special tokens included.
        """
        super().__init__()
        self.config = config
        embedding_dim, hidden_dim = config.embedding_dim, config.hidden_dim
        features = config.feature_dim or annotation_dim
        self.annotation_dim = annotation_dim
        self.vocabulary_size = vocabulary_size
        self.feature = nn.Linear(annotation_dim, features) if config.feature_dim else nn.Identity()
        self.norm = nn.LayerNorm(features) if config.annotation_norm else nn.Identity()
        self.position = PositionCode(config.position, config.grid_shape, features)
        scores = build_scores(config.scores, features, hidden_dim, config.attention_dim)
        attention = HardAttention if config.attention == "hard" else SoftAttention
        self.attention = attention(scores, config.temperature)
        gate_size = {"none": 0, "scalar": 1, "feature": features}[config.gate]
        self.gate = Gate(hidden_dim, gate_size) if gate_size else None
        self.init_hidden = _first_state(config.init, features, hidden_dim)
        self.init_memory = _first_state(config.init, features, hidden_dim)
        self.embedding = nn.Embedding(vocabulary_size, embedding_dim)
        self.lstm_word = nn.Linear(embedding_dim, 4 * hidden_dim)
        self.lstm_recurrent = nn.Linear(features + hidden_dim, 4 * hidden_dim, bias=False)
        self.output_hidden = nn.Linear(hidden_dim, embedding_dim, bias=False)
        self.output_context = nn.Linear(features, embedding_dim)
        self.output = nn.Linear(embedding_dim, vocabulary_size)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.embedding.weight, std=0.1)
        nn.init.orthogonal_(self.lstm_recurrent.weight)
        # A forget gate that starts open lets gradients reach the first words.
        with torch.no_grad():
            self.lstm_word.bias.zero_()
            self.lstm_word.bias[self.config.hidden_dim : 2 * self.config.hidden_dim] = 1.0
        if self.config.tie_embeddings:
            self.output.weight = self.embedding.weight

    def project(self, vectors: Tensor, mask: Tensor) -> ProjectedAnnotations:
        """Project annotations once per item.

        Args:
            vectors: (N, L, D_encoder).
            mask: (N, L) bool, True = real cell.
        """
        values = self.position(self.norm(self.feature(vectors)))
        return ProjectedAnnotations(values, self.attention.scores.keys(values), mask)

    def init_state(
        self,
        projected: ProjectedAnnotations,
        captions_per_item: int = 1,
        *,
        generator: torch.Generator | None = None,
    ) -> DecoderState:
        """Return h_0 and c_0 from the mean annotation over valid cells.

        Args:
            projected: N items.
            captions_per_item: G; the state has N·G rows, the G of an item consecutive.
            generator: of the dropout, in training mode.
        """
        # --8<-- [start:init]
        weights = projected.mask.to(projected.values.dtype).unsqueeze(-1)
        mean = (projected.values * weights).sum(1) / weights.sum(1)
        hidden = self.init_hidden(mean)  # h_0 = f_init,h(mean a)
        memory = self.init_memory(mean)  # c_0 = f_init,c(mean a)
        # --8<-- [end:init]
        hidden = self._dropout(hidden, self.config.dropout, generator)
        memory = self._dropout(memory, self.config.dropout, generator)
        return DecoderState(
            hidden.float().repeat_interleave(captions_per_item, 0),
            memory.float().repeat_interleave(captions_per_item, 0),
        )

    def step(
        self,
        token: Tensor,
        state: DecoderState,
        projected: ProjectedAnnotations,
        *,
        context: str = "expected",
        generator: torch.Generator | None = None,
    ) -> Step:
        """Read one word and say what may come next.

        Args:
            token: (B,) ids of the words y_{t-1}.
            state: the state before the step, B rows.
            projected: N items, shared by groups of B / N consecutive captions.
            context: "expected", "sample" or "argmax" (hard attention).
            generator: of sampled locations, and of the dropout in training mode.
        """
        embedded = self._embed(token, generator)
        recurrence = self._recur(
            self.lstm_word(embedded), state, projected, context=context, generator=generator
        )
        logits = self._say(embedded, recurrence.state.hidden, recurrence.context, generator)
        attended = recurrence.attended
        return Step(
            logits,
            recurrence.state,
            attended.alpha,
            recurrence.beta,
            attended.location,
            attended.location_logprob,
        )

    def forward(
        self,
        tokens: Tensor,
        projected: ProjectedAnnotations,
        *,
        context: str | Tensor = "expected",
        generator: torch.Generator | None = None,
    ) -> Unrolled:
        """Run teacher forcing: the loop over `step`, with one vocabulary product.

        Args:
            tokens: (B, T) ids that are read, beginning with <start>; B = N·G.
            projected: the N items.
            context: as in `step`; or a (B,) bool tensor that says for which captions the
                sampled cell is replaced by its expectation (the paper's per-image switch).
            generator: of sampled locations and dropout.
        """
        captions_per_item = tokens.shape[0] // projected.values.shape[0]
        state = self.init_state(projected, captions_per_item, generator=generator)
        embedded = self._embed(tokens, generator)
        gates = self.lstm_word(embedded)
        steps: list[_Recurrence] = []
        for t in range(tokens.shape[1]):
            recurrence = self._recur(
                gates[:, t], state, projected, context=context, generator=generator
            )
            state = recurrence.state
            steps.append(recurrence)
        hidden = torch.stack([s.state.hidden for s in steps], 1)
        contexts = torch.stack([s.context for s in steps], 1)
        return Unrolled(
            self._say(embedded, hidden, contexts, generator),
            torch.stack([s.attended.alpha for s in steps], 1),
            _stack([s.beta for s in steps]),
            _stack([s.attended.location for s in steps]),
            _stack([s.attended.location_logprob for s in steps]),
        )

    def _recur(
        self,
        word_gates: Tensor,
        state: DecoderState,
        projected: ProjectedAnnotations,
        *,
        context: str | Tensor,
        generator: torch.Generator | None,
    ) -> _Recurrence:
        attended = self._attend(state.hidden, projected, context, generator)
        # --8<-- [start:gate]
        beta = None if self.gate is None else self.gate(state.hidden)
        visual = attended.context if beta is None else beta * attended.context
        # --8<-- [end:gate]
        # --8<-- [start:lstm]
        recurrent = torch.cat([visual.to(state.hidden.dtype), state.hidden], dim=-1)
        gates = word_gates + self.lstm_recurrent(recurrent)
        i, f, o, g = gates.float().chunk(4, dim=-1)
        memory = f.sigmoid() * state.memory + i.sigmoid() * g.tanh()  # c_t
        hidden = o.sigmoid() * memory.tanh()  # h_t
        # --8<-- [end:lstm]
        return _Recurrence(DecoderState(hidden, memory), visual, beta, attended)

    def _attend(
        self,
        hidden: Tensor,
        projected: ProjectedAnnotations,
        context: str | Tensor,
        generator: torch.Generator | None,
    ) -> Attended:
        if isinstance(context, str):
            return self.attention(hidden, projected, context=context, generator=generator)
        sampled = self.attention(hidden, projected, context="sample", generator=generator)
        groups = sampled.alpha.view(projected.values.shape[0], -1, sampled.alpha.shape[-1])
        expected = groups.to(projected.values.dtype) @ projected.values
        mixed = torch.where(context[:, None], expected.flatten(0, 1), sampled.context)
        return sampled._replace(context=mixed)

    def _embed(self, token: Tensor, generator: torch.Generator | None) -> Tensor:
        return self._dropout(self.embedding(token), self.config.embedding_dropout, generator)

    def _say(
        self,
        embedded: Tensor,
        hidden: Tensor,
        context: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        hidden = self._dropout(hidden, self.config.dropout, generator)
        # --8<-- [start:output]
        deep = embedded + self.output_hidden(hidden) + self.output_context(context)
        if self.config.output_activation == "tanh":
            deep = torch.tanh(deep)
        logits = self.output(self._dropout(deep, self.config.dropout, generator))
        # --8<-- [end:output]
        return logits

    def _dropout(self, x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
        """Inverted dropout that draws from the passed generator, so that runs can resume."""
        if not self.training or rate == 0.0:
            return x
        keep = torch.empty_like(x).bernoulli_(1 - rate, generator=generator)
        return x * keep / (1 - rate)


def _first_state(init: str, features: int, hidden_dim: int) -> nn.Module:
    """Return f_init: a tanh layer (the paper), or the mean itself where sizes allow."""
    if init == "mlp":
        return nn.Sequential(nn.Linear(features, hidden_dim), nn.Tanh())
    return nn.Identity() if features == hidden_dim else nn.Linear(features, hidden_dim)


def _stack(steps: list[Tensor | None]) -> Tensor | None:
    present = [s for s in steps if s is not None]
    return torch.stack(present, 1) if present else None
