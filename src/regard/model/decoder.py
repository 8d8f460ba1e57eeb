"""The attention LSTM of Show, Attend and Tell (Xu et al. 2015, section 3.1).

One step, for the word y_t:

    scores  e_t = f_att(a, h_{t-1})
    alpha_t = softmax(e_t);  z_t = beta_t sum_i alpha_ti a_i      (or beta_t a_{s_t})
    h_t, c_t = LSTM([E y_{t-1}; z_t], h_{t-1}, c_{t-1})
    logits = L_o tanh(E y_{t-1} + L_h h_t + L_z z_t)

All decoding (teacher forcing, greedy, beam, sampling, REINFORCE, self-critical training) calls
this step. `forward` runs its recurrent half step by step, followed by its output half for
all steps at once, since the vocabulary product does not feed back. On a CPU with a compiler the
recurrent half of all steps is one kernel (`regard.native.teacher_forcing`), held to the loop by
tests.

Deviations from the paper: the first word is a learned <start> embedding, not zeros; the tanh
of the deep output follows the released code (`output_activation = "linear"` is equation 7);
annotations may be projected to D and normalised (`feature_dim`, `annotation_norm`; off in
the paper's presets).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from regard.config import DecoderConfig
from regard.model.attention import AttentionOutput, Gate, at_least_float32, build_attention
from regard.model.pointer import Pointer
from regard.model.position import PositionCode
from regard.model.rng import Rng, bernoulli
from regard.model.unroll import Packing, pack_captions, pack_unpadded, unroll_compiled
from regard.native.functional import word_losses
from regard.native.teacher_forcing import RecurrenceOutput
from regard.types import DecoderState, ProjectedAnnotations, Step


@dataclass(frozen=True)
class PointedRows:
    """What a pointer would name in the R packed rows of teacher forcing.

    Attributes:
        pointer: the pointer.
        named: (R, C), see `Pointer.pointed`.
        hidden: (V,) bool, words that only the pointer may say in this batch; None: none.
    """

    pointer: Pointer
    named: Tensor
    hidden: Tensor | None

    def mix(self, logits: Tensor, deep: Tensor) -> Tensor:
        """Return log p(w), (R, V), from the vocabulary's logits (R, V) and deep output (R, E)."""
        if self.hidden is None:
            return self.pointer.mix(logits, deep, self.named).logprob
        logits = logits.masked_fill(self.hidden, -torch.inf)
        mixture = self.pointer.mix(logits, deep, self.named).logprob
        return self.pointer.only_named(mixture, self.hidden)


@dataclass(frozen=True)
class TeacherForcingOutput:
    """The output of teacher forcing for B captions of T steps, of which R are real.

    Attributes:
        features: (R, E), the deep output before the vocabulary, packed.
        output: the vocabulary layer.
        packing: where the R rows lie.
        alpha: (B, T, L); 0 at steps that are not real, like the fields below.
        beta: (B, T, 1 or D), or None without a gate.
        location: (B, T), or None where contexts are expectations.
        location_logprob: (B, T), or None likewise.
        pointed: what the pointer would name, packed; None without a pointer.
    """

    features: Tensor
    output: nn.Linear
    packing: Packing
    alpha: Tensor
    beta: Tensor | None
    location: Tensor | None
    location_logprob: Tensor | None
    pointed: PointedRows | None = None

    @property
    def logits(self) -> Tensor:
        """(B, T, V), recomputed at every call; training uses `losses`."""
        with torch.inference_mode(self.features.is_inference()):
            return self.packing.unpack(self.row_logits())

    def row_logits(self) -> Tensor:
        """Return the logits of the packed rows, (R, V); log p(w) where there is a pointer."""
        logits = self.output(self.features)
        return logits if self.pointed is None else self.pointed.mix(logits, self.features)

    def losses(self, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the cross-entropy of every word, **not reduced**: (B, T), float32 or wider.

        Args:
            targets: (B, T) ids of the target words.
            label_smoothing: share of the target's probability spread over the vocabulary.
        """
        target = self.packing.pack(targets)
        if self.pointed is not None:
            losses = smoothed_losses(self.row_logits(), target, label_smoothing)
            return self.packing.unpack(losses)
        layer = self.output
        losses = word_losses(self.features, layer.weight, layer.bias, target, label_smoothing)
        return self.packing.unpack(losses)


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
        self.attention = build_attention(config, features)
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
        self.pointer: Pointer | None = None
        if config.concepts:
            self.pointer = Pointer(config, annotation_dim, vocabulary_size)
            self.concept_cell = (
                nn.Linear(config.concept_dim, features, bias=False)
                if config.concept_cells
                else None
            )
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
        values, naming, forms = self.norm(self.feature(vectors)), None, None
        if self.pointer is not None:
            naming, forms = self.pointer.naming(vectors, mask), self.pointer.forms
            if self.concept_cell is not None:
                values = values + self.concept_cell(naming @ self.pointer.vectors)
        values = self.position(values)
        keys = self.attention.scores.keys(values)
        return ProjectedAnnotations(values, keys, mask, naming, forms)

    def init_state(
        self,
        projected: ProjectedAnnotations,
        captions_per_item: int = 1,
        *,
        generator: Rng | None = None,
    ) -> DecoderState:
        """Return h_0 and c_0 from the mean annotation over valid cells.

        Args:
            projected: N items.
            captions_per_item: G; the state has N·G rows, the G of an item consecutive.
            generator: random generator of the dropout, in training mode.
        """
        # --8<-- [start:init]
        real = projected.mask.to(projected.values.dtype).unsqueeze(1)  # a product reads values once
        mean = (real @ projected.values).squeeze(1) / real.sum(-1)
        hidden = self.init_hidden(mean)  # h_0 = f_init,h(mean a)
        memory = self.init_memory(mean)  # c_0 = f_init,c(mean a)
        # --8<-- [end:init]
        hidden = self._dropout(hidden, self.config.dropout, generator)
        memory = self._dropout(memory, self.config.dropout, generator)
        return DecoderState(
            at_least_float32(hidden).repeat_interleave(captions_per_item, 0),
            at_least_float32(memory).repeat_interleave(captions_per_item, 0),
        )

    def step(
        self,
        token: Tensor,
        state: DecoderState,
        projected: ProjectedAnnotations,
        *,
        context: str | Tensor = "expected",
        generator: Rng | None = None,
    ) -> Step:
        """Read one word and predict the next.

        Args:
            token: (B,) ids of the words y_{t-1}.
            state: the state before the step, B rows.
            projected: N items, shared by groups of B / N consecutive captions.
            context: "expected", "sample" or "argmax" (hard attention); or a tensor, as in
                `forward`.
            generator: random generator of sampled locations, and of the dropout in training mode.
        """
        embedded = self._embed(token, generator)
        word_gates = self.lstm_word(embedded)
        found, memory = self._recur(word_gates, state, projected, context, generator)
        deep = self._deepen(embedded, found.hidden, found.context, generator)
        state = DecoderState(found.hidden, memory)
        logits, copied = self.output(deep), None
        if self.pointer is not None:
            looked = found.alpha
            if found.location is not None:
                looked = _looked_at(looked, found.location, context)
            named = self.pointer.pointed(looked, _naming(projected))
            logits, copied = self.pointer.mix(logits, deep, named)
        return Step(
            logits, state, found.alpha, found.beta, found.location, found.location_logprob,
            copied=copied,
        )  # fmt: skip

    def forward(
        self,
        tokens: Tensor,
        projected: ProjectedAnnotations,
        *,
        steps: Tensor | Packing | None = None,
        context: str | Tensor = "expected",
        generator: Rng | None = None,
    ) -> TeacherForcingOutput:
        """Run teacher forcing: `step` for all words of given captions.

        Args:
            tokens: (B, T) ids that are read, beginning with <start>; B = N·G.
            projected: the N items.
            steps: (B, T) bool, True = a real step; the others, which follow a caption's end,
                cost nothing and yield 0. Or their layout, planned on the CPU and moved to the
                tokens' device. None: all are real.
            context: as in `step`; or a (B,) bool tensor that says for which captions the
                sampled cell is replaced by its expectation (the paper's per-image switch).
            generator: random generator of sampled locations and dropout. The draws do not depend
                on `steps`.
        """
        captions, longest = tokens.shape
        if steps is None:
            rows = pack_unpadded(captions, longest, tokens.device)
        else:
            rows = steps if isinstance(steps, Packing) else pack_captions(steps)
        captions_per_item = captions // projected.values.shape[0]
        state = self.init_state(projected, captions_per_item, generator=generator)
        embedded = self._embed(tokens, generator, rows)
        word_gates = self.lstm_word(embedded)
        found = self._unroll(word_gates, state, projected, rows, context, generator)
        deep = self._deepen(embedded, found.hidden, found.context, generator, rows)
        optional = found.beta, found.location, found.location_logprob
        beta, location, logprob = (None if x is None else rows.unpack(x) for x in optional)
        alpha = rows.unpack(found.alpha)
        looked = alpha
        if location is not None and self.pointer is not None:
            looked = _looked_at(alpha, location, context)
        pointed = self._point(looked, projected, rows, generator)
        return TeacherForcingOutput(
            deep, self.output, rows, alpha, beta, location, logprob, pointed
        )

    def _point(
        self, alpha: Tensor, projected: ProjectedAnnotations, rows: Packing, generator: Rng | None
    ) -> PointedRows | None:
        """Return what the pointer would name at all steps, and the words that only it may say."""
        if (pointer := self.pointer) is None:
            return None
        named = pointer.pointed(alpha.flatten(0, 1), _naming(projected))
        hidden = None
        if self.training and self.config.concept_dropout:
            hidden = pointer.hide(self.config.concept_dropout, generator)
        return PointedRows(pointer, rows.pack(named.unflatten(0, alpha.shape[:2])), hidden)

    def _unroll(
        self,
        word_gates: Tensor,
        state: DecoderState,
        projected: ProjectedAnnotations,
        rows: Packing,
        context: str | Tensor,
        generator: Rng | None,
    ) -> RecurrenceOutput:
        """Run the recurrent half of all steps; the result is packed."""
        parts = self.attention, self.gate, self.lstm_recurrent
        compiled = unroll_compiled(
            parts, word_gates, state, projected, rows, context=context, generator=generator
        )
        if compiled is not None:
            return compiled
        found: list[RecurrenceOutput] = []
        for gates in rows.unpack(word_gates).unbind(1):
            step, memory = self._recur(gates, state, projected, context, generator)
            state = DecoderState(step.hidden, memory)
            found.append(step)

        def packed(steps: tuple[Any, ...]) -> Any:
            return None if steps[0] is None else rows.pack(torch.stack(steps, 1))

        return RecurrenceOutput(*map(packed, zip(*found, strict=True)))

    def _recur(
        self,
        word_gates: Tensor,
        state: DecoderState,
        projected: ProjectedAnnotations,
        context: str | Tensor,
        generator: Rng | None,
    ) -> tuple[RecurrenceOutput, Tensor]:
        """Run the recurrent half of one step of B captions; return it, and c_t (B, H)."""
        attended = self._attend(state.hidden, projected, context, generator)
        # --8<-- [start:gate]
        beta = None if self.gate is None else self.gate(state.hidden)
        visual = attended.context if beta is None else beta * attended.context
        # --8<-- [end:gate]
        # --8<-- [start:lstm]
        recurrent = torch.cat([visual.to(state.hidden.dtype), state.hidden], dim=-1)
        gates = word_gates + self.lstm_recurrent(recurrent)
        i, f, o, g = at_least_float32(gates).chunk(4, dim=-1)
        memory = f.sigmoid() * state.memory + i.sigmoid() * g.tanh()  # c_t
        hidden = o.sigmoid() * memory.tanh()  # h_t
        # --8<-- [end:lstm]
        return RecurrenceOutput(hidden, visual, attended.alpha, beta, *attended[2:]), memory

    def _attend(
        self,
        hidden: Tensor,
        projected: ProjectedAnnotations,
        context: str | Tensor,
        generator: Rng | None,
    ) -> AttentionOutput:
        if isinstance(context, str):
            return self.attention(hidden, projected, context=context, generator=generator)
        sampled = self.attention(hidden, projected, context="sample", generator=generator)
        groups = sampled.alpha.view(projected.values.shape[0], -1, sampled.alpha.shape[-1])
        expected = groups.to(projected.values.dtype) @ projected.values
        mixed = torch.where(context[:, None], expected.flatten(0, 1), sampled.context)
        return sampled._replace(context=mixed)

    def _embed(self, token: Tensor, generator: Rng | None, rows: Packing | None = None) -> Tensor:
        read = token if rows is None else rows.pack(token)
        embedded = self.embedding(read)
        if self.pointer is not None:
            embedded = self.pointer.embed(read, embedded)
        return self._dropout(embedded, self.config.embedding_dropout, generator, rows)

    def _deepen(
        self,
        embedded: Tensor,
        hidden: Tensor,
        context: Tensor,
        generator: Rng | None,
        rows: Packing | None = None,
    ) -> Tensor:
        """Return the deep output before the vocabulary."""
        hidden = self._dropout(hidden, self.config.dropout, generator, rows)
        # --8<-- [start:output]
        deep = embedded + self.output_hidden(hidden) + self.output_context(context)
        if self.config.output_activation == "tanh":
            deep = torch.tanh(deep)
        # logits = self.output(deep), for all steps at once
        # --8<-- [end:output]
        return self._dropout(deep, self.config.dropout, generator, rows)

    def _dropout(
        self, x: Tensor, rate: float, generator: Rng | None, rows: Packing | None = None
    ) -> Tensor:
        """Inverted dropout that draws from the passed generator, so that runs can resume.

        For packed rows the padding's numbers are drawn too, so that a row's mask does not depend
        on which other rows are real.
        """
        if not self.training or rate == 0.0:
            return x
        shape = x.shape if rows is None else (*rows.shape, x.shape[-1])
        keep = bernoulli(x, tuple(shape), 1 - rate, generator)
        if rows is not None:
            keep = rows.pack(keep)
        return x * keep / (1 - rate)


def _naming(projected: ProjectedAnnotations) -> Tensor:
    assert projected.naming is not None, "annotations were projected without this pointer"
    return projected.naming


def _looked_at(alpha: Tensor, location: Tensor, context: str | Tensor) -> Tensor:
    """Return the weights of the cells that hard attention names from, (B, ..., L).

    All of the chosen cell's, which has no gradient; alpha where the context is its expectation.
    """
    cells = torch.arange(alpha.shape[-1], device=alpha.device)
    chosen = (cells == location.unsqueeze(-1)).to(alpha.dtype)
    if isinstance(context, str):
        return chosen
    return torch.where(context.view(-1, *[1] * (alpha.dim() - 1)), alpha, chosen)


def smoothed_losses(logprob: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
    """Return -(1 - s) log p(target) - s / V sum_w log p(w), **not reduced**, (R,).

    Args:
        logprob: (R, V).
        target: (R,) ids.
        label_smoothing: s.
    """
    losses = -logprob.gather(1, target.unsqueeze(1)).squeeze(1)
    return torch.lerp(losses, -logprob.mean(1), label_smoothing) if label_smoothing else losses


def _first_state(init: str, features: int, hidden_dim: int) -> nn.Module:
    """Return f_init: a tanh layer (the paper), or the mean itself if the sizes are equal."""
    if init == "mlp":
        return nn.Sequential(nn.Linear(features, hidden_dim), nn.Tanh())
    return nn.Identity() if features == hidden_dim else nn.Linear(features, hidden_dim)
