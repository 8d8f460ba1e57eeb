"""Decoding: greedy, beam and sampled captions with their full traces, on any backend."""

import math
from dataclasses import dataclass

from regard.backends import Backend
from regard.config.training import MOST_BEAM, MOST_PENALTY
from regard.decoding.beam import decode_beam
from regard.decoding.topk import Ids
from regard.errors import ConfigError
from regard.types import CONTEXTS, Annotations, Hypothesis

METHODS = ("greedy", "beam", "sample")
"""Ways to search for words."""
_MOST = {"beam": MOST_BEAM, "n_best": 10_000, "length_penalty": MOST_PENALTY}


@dataclass(frozen=True)
class DecodingOptions:
    """Options of greedy, beam and sampled decoding. Options that clash raise `ConfigError`.

    Attributes:
        method: "greedy", "beam" or "sample".
        beam: beam width, at most 100.
        max_length: longest caption in tokens, without the end token. A captioner whose tokens
            are not words uses its recipe's `data.max_length` by default.
        min_length: smallest number of tokens before the end token.
        length_penalty: a caption's score is sum(log p) / length ** length_penalty, with the end
            token counted; 0 compares plain sums, as the paper does; at most 10.
        block_ngram: size of n-grams that must not occur twice; 0 allows all.
        name_once: whether a concept of the pointer's bank occurs at most once in a caption, in one
            of its forms; without a pointer it has no effect.
        temperature: divides the logits before sampling.
        top_k: sample from the k most likely words; 0: from all.
        top_p: sample from the smallest set of most likely words whose probability reaches p.
        n_best: captions returned per item, best first; at most 10,000.
        alternatives: strongest candidates kept per word.
        prefix: ids that the caption starts with.
        banned: ids that never occur in the caption.
        context: how hard attention forms the context: "expected", "sample" or "argmax".
        seed: seed of sampled words and locations.
    """

    method: str = "beam"
    beam: int = 3
    max_length: int = 20
    min_length: int = 0
    length_penalty: float = 0.0
    block_ngram: int = 0
    name_once: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    n_best: int = 1
    alternatives: int = 5
    prefix: tuple[int, ...] = ()
    banned: tuple[int, ...] = ()
    context: str = "expected"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"method is {self.method!r}; it must be one of {METHODS}.")
        if self.context not in CONTEXTS:
            raise ConfigError(f"context is {self.context!r}; it must be one of {CONTEXTS}.")
        for name in ("beam", "max_length", "n_best"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        for name in (
            "min_length", "length_penalty", "block_ngram", "top_k", "alternatives", "seed"
        ):  # fmt: skip
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more.")
        for name, most in _MOST.items():
            if getattr(self, name) > most:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; it must be {most:g} or less. Time and "
                    "memory grow with it, and captions no longer change."
                )
        if not 0 < self.temperature < math.inf or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"temperature is {self.temperature} and top_p {self.top_p}; temperature must be "
                "above 0 and top_p in (0, 1]."
            )
        self._check_clashes()

    def _check_clashes(self) -> None:
        if self.method != "sample" and (self.temperature != 1 or self.top_k or self.top_p != 1):
            raise ConfigError(
                f"method={self.method!r} does not sample words, so temperature, top_k and top_p "
                "would have no effect. Leave them out, or use method='sample'."
            )
        if self.method == "beam" and self.n_best > self.beam:
            raise ConfigError(
                f"n_best={self.n_best} captions cannot come from beam={self.beam}. Widen the beam."
            )
        if self.method == "greedy" and self.n_best > 1:
            raise ConfigError(
                f"n_best={self.n_best} and method='greedy': greedy decoding finds one caption. "
                "Use method='beam' or 'sample'."
            )
        if self.min_length > self.max_length:
            raise ConfigError(
                f"min_length={self.min_length} is above max_length={self.max_length}."
            )
        if set(self.prefix) & set(self.banned):
            raise ConfigError(
                f"prefix={self.prefix} and banned={self.banned} share a word, which cannot be both "
                "required and banned. Remove it from one of them."
            )
        if len(self.prefix) > self.max_length:
            raise ConfigError(
                f"the prefix has {len(self.prefix)} tokens and max_length is {self.max_length}."
            )


def decode(
    backend: Backend,
    annotations: Annotations,
    options: DecodingOptions,
    *,
    start: int,
    end: int,
    forbidden: tuple[int, ...] = (),
    unlisted: tuple[int, ...] = (),
) -> list[tuple[Hypothesis, ...]]:
    """Return the captions of N items, decoded together; each is the same as decoded alone.

    The exception is sampled locations (`context="sample"`), which the backend draws for the
    whole batch at once.

    Args:
        backend: runs the decoder's step.
        annotations: N items.
        options: how to search.
        start: id that the decoder reads first.
        end: id that ends a caption.
        forbidden: ids that never occur in a caption (padding, start, unknown).
        unlisted: ids that are never listed as an alternative (padding, start).

    Returns:
        For each item its captions with their traces, best first: `options.n_best` of them, or
        fewer where the options do not allow as many.

    Raises:
        ConfigError: `prefix` or `banned` holds an id that is not a word of the vocabulary.
    """
    ids = Ids(start, end, forbidden, unlisted)
    if options.method == "beam":
        return decode_beam(backend, annotations, options, ids)
    from regard.decoding.sampling import decode_greedy, decode_sample

    search = decode_greedy if options.method == "greedy" else decode_sample
    return search(backend, annotations, options, ids)


__all__ = ["CONTEXTS", "METHODS", "MOST_PENALTY", "DecodingOptions", "decode"]
