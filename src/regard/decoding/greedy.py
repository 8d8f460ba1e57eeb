"""Greedy decoding, and the walk along one path per caption that sampling shares with it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from regard.backends.base import Backend
from regard.decoding.filters import Ids
from regard.decoding.search_options import DecodingOptions
from regard.decoding.stepper import Reading, Stepper
from regard.types import Annotations, Hypothesis

Pick = Callable[[Reading], tuple[np.ndarray, np.ndarray]]
"""Chooses a word per row: ids (B,) and log-probabilities (B,), -inf where none may be said."""


def decode_greedy(
    backend: Backend, annotations: Annotations, options: DecodingOptions, ids: Ids
) -> list[tuple[Hypothesis, ...]]:
    """Say the most likely word at every step."""

    def most_likely(reading: Reading) -> tuple[np.ndarray, np.ndarray]:
        return reading.best.ids[:, 0], reading.best.logprobs[:, 0]

    stepper = Stepper(backend, annotations, options, ids, captions_per_item=1)
    return [(hypothesis,) for hypothesis in follow(stepper, options, ids, most_likely)]


def follow(
    stepper: Stepper, options: DecodingOptions, ids: Ids, pick: Pick, captions_per_item: int = 1
) -> list[Hypothesis]:
    """Say one word after another until every caption has ended.

    A caption is unfinished where it reaches `max_length` and its next word is not the end, or
    where no word may follow. Items whose captions have all ended leave the batch.

    Args:
        stepper: B captions.
        options: lengths and penalty.
        ids: the special ids.
        pick: chooses the words.
        captions_per_item: G, which leave together.

    Returns:
        One hypothesis per row.
    """
    count = stepper.rows
    token = np.full(count, ids.start, np.int64)
    total, length = np.zeros(count), np.zeros(count, np.int64)
    alive, finished = np.ones(count, bool), np.zeros(count, bool)
    caption = np.arange(count)  # that each row says
    place = np.zeros(count, np.int64)  # row in which each caption said its last word
    for t in range(options.max_length + 1):
        reading = stepper.read(token, 1)
        token, logprob = pick(reading)
        alive[caption] &= np.isfinite(logprob)
        ended = alive[caption] & (token == ids.end)
        said = alive[caption] & ~ended & (t < options.max_length)
        total[caption] += np.where(ended | said, logprob, 0.0)
        length[caption] += said
        alive[caption], finished[caption] = said, finished[caption] | ended
        if not said.any():
            stepper.move(reading, np.arange(len(token)), token, logprob)
            break
        rows, items = np.arange(len(token)), None
        done = ~said.reshape(-1, captions_per_item).any(-1)
        if stepper.leaves(done):
            items = np.flatnonzero(~done)
            rows = np.flatnonzero(~done.repeat(captions_per_item))
        token, logprob, caption = token[rows], logprob[rows], caption[rows]
        stepper.move(reading, rows, token, logprob, items)
        here = np.flatnonzero(said[rows])
        place[caption[here]] = here
    counted = np.maximum(1, length + finished)  # the end token is a token of the score
    score = total / counted**options.length_penalty
    read = stepper.record.hypothesis
    return [
        read(int(place[n]), int(length[n]), score=float(score[n]), finished=bool(finished[n]))
        for n in range(count)
    ]
