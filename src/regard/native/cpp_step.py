"""The decoder's step without gradients, on a CPU with compiled loops; numpy arrays only.

The same numbers as `AttentionDecoder.step`, which is its oracle and stands in wherever this
cannot run, as a model's graph does without torch. What it saves: weights are packed once, not in
every product; attention never writes a (B, L, A) tanh, and reads an item's cells once for all its
captions; a word's share of the LSTM's gates is computed once for all rows that read it; items that
leave the batch cost no copy of those that stay; the logits are read once, and only as exactly as
a search needs them (`regard.native.vocabulary_search`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from regard.config import DecoderConfig
from regard.native.cpp_library import Library
from regard.native.packed_product import Product, new, steps
from regard.native.vocabulary_search import WordLayer, WordRanking
from regard.types import DecoderState, ProjectedAnnotations, Step

Choose = Callable[[np.ndarray], np.ndarray]
"""Given alpha (B, L) returns the cells (B,) that hard attention looks at."""


@dataclass(frozen=True)
class ReadyAnnotations(ProjectedAnnotations):
    """Annotations in the form that the compiled loops read.

    `values`, `keys` and `mask` are of all items that a search began with; keys of additive
    scores are exp(-2 keys).

    Attributes:
        item: (N,) which of those the N items are that are left.
    """

    item: np.ndarray
    copies: ClassVar[bool] = False

    def select(self, index: np.ndarray) -> ReadyAnnotations:
        """Return the items that `index` names; nothing else is copied."""
        return replace(self, item=self.item[np.asarray(index)])


@dataclass(frozen=True)
class StepWeights:
    """What `AttentionDecoder.step` computes with; arrays of one type.

    Attributes:
        query: (A, H).
        query_bias: (A,).
        v: (A,) of additive scores; None for dot products.
        scale: what scores are multiplied with, 1 / temperature in it.
        gate: (1 or D, H), or None without a gate.
        gate_bias: (1 or D,), or None likewise.
        embedding: (V, E).
        word: (4H, E), the LSTM's for words, gates in the order i, f, o, g.
        word_bias: (4H,).
        recurrent: (4H, D + H), the LSTM's for [context; hidden].
        out_hidden: (E, H).
        out_context: (E, D).
        out_bias: (E,).
        output: (V, E).
        output_bias: (V,).
        bends: whether the deep output goes through tanh.
        hard: whether attention looks at single cells.
    """

    query: np.ndarray
    query_bias: np.ndarray
    v: np.ndarray | None
    scale: float
    gate: np.ndarray | None
    gate_bias: np.ndarray | None
    embedding: np.ndarray
    word: np.ndarray
    word_bias: np.ndarray
    recurrent: np.ndarray
    out_hidden: np.ndarray
    out_context: np.ndarray
    out_bias: np.ndarray
    output: np.ndarray
    output_bias: np.ndarray
    bends: bool
    hard: bool

    @classmethod
    def of(cls, named: Mapping[str, np.ndarray], config: DecoderConfig) -> StepWeights | None:
        """Take them from a decoder's weights by name; None: its scores are of another kind.

        Raises:
            KeyError: one is missing.
            ValueError: their shapes do not fit each other; loops would read beyond them.
        """
        if config.scores not in ("additive", "dot", "scaled_dot"):
            return None
        scores = "attention.scores."
        additive = config.scores == "additive"
        query = named[scores + "query.weight"]
        scale = 1 / np.sqrt(len(query)) if config.scores == "scaled_dot" else 1.0
        made = cls(
            query=query,
            query_bias=named[scores + ("key.bias" if additive else "query.bias")],
            v=named[scores + "v.weight"][0] if additive else None,
            scale=float(scale / config.temperature),
            gate=named.get("gate.linear.weight"),
            gate_bias=named.get("gate.linear.bias"),
            embedding=named["embedding.weight"],
            word=named["lstm_word.weight"],
            word_bias=named["lstm_word.bias"],
            recurrent=named["lstm_recurrent.weight"],
            out_hidden=named["output_hidden.weight"],
            out_context=named["output_context.weight"],
            out_bias=named["output_context.bias"],
            output=named["output.weight"],
            output_bias=named["output.bias"],
            bends=config.output_activation == "tanh",
            hard=config.attention == "hard",
        )
        made._check()
        return made

    def _check(self) -> None:
        (size, units), (words, embedded) = self.query.shape, self.output.shape
        features = self.out_context.shape[-1]
        wanted = {
            "query_bias": (size,),
            "embedding": (words, embedded),
            "word": (4 * units, embedded),
            "word_bias": (4 * units,),
            "recurrent": (4 * units, features + units),
            "out_hidden": (embedded, units),
            "out_context": (embedded, features),
            "out_bias": (embedded,),
            "output_bias": (words,),
        }
        if self.v is not None:
            wanted["v"] = (size,)
        if self.gate is not None:
            wanted["gate"] = (1 if len(self.gate) == 1 else features, units)
            wanted["gate_bias"] = (len(self.gate),)
        for name, shape in wanted.items():
            own = getattr(self, name).shape
            if own != shape:
                raise ValueError(f"{name} has the shape {own}; wanted {shape}")


class FastStep:
    """Steps of one decoder whose weights stay as they are.

    Attributes:
        hard: whether attention can look at single cells.
    """

    def __init__(self, weights: StepWeights, loops: Library, *, threads: int = 0) -> None:
        """Pack the weights.

        Args:
            weights: of the decoder.
            loops: compiled for their type.
            threads: that a call takes; 0: as many as OpenMP gives the calling thread.
        """
        self.hard = weights.hard
        self._loops, self._threads = loops, threads
        units = weights.query.shape[1]
        features = weights.recurrent.shape[1] - units
        of_hidden = [weights.query, weights.recurrent[:, features:]]
        if weights.gate is not None:
            of_hidden.append(weights.gate)
        self._features, self._size = features, len(weights.query)
        self._parts = np.cumsum([len(weight) for weight in of_hidden])[:2]
        with self._team():
            self._by_hidden = self._product(np.concatenate(of_hidden))
            self._by_context = self._product(weights.recurrent[:, :features])
            self._by_word = self._product(weights.word)
            self._out_hidden = self._product(weights.out_hidden)
            self._out_context = self._product(weights.out_context)
            self._words = WordLayer(weights.output, weights.output_bias, loops)
        nothing = np.empty(0, weights.output.dtype)  # what is packed need not be kept twice
        self._weights = replace(
            weights, query=nothing, gate=None, word=nothing, recurrent=nothing, out_hidden=nothing,
            out_context=nothing, output=nothing, output_bias=nothing,
        )  # fmt: skip

    def ready(
        self, values: np.ndarray, keys: np.ndarray, mask: np.ndarray, *, spend: bool = False
    ) -> ReadyAnnotations:
        """Return projected annotations in the form that `__call__` reads.

        Args:
            values: (N, L, D).
            keys: (N, L, A).
            mask: (N, L) bool.
            spend: whether nobody needs these keys any more: what is made of them may take their
                place, and of many pictures they are tens of megabytes.

        Raises:
            ValueError: they are of another size than the weights, or than each other.
        """
        sizes = *mask.shape, self._features, *mask.shape, self._size
        if (*values.shape, *keys.shape) != sizes:
            raise ValueError(f"values {values.shape}, keys {keys.shape}; wanted {sizes}")
        values, keys, mask = (np.ascontiguousarray(x) for x in (values, keys, mask))
        if self._weights.v is not None:
            with self._team():
                spend = spend and keys.flags.writeable
                keys = self._exponentials(keys, keys if spend else np.empty_like(keys))
        return ReadyAnnotations(values, keys, mask, np.arange(len(keys)))

    def __call__(
        self,
        token: np.ndarray,
        state: DecoderState,
        ready: ReadyAnnotations,
        choose: Choose | None = None,
    ) -> Step:
        """See `AttentionDecoder.step`.

        Args:
            token: (B,) int64.
            state: B rows.
            ready: N items.
            choose: chooses the cells that hard attention looks at; None: contexts are expected.

        Raises:
            ValueError: the state is of another size.
        """
        with self._team():
            return self._step(token, state, ready, choose)

    def _step(
        self,
        token: np.ndarray,
        state: DecoderState,
        ready: ReadyAnnotations,
        choose: Choose | None,
    ) -> Step:
        weights = self._weights
        hidden, before = (np.ascontiguousarray(x) for x in (state.hidden, state.memory))
        if not hidden.shape == before.shape == (len(token), self._by_hidden.inner):
            raise ValueError(f"states {hidden.shape} and {before.shape} of {len(token)} captions")
        query, gates, gate = np.split(self._by_hidden(hidden), self._parts, 1)
        attended, alpha, location = self._attend(query + weights.query_bias, ready, choose)
        beta = None
        if weights.gate_bias is not None:
            beta = np.empty(gate.shape, gate.dtype)
            sizes = *gate.shape, attended.shape[1], steps(gate)[0]
            self._loops.call("gate", *sizes, gate, weights.gate_bias, beta, attended)
        word, which = np.unique(token, return_inverse=True)
        embedded = weights.embedding[word]
        by_word = (self._by_word(embedded) + weights.word_bias)[which]
        gates = np.add(gates, by_word, out=new(hidden, *by_word.shape))
        self._by_context.add_to(gates, attended)
        memory, after = np.empty_like(hidden), np.empty_like(hidden)
        self._loops.call("lstm", *hidden.shape, gates, before, memory, after)
        deep = new(hidden, len(token), embedded.shape[1])
        np.add(weights.embedding[token], weights.out_bias, out=deep)
        self._out_hidden.add_to(deep, after)
        self._out_context.add_to(deep, attended)
        if weights.bends:
            np.tanh(deep, out=deep)
        ranking = WordRanking(self._words, deep, self._team)
        logprob = None
        if location is not None:
            logprob = np.log(alpha[np.arange(len(alpha)), location])
        state = DecoderState(after, memory)
        return Step(ranking.logits, state, alpha, beta, location, logprob, ranking)

    def _attend(
        self, query: np.ndarray, ready: ReadyAnnotations, choose: Choose | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return the context (B, D), alpha (B, L) and the chosen cells (B,)."""
        v = self._weights.v
        if v is not None:
            self._exponentials(query, query)
        item = np.repeat(ready.item, len(query) // len(ready.item))
        (_, cells, features), size = ready.values.shape, ready.keys.shape[2]
        alpha = np.empty((len(query), cells), query.dtype)
        attended = np.empty((len(query), features), query.dtype)
        keys = np.ascontiguousarray(ready.keys)  # explanation swaps them for views
        self._loops.call(
            "attend", len(query), cells, size, features, item, keys, query, v, 0,
            ready.mask, self._weights.scale, ready.values, alpha, attended,
        )  # fmt: skip
        if choose is None:
            return attended, alpha, None
        location = choose(alpha)
        return ready.values[item, location], alpha, location

    @contextmanager
    def _team(self) -> Generator[None]:
        """Hold the number of threads that this thread's loops take."""
        self._loops.call("threads", self._threads)
        try:
            yield
        finally:
            self._loops.call("threads", 0)

    def _exponentials(self, x: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Return exp(-2 x), written to `out`."""
        self._loops.call("exponentials", x.size, x, out)
        return out

    def _product(self, weight: np.ndarray) -> Product:
        """Return the product with a layer's weight (outer, inner)."""
        return Product(weight.T, self._loops)
