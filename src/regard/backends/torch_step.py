"""The decoder's step without gradients, on a CPU with compiled loops.

The same numbers as `AttentionDecoder.step`, which is its oracle and stands in wherever this
cannot run. What it saves: weights are packed once, not in every product; attention never writes
a (B, L, A) tanh; a word's share of the LSTM's gates is computed once for all rows that read it;
items that leave the batch cost no copy of those that stay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from regard.attention import HardAttention
from regard.decoder import AttentionDecoder
from regard.errors import UnknownName
from regard.kernels import Ranking, library
from regard.kernels.native import Library
from regard.kernels.product import ALIGNED, Product
from regard.types import DecoderState, ProjectedAnnotations, Step

_CONTEXTS = ("expected", "sample", "argmax")


@dataclass(frozen=True)
class ReadyAnnotations(ProjectedAnnotations):
    """Annotations in the form that the compiled loops read.

    `values`, `keys` and `mask` are of all items that a search began with; keys of additive
    scores are exp(-2 keys).

    Attributes:
        item: (N,) which of those the N items are that are left.
    """

    item: Tensor
    copies: ClassVar[bool] = False

    def select(self, index: Tensor) -> ReadyAnnotations:
        """Return the items that `index` names; nothing else is copied."""
        return replace(self, item=self.item[index])


class FastStep:
    """Steps of one decoder whose weights stay as they are."""

    def __init__(self, decoder: AttentionDecoder, loops: Library) -> None:
        """Pack the weights.

        Args:
            decoder: with scores that the loops know.
            loops: compiled for the decoder's type.
        """
        scoring = decoder.attention.scores.weights()
        assert scoring is not None
        self._decoder, self._loops = decoder, loops
        self.seen = weights_seen(decoder)
        query, self._query_bias, self._v = (None if w is None else w.detach() for w in scoring)
        assert query is not None
        self._scale = decoder.attention.scores.scale / decoder.attention.temperature
        recurrent = decoder.lstm_recurrent.weight.detach()
        features = recurrent.shape[1] - decoder.config.hidden_dim
        gate = None if decoder.gate is None else decoder.gate.linear
        of_hidden = [query, recurrent[:, features:]]
        if gate is not None:
            of_hidden.append(gate.weight.detach())
        self._sizes = [len(weight) for weight in of_hidden]
        self._gate_bias = None if gate is None else gate.bias.detach()
        self._by_hidden = self._product(torch.cat(of_hidden))
        self._by_context = self._product(recurrent[:, :features])
        self._by_word = self._product(decoder.lstm_word.weight.detach())
        self._out_hidden = self._product(decoder.output_hidden.weight.detach())
        self._output = self._product(decoder.output.weight.detach())
        self._output_bias = decoder.output.bias.detach()
        self._out_context = self._product(decoder.output_context.weight.detach())

    @staticmethod
    def of(decoder: AttentionDecoder) -> FastStep | None:
        """Return the fast step of a decoder, or None where only its own step can do it."""
        weight = decoder.output.weight
        known = decoder.attention.scores.weights() is not None
        if weight.device.type != "cpu" or not known or torch.is_autocast_enabled("cpu"):
            return None
        loops = library(weight.dtype)
        return None if loops is None else FastStep(decoder, loops)

    def ready(self, projected: ProjectedAnnotations) -> ReadyAnnotations:
        """Return projected annotations in the form that `__call__` reads."""
        keys = projected.keys.contiguous()
        if self._v is not None:
            keys = self._exponentials(keys)
        items = torch.arange(len(keys))
        values, mask = projected.values.contiguous(), projected.mask.contiguous()
        return ReadyAnnotations(values, keys, mask, items)

    def __call__(
        self,
        token: Tensor,
        state: DecoderState,
        ready: ReadyAnnotations,
        *,
        context: str = "expected",
        generator: torch.Generator | None = None,
    ) -> Step:
        """See `AttentionDecoder.step`."""
        decoder = self._decoder
        rows = len(token)
        item = ready.item.repeat_interleave(rows // len(ready.item))
        hidden = state.hidden.contiguous()
        query, gates, *gate = self._by_hidden(hidden).split(self._sizes, 1)
        attended, alpha, location = self._attend(query, item, ready, context, generator)
        beta = None
        if gate and self._gate_bias is not None:
            beta = torch.sigmoid(gate[0] + self._gate_bias)
            attended = beta * attended
        word, which = token.unique(return_inverse=True)
        embedded = decoder.embedding.weight[word]
        gates = gates + (self._by_word(embedded) + decoder.lstm_word.bias)[which]
        self._by_context.add_to(gates, attended)
        memory, after = torch.empty_like(hidden), torch.empty_like(hidden)
        before = state.memory.contiguous()
        self._loops.call("lstm", rows, hidden.shape[1], gates, before, memory, after)
        deep = embedded[which] + decoder.output_context.bias
        self._out_hidden.add_to(deep, after)
        self._out_context.add_to(deep, attended)
        if decoder.config.output_activation == "tanh":
            deep.tanh_()
        logprob = None
        if location is not None:
            logprob = alpha.gather(1, location[:, None])[:, 0].log()
        logits = self._logits(deep)
        ranking = Ranking(logits, self._output_bias, self._loops)
        state = DecoderState(after, memory)
        return Step(logits, state, alpha, beta, location, logprob, ranking)

    def _attend(
        self,
        query: Tensor,
        item: Tensor,
        ready: ReadyAnnotations,
        context: str,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the context (B, D), alpha (B, L) and the chosen cells (B,)."""
        query = query.contiguous() if self._query_bias is None else query + self._query_bias
        if self._v is not None:
            query = self._exponentials(query)
        (_, cells, features), size = ready.values.shape, ready.keys.shape[2]
        alpha = query.new_empty(len(query), cells)
        attended = query.new_empty(len(query), features)
        keys = ready.keys.contiguous()  # explanation swaps them for views
        self._loops.call(
            "attend", len(query), cells, size, features, item, keys, query, self._v, 0,
            ready.mask, self._scale, ready.values, alpha, attended,
        )  # fmt: skip
        if context == "expected" or not isinstance(self._decoder.attention, HardAttention):
            return attended, alpha, None
        if context == "sample":
            location = torch.multinomial(alpha, 1, generator=generator)[:, 0]
        elif context == "argmax":
            location = alpha.argmax(-1)
        else:
            raise UnknownName("context", context, _CONTEXTS)
        return ready.values[item, location], alpha, location

    def _logits(self, deep: Tensor) -> Tensor:
        """Return (B, V) logits less their bias; rows begin at multiples of 64 bytes."""
        words = len(self._output_bias)
        logits = deep.new_empty(len(deep), words + -words % ALIGNED)[:, :words]
        self._output.into(logits, deep)
        return logits

    def _exponentials(self, x: Tensor) -> Tensor:
        """Return exp(-2 x)."""
        out = torch.empty_like(x)
        self._loops.call("exponentials", x.numel(), x, out)
        return out

    def _product(self, weight: Tensor) -> Product:
        """Return the product with a layer's weight (outer, inner)."""
        return Product(weight.t(), self._loops, None)


def weights_seen(decoder: AttentionDecoder) -> tuple[tuple[int, int], ...]:
    """Return what changes whenever a weight does."""
    return tuple(
        (p.data_ptr(), 0 if p.is_inference() else p._version) for p in decoder.parameters()
    )
