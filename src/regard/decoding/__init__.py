"""Decoding: greedy, beam and sampled captions with their full traces, on any backend."""

from __future__ import annotations

from regard.backends import Backend
from regard.decoding.beam import decode_beam
from regard.decoding.search_options import DecodingOptions
from regard.decoding.topk import Ids
from regard.types import Annotations, Hypothesis

__all__ = ["DecodingOptions", "decode"]


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
    if options.method == "beam":  # by far the most frequent; it needs no other module
        return decode_beam(backend, annotations, options, ids)
    from regard.decoding.sampling import decode_greedy, decode_sample

    method = decode_greedy if options.method == "greedy" else decode_sample
    return method(backend, annotations, options, ids)
