"""Greedy decoding, and the walk along one path per caption that sampling shares with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from regard.backends import Backend
from regard.decoding.filters import Ids, keep_likely
from regard.decoding.search import Reading, Stepper
from regard.decoding.search_options import DecodingOptions
from regard.decoding.topk import log_softmax, to_numpy
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


_COLDEST = 1e-6
"""Below it quotients overflow, and the most likely word is drawn anyway."""


def decode_sample(
    backend: Backend, annotations: Annotations, options: DecodingOptions, ids: Ids
) -> list[tuple[Hypothesis, ...]]:
    """Sample `n_best` captions per item, best score first; a caption may come more than once.

    Words are drawn by numpy from the options' seed, so that every backend draws alike, and
    with the same random numbers for every item, so that an item's captions do not depend on
    the batch it came in. Scores and log-probabilities are the model's own, whatever
    temperature, top_k and top_p made of them for the draw.
    """
    generator = np.random.default_rng(options.seed)
    count = options.n_best

    stepper = Stepper(backend, annotations, options, ids, captions_per_item=count)

    def draw(reading: Reading) -> tuple[np.ndarray, np.ndarray]:
        allowed = to_numpy(stepper.allowed(reading.step)).astype(np.float64)
        logprobs = allowed - reading.normaliser[:, None]
        logits = logprobs / max(options.temperature, _COLDEST)
        # arg max(logits + Gumbel noise) is distributed as softmax(logits).
        noise = generator.gumbel(size=(count, logits.shape[-1]))
        noisy = keep_likely(logits, options).reshape(-1, *noise.shape) + noise
        token = noisy.argmax(-1).reshape(-1)
        return token, logprobs[np.arange(len(token)), token]

    found = follow(stepper, options, ids, draw, count)
    groups = [found[i : i + count] for i in range(0, len(found), count)]
    return [tuple(sorted(group, key=lambda h: -h.score)) for group in groups]


@dataclass(frozen=True)
class Forced:
    """The model's reading of one caption of T words for each of N items.

    Attributes:
        logprobs: (N, T) natural log-probability of each word given the words before it.
        alpha: (N, T, L) where it looked for each.
    """

    logprobs: np.ndarray
    alpha: np.ndarray


def force_captions(
    backend: Backend, annotations: Annotations, tokens: np.ndarray, *, start: int
) -> Forced:
    """Let the decoder read captions word by word, whatever it would have said itself.

    Contexts are expectations, also of hard attention: a sampled one would make two readings of
    the same picture differ.

    Args:
        backend: runs the decoder's step.
        annotations: N items.
        tokens: (N, T) or (T,), the same for all items; word ids without start.
        start: id that is read first.
    """
    items = annotations.mask.shape[0]
    words = np.tile(np.asarray(tokens, np.int64), (items // len(np.atleast_2d(tokens)), 1))
    projected, state = backend.init_state(annotations)
    logprobs = np.zeros(words.shape, np.float64)
    alpha = np.zeros((*words.shape, annotations.mask.shape[1]), np.float32)
    read = np.full(items, start, np.int64)
    for t in range(words.shape[1]):
        step = backend.step(backend.asarray(read), state, projected)
        said = to_numpy(log_softmax(step.logits))
        logprobs[:, t] = said[np.arange(items), words[:, t]]
        alpha[:, t] = to_numpy(step.alpha)
        read, state = words[:, t], step.state
    return Forced(logprobs, alpha)
