"""Decoding: greedy, beam and sampled captions with their full traces, on any backend."""

from __future__ import annotations

from regard.backends import Backend
from regard.decoding.beam import decode_beam
from regard.decoding.filters import Ids
from regard.decoding.sampling import decode_greedy, decode_sample
from regard.decoding.search_options import DecodingOptions
from regard.types import Annotations, Hypothesis

__all__ = ["DecodingOptions", "decode"]

_METHODS = {"greedy": decode_greedy, "beam": decode_beam, "sample": decode_sample}


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
    """Decode captions of N items together; each comes out as it would alone.

    The exception are sampled locations (`context="sample"`), which the backend draws for the
    whole batch at once.

    Args:
        backend: runs the decoder's step.
        annotations: N items.
        options: how to search.
        start: id that is read first.
        end: id that ends a caption.
        forbidden: ids that are never said (padding, start, unknown).
        unlisted: ids that no word has as an alternative (padding, start).

    Returns:
        For each item its captions with their traces, best first, `options.n_best` of them, or
        all that there are where the options allow fewer.

    Raises:
        ConfigError: `prefix` or `banned` hold an id that is no word of the vocabulary.
    """
    ids = Ids(start, end, forbidden, unlisted)
    return _METHODS[options.method](backend, annotations, options, ids)
