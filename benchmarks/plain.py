"""Careful plain PyTorch: cached projection, padded teacher forcing, one vocabulary product,
batched beam search.

It shares an `AttentionDecoder`'s weights and none of its code, so that it stays as it is while
that becomes faster. Soft attention with additive scores only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from regard.config import ObjectiveConfig
from regard.errors import ConfigError
from regard.model.decoder import AttentionDecoder
from regard.training.objectives.base import Batch


@dataclass(frozen=True)
class Projected:
    """Annotations (N, L, D), their keys (N, L, A) and mask (N, L)."""

    values: Tensor
    keys: Tensor
    mask: Tensor


class Plain:
    """Runs the weights of an `AttentionDecoder`."""

    def __init__(self, decoder: AttentionDecoder) -> None:
        """Take the weights; they are shared, not copied.

        Raises:
            ConfigError: the decoder is of another kind.
        """
        c = decoder.config
        kind = (c.attention, c.scores, c.position, c.init, c.feature_dim, c.annotation_norm)
        if kind != ("soft", "additive", "none", "mlp", 0, False):
            raise ConfigError(
                "plain PyTorch supports soft attention with additive scores over bare "
                f"annotations; this decoder has (attention, scores, position, init, feature_dim, "
                f"annotation_norm) = {kind}."
            )
        self.config = c
        self.w = dict(decoder.named_parameters(remove_duplicate=False))

    def project(self, vectors: Tensor, mask: Tensor) -> Projected:
        """Project the annotations of N pictures."""
        keys = self._linear("attention.scores.key", vectors)
        return Projected(vectors, keys, mask)

    def start(self, projected: Projected) -> tuple[Tensor, Tensor]:
        """Return the first state of N pictures, (N, H) each."""
        weights = projected.mask.to(projected.values.dtype)[..., None]
        mean = (projected.values * weights).sum(1) / weights.sum(1)
        hidden = torch.tanh(self._linear("init_hidden.0", mean))
        return hidden, torch.tanh(self._linear("init_memory.0", mean))

    def recur(
        self, gates: Tensor, hidden: Tensor, memory: Tensor, projected: Projected
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return h_t, c_t, the gated context and alpha of B = N·G captions.

        Args:
            gates: (B, 4H), the word's part of the LSTM's gates.
            hidden: (B, H).
            memory: (B, H).
            projected: N pictures.
        """
        grouped = hidden.view(len(projected.keys), -1, hidden.shape[-1])
        query = linear(grouped, self.w["attention.scores.query.weight"])
        joined = torch.tanh(projected.keys[:, None] + query[:, :, None])
        scores = linear(joined, self.w["attention.scores.v.weight"])[..., 0].float()
        scores = scores / self.config.temperature
        scores = scores.masked_fill(~projected.mask[:, None], -torch.inf)
        alpha = torch.softmax(scores, -1)
        context = (alpha.to(projected.values.dtype) @ projected.values).flatten(0, 1)
        if self.config.gate != "none":
            context = torch.sigmoid(self._linear("gate.linear", hidden)) * context
        joined = torch.cat([context.to(hidden.dtype), hidden], -1)
        gates = (gates + linear(joined, self.w["lstm_recurrent.weight"])).float()
        i, f, o, g = gates.chunk(4, -1)
        memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * memory.tanh()
        return hidden, memory, context, alpha.flatten(0, 1)

    def loss(
        self, batch: Batch, config: ObjectiveConfig, generator: torch.Generator | None
    ) -> Tensor:
        """Return the cross-entropy with the doubly stochastic penalty (equation 14), a scalar.

        Args:
            batch: pictures and captions.
            config: its weights.
            generator: random generator of dropout; None drops nothing.
        """
        projected = self.project(batch.vectors, batch.mask)
        hidden, memory = (self._drop(x, generator) for x in self.start(projected))
        group = len(batch.tokens) // len(batch.mask)
        hidden = hidden.float().repeat_interleave(group, 0)
        memory = memory.float().repeat_interleave(group, 0)
        embedded = self.w["embedding.weight"][batch.tokens]
        gates = self._linear("lstm_word", embedded)
        states: list[Tensor] = []
        contexts: list[Tensor] = []
        alphas: list[Tensor] = []
        for t in range(batch.tokens.shape[1]):
            hidden, memory, context, alpha = self.recur(gates[:, t], hidden, memory, projected)
            states.append(hidden)
            contexts.append(context)
            alphas.append(alpha)
        hidden = self._drop(torch.stack(states, 1), generator)
        logits = self.say(embedded, hidden, torch.stack(contexts, 1), generator)
        nll = cross_entropy(
            logits.flatten(0, 1).float(), batch.targets.flatten(), reduction="none",
            label_smoothing=config.label_smoothing,
        )  # fmt: skip
        nll = (nll.view_as(batch.targets) * batch.steps).sum(1).mean()
        looked = (torch.stack(alphas, 1) * batch.steps[..., None]).sum(1)
        cells = batch.mask.repeat_interleave(group, 0)
        penalty = ((1 - looked).square() * cells).sum(1).mean()
        return nll + config.lambda_ds * penalty

    def say(
        self,
        embedded: Tensor,
        hidden: Tensor,
        context: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the logits, (..., V)."""
        deep = embedded + linear(hidden, self.w["output_hidden.weight"])
        deep = deep + self._linear("output_context", context)
        if self.config.output_activation == "tanh":
            deep = torch.tanh(deep)
        return self._linear("output", self._drop(deep, generator))

    @torch.inference_mode()
    def beam(
        self,
        vectors: Tensor,
        mask: Tensor,
        *,
        width: int,
        max_length: int,
        start: int,
        end: int,
        forbidden: tuple[int, ...] = (),
    ) -> list[tuple[tuple[int, ...], float]]:
        """Return each picture's best caption and its summed log-probability.

        All pictures go on until the last has ended. The search's rule is that of
        `regard.decoding`: a caption that ends leaves the beam, which stays as wide.

        Args:
            vectors: (N, L, D).
            mask: (N, L).
            width: beam.
            max_length: most words.
            start: id read first.
            end: id that ends a caption.
            forbidden: ids that are never said.
        """
        projected = self.project(vectors, mask)
        items, words = len(vectors), self.config_words
        hidden, memory = (s.repeat_interleave(width, 0) for s in self.start(projected))
        token = torch.full((items * width,), start)
        total = torch.full((items, width), -torch.inf)
        total[:, 0] = 0.0
        said = torch.zeros(items, width, 0, dtype=torch.long)
        best: list[tuple[tuple[int, ...], float]] = [((), -torch.inf)] * items
        first = (torch.arange(items) * width)[:, None]
        done = torch.zeros(items, dtype=torch.bool)
        for t in range(max_length + 1):
            embedded = self.w["embedding.weight"][token]
            gates = self._linear("lstm_word", embedded)
            hidden, memory, context, _ = self.recur(gates, hidden, memory, projected)
            logprobs = torch.log_softmax(self.say(embedded, hidden, context), -1)
            logprobs[:, list(forbidden)] = -torch.inf
            scores = (total[:, :, None] + logprobs.view(items, width, words)).flatten(1)
            values, places = scores.topk(2 * width, -1)
            parent, word = places // words, places % words
            for n in (~done).nonzero()[:, 0].tolist():
                for k in range(width):
                    if int(word[n, k]) == end and float(values[n, k]) > best[n][1]:
                        best[n] = (tuple(said[n, parent[n, k]].tolist()), float(values[n, k]))
            # The first `width` that go on, in their order.
            goes_on = (word == end).int().sort(dim=-1, stable=True).indices[:, :width]
            total, word = values.gather(1, goes_on), word.gather(1, goes_on)
            parent = parent.gather(1, goes_on)
            said = torch.cat(
                [said.gather(1, parent[..., None].expand(-1, -1, t)), word[..., None]], -1
            )
            index = (first + parent).flatten()
            hidden, memory, token = hidden[index], memory[index], word.flatten()
            done |= torch.tensor([score for _, score in best]) >= total.max(-1).values
            if bool(done.all()):
                break
        for n in range(items):
            if best[n][1] == -torch.inf:
                best[n] = (tuple(said[n, 0, :max_length].tolist()), float(total[n, 0]))
        return best

    @property
    def config_words(self) -> int:
        """V."""
        return len(self.w["output.bias"])

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def _drop(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        if generator is None or self.config.dropout == 0:
            return x
        keep = torch.empty_like(x).bernoulli_(1 - self.config.dropout, generator=generator)
        return x * keep / (1 - self.config.dropout)
