"""The decoder's step without gradients, in compiled loops on numpy arrays.

Its oracle is `AttentionDecoder.step`, or without torch the model's ONNX graph. It is faster since
weights are packed once, not in every product; attention never writes a (B, L, A) tanh, and reads an
item's cells once for all its captions; a word's share of the LSTM's gates is computed once for all
rows that read it; items that leave the batch cost no copy of those that stay; and the logits are
read once, and only as exactly as a search needs them (`regard.native.vocabulary_search`).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from regard.config import DecoderConfig
from regard.native.cpp_library import Library, PackedProduct, aligned_empty, element_strides
from regard.native.vocabulary_search import LazyRanking, VocabularyLayer
from regard.types import DecoderState, LocationChooser, ProjectedAnnotations, Step


@dataclass(frozen=True)
class PackedAnnotations(ProjectedAnnotations):
    """Annotations as the compiled loops read them.

    `values`, `keys` and `mask` are those of all items at the beginning of a search; keys of
    additive scores are exp(-2 keys) (`Library.exponentials`).

    Attributes:
        item: (N,) indices of the remaining items.
        coded: whether some keys are too large for their exponential.
    """

    item: np.ndarray = field(kw_only=True)
    coded: bool = field(kw_only=True)
    copies: ClassVar[bool] = False

    def select(self, index: np.ndarray) -> PackedAnnotations:
        """Return the items that `index` names, without copying the annotations."""
        return replace(self, item=self.item[np.asarray(index)])


@dataclass(frozen=True)
class StepWeights:
    """The weights of `AttentionDecoder.step`, in arrays of one type.

    Attributes:
        query: (A, H).
        query_bias: (A,).
        v: (A,) of additive scores; None for dot products.
        scale: factor of the scores, 1 / temperature included.
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
        tanh_output: whether the deep output goes through tanh.
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
    tanh_output: bool
    hard: bool

    @classmethod
    def from_named(cls, named: Mapping[str, np.ndarray], config: DecoderConfig) -> StepWeights:
        """Take the weights from a decoder's by name; its scores are in `dispatch.KNOWN_SCORES`.

        Raises:
            KeyError: a weight is missing.
            ValueError: shapes do not match; the loops would read out of bounds.
        """
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
            tanh_output=config.output_activation == "tanh",
            hard=config.attention == "hard",
        )
        made._check()
        return made

    def _check(self) -> None:
        (size, units), (words, embedded) = self.query.shape, self.output.shape
        features = self.out_context.shape[-1]
        expected = {
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
            expected["v"] = (size,)
        if self.gate is not None:
            expected["gate"] = (1 if len(self.gate) == 1 else features, units)
            expected["gate_bias"] = (len(self.gate),)
        for name, shape in expected.items():
            own = getattr(self, name).shape
            if own != shape:
                raise ValueError(f"{name} has the shape {own}; expected {shape}")


class CppStep:
    """Steps of one decoder whose weights do not change.

    Attributes:
        hard: whether attention can look at single cells.
    """

    def __init__(self, weights: StepWeights, library: Library, *, threads: int = 0) -> None:
        """Pack the weights.

        Args:
            weights: weights of the decoder.
            library: the compiled loops for their type.
            threads: number of threads of a call; 0: as many as OpenMP gives the calling thread.
        """
        self.hard = weights.hard
        self._library, self._threads = library, threads
        units = weights.query.shape[1]
        features = weights.recurrent.shape[1] - units
        of_hidden = [weights.query, weights.recurrent[:, features:]]
        if weights.gate is not None:
            of_hidden.append(weights.gate)
        self._features, self._size = features, len(weights.query)
        self._parts = np.cumsum([len(weight) for weight in of_hidden])[:2]
        with self._threads_held():
            self._by_hidden = self._product(np.concatenate(of_hidden))
            self._by_context = self._product(weights.recurrent[:, :features])
            self._by_word = self._product(weights.word)
            self._out_hidden = self._product(weights.out_hidden)
            self._out_context = self._product(weights.out_context)
            self._words = VocabularyLayer(weights.output, weights.output_bias, library)
        empty = np.empty(0, weights.output.dtype)  # packed weights are not kept twice
        self._weights = replace(
            weights, query=empty, gate=None, word=empty, recurrent=empty, out_hidden=empty,
            out_context=empty, output=empty, output_bias=empty,
        )  # fmt: skip

    def pack(
        self, values: np.ndarray, keys: np.ndarray, mask: np.ndarray, *, in_place: bool = False
    ) -> PackedAnnotations:
        """Return projected annotations as `__call__` reads them.

        Args:
            values: (N, L, D).
            keys: (N, L, A).
            mask: (N, L) bool.
            in_place: whether the keys may be overwritten; those of many pictures are tens of
                megabytes.

        Raises:
            ValueError: their sizes do not match the weights', or each other's.
        """
        sizes = *mask.shape, self._features, *mask.shape, self._size
        if (*values.shape, *keys.shape) != sizes:
            raise ValueError(f"values {values.shape}, keys {keys.shape}; expected {sizes}")
        values, keys, mask = (np.ascontiguousarray(x) for x in (values, keys, mask))
        coded = False
        if self._weights.v is not None:
            out = keys if in_place and keys.flags.writeable else np.empty_like(keys)
            with self._threads_held():
                coded = self._library.exponentials(keys, out)
            keys = out
        return PackedAnnotations(values, keys, mask, item=np.arange(len(keys)), coded=coded)

    def __call__(
        self,
        token: np.ndarray,
        state: DecoderState,
        projected: PackedAnnotations,
        choose: LocationChooser | None = None,
    ) -> Step:
        """See `AttentionDecoder.step`.

        Args:
            token: (B,) int64.
            state: B rows.
            projected: N items.
            choose: chooses the cells that hard attention looks at
                (`regard.types.location_chooser`); None: contexts are expectations.

        Raises:
            ValueError: the state is of another size.
        """
        with self._threads_held():
            return self._step(token, state, projected, choose)

    def _step(
        self,
        token: np.ndarray,
        state: DecoderState,
        projected: PackedAnnotations,
        choose: LocationChooser | None,
    ) -> Step:
        weights = self._weights
        hidden, before = (np.ascontiguousarray(x) for x in (state.hidden, state.memory))
        if not hidden.shape == before.shape == (len(token), self._by_hidden.inner):
            raise ValueError(f"states {hidden.shape} and {before.shape} of {len(token)} captions")
        query, gates, gate = np.split(self._by_hidden(hidden), self._parts, 1)
        attended, alpha, location = self._attend(query + weights.query_bias, projected, choose)
        beta = None
        if weights.gate_bias is not None:
            beta = np.empty(gate.shape, gate.dtype)
            self._library.call(
                "gate", rows=len(gate), size=gate.shape[1], features=self._features,
                stride=element_strides(gate)[0], x=gate, bias=weights.gate_bias, beta=beta,
                context=attended,
            )  # fmt: skip
        word, which = np.unique(token, return_inverse=True)
        embedded = weights.embedding[word]
        by_word = (self._by_word(embedded) + weights.word_bias)[which]
        gates = np.add(gates, by_word, out=aligned_empty(hidden, *by_word.shape))
        self._by_context.add_to(gates, attended)
        memory, after = np.empty_like(hidden), np.empty_like(hidden)
        self._library.call(
            "lstm", rows=len(hidden), units=hidden.shape[1], gates=gates, before=before,
            memory=memory, hidden=after,
        )  # fmt: skip
        deep = aligned_empty(hidden, len(token), embedded.shape[1])
        np.add(weights.embedding[token], weights.out_bias, out=deep)
        self._out_hidden.add_to(deep, after)
        self._out_context.add_to(deep, attended)
        if weights.tanh_output:
            np.tanh(deep, out=deep)
        ranking = LazyRanking(self._words, deep, self._threads_held)
        logprob = None
        if location is not None:
            logprob = np.log(alpha[np.arange(len(alpha)), location])
        state = DecoderState(after, memory)
        return Step(ranking.logits, state, alpha, beta, location, logprob, ranking)

    def _attend(
        self, query: np.ndarray, projected: PackedAnnotations, choose: LocationChooser | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return the context (B, D), alpha (B, L) and the chosen cells (B,)."""
        v, coded = self._weights.v, projected.coded
        if v is not None:
            coded = self._library.exponentials(query, query) or coded
        item = np.repeat(projected.item, len(query) // len(projected.item))
        (_, cells, features), size = projected.values.shape, projected.keys.shape[2]
        alpha = np.empty((len(query), cells), query.dtype)
        attended = np.empty((len(query), features), query.dtype)
        keys = np.ascontiguousarray(projected.keys)  # explanation swaps them for views
        self._library.call(
            "attend", rows=len(query), cells=cells, size=size, features=features, item=item,
            keys=keys, queries=query, v=v, coded=int(coded), reverse=0, mask=projected.mask,
            scale=self._weights.scale, values=projected.values, alpha=alpha, context=attended,
        )  # fmt: skip
        if choose is None:
            return attended, alpha, None
        location = choose(alpha)
        return projected.values[item, location], alpha, location

    @contextmanager
    def _threads_held(self) -> Generator[None]:
        """Hold the number of threads that the loops of this thread use."""
        self._library.call("threads", count=self._threads)
        try:
            yield
        finally:
            self._library.call("threads", count=0)

    def _product(self, weight: np.ndarray) -> PackedProduct:
        """Return the product with a layer's weight (outer, inner)."""
        return PackedProduct(weight.T, self._library)
