"""Greedy decoding, and the walk along one path per caption that sampling shares with it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from regard.backends.base import Backend
from regard.decoding.candidates import strongest, to_numpy
from regard.decoding.filters import Ids
from regard.decoding.options import DecodingOptions
from regard.decoding.stepper import Stepper
from regard.types import Annotations, Array, Hypothesis

Pick = Callable[[Array], np.ndarray]
"""Chooses a word per row, (B,), from log-probabilities (B, V), -inf for what may not be said."""


def decode_greedy(
    backend: Backend, annotations: Annotations, options: DecodingOptions, ids: Ids
) -> list[tuple[Hypothesis, ...]]:
    """Say the most likely word at every step."""

    def most_likely(logprobs: Array) -> np.ndarray:
        # Not arg-max: torch leaves open which of two equals it finds, and a beam of one says
        # the smaller id.
        return strongest(logprobs, 1).ids[:, 0]

    stepper = Stepper(backend, annotations, options, ids, captions_per_item=1)
    return [(hypothesis,) for hypothesis in follow(stepper, options, ids, most_likely)]


def follow(stepper: Stepper, options: DecodingOptions, ids: Ids, pick: Pick) -> list[Hypothesis]:
    """Say one word after another until every caption has ended.

    A caption is unfinished where it reaches `max_length` and its next word is not the end, or
    where no word may follow.

    Args:
        stepper: B captions.
        options: lengths and penalty.
        ids: the special ids.
        pick: chooses the words.

    Returns:
        One hypothesis per row.
    """
    rows = np.arange(stepper.rows)
    token = np.full(stepper.rows, ids.start, np.int64)
    total, length = np.zeros(stepper.rows), np.zeros(stepper.rows, np.int64)
    alive, finished = np.ones(stepper.rows, bool), np.zeros(stepper.rows, bool)
    for t in range(options.max_length + 1):
        reading = stepper.read(token)
        token = pick(reading.allowed)
        logprob = to_numpy(reading.allowed)[rows, token].astype(np.float64)
        alive &= np.isfinite(logprob)
        ended = alive & (token == ids.end)
        said = alive & ~ended & (t < options.max_length)
        total[ended | said] += logprob[ended | said]
        length += said
        alive, finished = said, finished | ended
        stepper.keep(reading, token, logprob)
        if not alive.any():
            break
    counted = np.maximum(1, length + finished)  # the end token is a token of the score
    score = total / counted**options.length_penalty
    return [
        stepper.record.hypothesis(
            row, int(length[row]), score=float(score[row]), finished=bool(finished[row])
        )
        for row in range(stepper.rows)
    ]
