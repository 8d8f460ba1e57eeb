"""The papers' equations as a plain loop, without caches or other optimisations: the tests' oracle.

Xu et al. 2015, section 3.1, with the deviations that `regard.model.decoder` names. At every step
the annotations of every caption are projected again, as in the most-used public implementations;
like those it sorts captions by length, and a caption that has ended takes no further steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, pad

from regard.config import DecoderConfig, ObjectiveConfig
from regard.errors import ConfigError
from regard.model.decoder import AttentionDecoder
from regard.training.objectives.base import Batch


@dataclass(frozen=True)
class Kept:
    """Dropout's factors, 0 or 1 / (1 - rate), in the order in which they are drawn.

    Attributes:
        hidden_0: (N, H) of the first state.
        memory_0: (N, H) of the first state.
        embedding: (B, T, E).
        hidden: (B, T, H), on h_t before the deep output.
        deep: (B, T, E), on the deep output.
    """

    hidden_0: Tensor
    memory_0: Tensor
    embedding: Tensor
    hidden: Tensor
    deep: Tensor


def draw_kept(
    config: DecoderConfig,
    items: int,
    tokens: Tensor,
    dtype: torch.dtype,
    generator: torch.Generator | None,
) -> Kept:
    """Draw dropout's factors for N items and (B, T) tokens; without a generator keep all."""

    def draw(rate: float, *shape: int) -> Tensor:
        if generator is None or rate == 0:
            return torch.ones(shape, dtype=dtype)
        kept = torch.empty(shape, dtype=dtype).bernoulli_(1 - rate, generator=generator)
        return kept / (1 - rate)

    hidden, embedding = config.hidden_dim, config.embedding_dim
    return Kept(
        draw(config.dropout, items, hidden),
        draw(config.dropout, items, hidden),
        draw(config.embedding_dropout, *tokens.shape, embedding),
        draw(config.dropout, *tokens.shape, hidden),
        draw(config.dropout, *tokens.shape, embedding),
    )


@dataclass(frozen=True)
class Said:
    """One step of B captions.

    Attributes:
        logprobs: (B, V) log p(y_t | a, y_{<t}).
        hidden: (B, H) h_t.
        memory: (B, H) c_t.
        alpha: (B, L).
        log_alpha: (B, L).
        beta: (B, 1 or D), or None.
        context: (B, D) z_t, before the gate.
    """

    logprobs: Tensor
    hidden: Tensor
    memory: Tensor
    alpha: Tensor
    log_alpha: Tensor
    beta: Tensor | None
    context: Tensor


class Textbook:
    """Runs the weights of an `AttentionDecoder` by the equations."""

    def __init__(self, decoder: AttentionDecoder) -> None:
        """Take the weights; they are shared, not copied.

        Raises:
            ConfigError: it has a position code, which the papers do not have.
        """
        if decoder.config.position != "none":
            raise ConfigError(
                f"decoder.position is {decoder.config.position!r}; the textbook implementation "
                'has no position code. Set it to "none".'
            )
        self.config = decoder.config
        self.w = dict(decoder.named_parameters(remove_duplicate=False))

    def values(self, vectors: Tensor) -> Tensor:
        """Return the annotations a, (B, L, D), of the encoder's vectors."""
        values = vectors
        if self.config.feature_dim:
            values = linear(values, self.w["feature.weight"], self.w["feature.bias"])
        if self.config.annotation_norm:
            weight, bias = self.w["norm.weight"], self.w["norm.bias"]
            values = layer_norm(values, weight.shape, weight, bias)
        return values

    def start(self, vectors: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return h_0 and c_0, (B, H): f_init of the mean over valid cells (3.1.2)."""
        values = self.values(vectors)
        mean = torch.stack([a[real].mean(0) for a, real in zip(values, mask, strict=True)])
        return self._first("init_hidden", mean), self._first("init_memory", mean)

    def _first(self, name: str, mean: Tensor) -> Tensor:
        if self.config.init == "mlp":
            return torch.tanh(linear(mean, self.w[f"{name}.0.weight"], self.w[f"{name}.0.bias"]))
        if f"{name}.weight" in self.w:
            return linear(mean, self.w[f"{name}.weight"], self.w[f"{name}.bias"])
        return mean

    def scores(self, values: Tensor, hidden: Tensor) -> Tensor:
        """Return e_ti = f_att(a_i, h_{t-1}), (B, L) (equation 4)."""
        kind = self.config.scores
        if kind == "uniform":
            return values.new_zeros(values.shape[:2])
        weight, name = self.w, "attention.scores."
        keys = linear(values, weight[name + "key.weight"], weight.get(name + "key.bias"))
        query = linear(hidden, weight[name + "query.weight"], weight.get(name + "query.bias"))
        if kind == "additive":
            return torch.tanh(keys + query[:, None]) @ weight[name + "v.weight"][0]
        dot = (keys * query[:, None]).sum(-1)
        return dot / keys.shape[-1] ** 0.5 if kind == "scaled_dot" else dot

    def step(
        self,
        word: Tensor,
        hidden: Tensor,
        memory: Tensor,
        vectors: Tensor,
        mask: Tensor,
        *,
        location: Tensor | None = None,
        looks: Tensor | None = None,
        kept: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> Said:
        """Read one word y_{t-1} (B,).

        Args:
            word: (B,).
            hidden: (B, H) h_{t-1}.
            memory: (B, H) c_{t-1}.
            vectors: (B, L, D) of the encoder, one row per caption.
            mask: (B, L).
            location: (B,) s_t, the cell that hard attention looks at; None: the expectation.
            looks: (B,) bool, which captions look at it; the others take the expectation.
            kept: dropout's factors of the word, of h_t and of the deep output.
        """
        w = self.w
        a = self.values(vectors)
        e = self.scores(a, hidden) / self.config.temperature
        log_alpha = torch.log_softmax(e.masked_fill(~mask, -torch.inf), -1)  # equation 5
        alpha = log_alpha.exp()
        z = (alpha[:, :, None] * a).sum(1)  # equation 13
        if location is not None:
            at = a[torch.arange(len(a)), location]  # equation 7 of 4.1: z = a_s
            z = at if looks is None else torch.where(looks[:, None], at, z)
        beta = None
        if self.config.gate != "none":  # 4.2.1
            beta = torch.sigmoid(linear(hidden, w["gate.linear.weight"], w["gate.linear.bias"]))
        seen = z if beta is None else beta * z
        embedded = w["embedding.weight"][word]
        if kept is not None:
            embedded = embedded * kept[0]
        gates = linear(embedded, w["lstm_word.weight"], w["lstm_word.bias"])
        gates = gates + linear(torch.cat([seen, hidden], -1), w["lstm_recurrent.weight"])
        i, f, o, g = gates.chunk(4, -1)
        memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()  # equation 2
        hidden = o.sigmoid() * memory.tanh()  # equation 3
        said = hidden if kept is None else hidden * kept[1]
        deep = embedded + linear(said, w["output_hidden.weight"])
        deep = deep + linear(seen, w["output_context.weight"], w["output_context.bias"])
        if self.config.output_activation == "tanh":
            deep = torch.tanh(deep)
        if kept is not None:
            deep = deep * kept[2]
        logits = linear(deep, w["output.weight"], w["output.bias"])  # section 3.1.2
        return Said(torch.log_softmax(logits, -1), hidden, memory, alpha, log_alpha, beta, z)

    def read(
        self,
        batch: Batch,
        *,
        location: Tensor | None = None,
        looks: Tensor | None = None,
        kept: Kept | None = None,
        label_smoothing: float = 0.0,
    ) -> Reading:
        """Read whole captions word by word.

        Args:
            batch: N pictures, B captions.
            location: (B, T) cells that hard attention looked at; None: expectations.
            looks: (B,) as in `step`.
            kept: dropout's factors.
            label_smoothing: share of a target's probability spread over the vocabulary.
        """
        count = len(batch.tokens)
        group = count // len(batch.mask)
        # The longest first, so that those which still have a word are the first ones.
        lengths = batch.steps.sum(1)
        order = lengths.argsort(descending=True, stable=True)
        vectors = batch.vectors.repeat_interleave(group, 0)[order]
        mask = batch.mask.repeat_interleave(group, 0)[order]
        hidden, memory = self.start(vectors, mask)
        if kept is not None:
            hidden = hidden * kept.hidden_0.repeat_interleave(group, 0)[order].to(hidden)
            memory = memory * kept.memory_0.repeat_interleave(group, 0)[order].to(memory)
        logprob = path = entropy = hidden.new_zeros(count)
        alphas: list[Tensor] = []
        for t in range(int(lengths.max())):
            live = order[: int((lengths > t).sum())]
            n = len(live)
            said = self.step(
                batch.tokens[live, t],
                hidden[:n],
                memory[:n],
                vectors[:n],
                mask[:n],
                location=None if location is None else location[live, t],
                looks=None if looks is None else looks[live],
                kept=None if kept is None else _at(kept, live, t, hidden),
            )
            hidden, memory = said.hidden, said.memory
            target = said.logprobs.gather(1, batch.targets[live, t, None])[:, 0]
            smoothed = (1 - label_smoothing) * target + label_smoothing * said.logprobs.mean(-1)
            logprob = logprob + pad(smoothed, (0, count - n))
            log_alpha = said.log_alpha.masked_fill(~mask[:n], 0.0)
            entropy = entropy - pad((said.alpha * log_alpha).sum(-1), (0, count - n))
            if location is not None:
                looked_at = said.log_alpha.gather(1, location[live, t, None])[:, 0]
                path = path + pad(looked_at, (0, count - n))
            alphas.append(pad(said.alpha, (0, 0, 0, count - n)))
        back = order.argsort()
        alpha = torch.stack(alphas, 1)
        return Reading(logprob[back], alpha[back], path[back], entropy[back])

    def cross_entropy(
        self, batch: Batch, config: ObjectiveConfig, kept: Kept | None = None
    ) -> Tensor:
        """Return the loss of soft attention, a scalar (equation 14)."""
        reading = self.read(batch, kept=kept, label_smoothing=config.label_smoothing)
        return -reading.logprob.mean() + config.lambda_ds * self._penalty(reading, batch)

    def hard_attention(
        self,
        batch: Batch,
        config: ObjectiveConfig,
        *,
        location: Tensor,
        looks: Tensor,
        baseline: float,
        kept: Kept | None = None,
    ) -> Tensor:
        """Return the loss whose gradient is REINFORCE's (equations 11 and 12), a scalar.

        Args:
            batch: pictures and captions.
            config: its weights.
            location: (B, T) s, the cells that were sampled.
            looks: (B,) bool, captions that look at them.
            baseline: b.
            kept: dropout's factors.
        """
        smooth = config.label_smoothing
        r = self.read(batch, location=location, looks=looks, kept=kept, label_smoothing=smooth)
        reward = r.logprob.detach()
        if config.reward == "mean":
            reward = reward / batch.steps.sum(1)
        reinforce = ((reward - baseline) * looks * r.path).mean()
        return (
            -r.logprob.mean()
            - config.lambda_r * reinforce
            - config.lambda_e * r.entropy.mean()
            + config.lambda_ds * self._penalty(r, batch)
        )

    @staticmethod
    def _penalty(reading: Reading, batch: Batch) -> Tensor:
        """Return sum_i (1 - sum_t alpha_ti)^2 over valid cells, averaged over captions."""
        mask = batch.mask.repeat_interleave(len(batch.tokens) // len(batch.mask), 0)
        of_captions = [
            (1 - alpha[:, real].sum(0)).square().sum()
            for alpha, real in zip(reading.alpha, mask, strict=True)
        ]
        return torch.stack(of_captions).mean()


@dataclass(frozen=True)
class Reading:
    """Results of teacher forcing for B captions.

    Attributes:
        logprob: (B,) log p(y | a), summed over the words.
        alpha: (B, T, L), 0 after a caption's end.
        path: (B,) log p(s | a), summed over the words; 0 where nothing was sampled.
        entropy: (B,) of the attention in nats, summed over the words.
    """

    logprob: Tensor
    alpha: Tensor
    path: Tensor
    entropy: Tensor


def _at(kept: Kept, live: Tensor, t: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    factors = (kept.embedding, kept.hidden, kept.deep)
    word, hidden, deep = (f[live, t].to(like) for f in factors)
    return word, hidden, deep
