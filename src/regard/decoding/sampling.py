"""Greedy, sampled and forced decoding: one path per caption, without a beam."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from regard.backends import Backend
from regard.decoding.search import Prediction, Stepper
from regard.decoding.topk import Ids, keep_likely, log_softmax, to_numpy
from regard.types import Annotations, Hypothesis
from regard.util.parallel import check_stopped

if TYPE_CHECKING:
    from regard.decoding import DecodingOptions


Pick = Callable[[Prediction], tuple[np.ndarray, np.ndarray]]
"""Chooses a word per row: ids (B,) and log-probabilities (B,), -inf where none is allowed."""

_COLDEST = 1e-6
"""Lowest temperature; below it quotients overflow, and the most likely word is drawn anyway."""


def decode_greedy(
    backend: Backend, annotations: Annotations, options: DecodingOptions, ids: Ids
) -> list[tuple[Hypothesis, ...]]:
    """Take the most likely word at every step."""

    def most_likely(prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
        return prediction.best.ids[:, 0], prediction.best.logprobs[:, 0]

    stepper = Stepper(backend, annotations, options, ids, captions_per_item=1)
    return [(hypothesis,) for hypothesis in decode_paths(stepper, options, ids, most_likely)]


def decode_paths(
    stepper: Stepper, options: DecodingOptions, ids: Ids, pick: Pick, captions_per_item: int = 1
) -> list[Hypothesis]:
    """Add one word after another until every caption has ended.

    A caption is unfinished where it reaches `max_length` and its next word is not the end token,
    or where no word may follow. Items whose captions have all ended leave the batch.

    Args:
        stepper: B captions.
        options: lengths and penalty.
        ids: the special ids.
        pick: chooses the words.
        captions_per_item: G; they leave the batch together.

    Returns:
        One hypothesis per row.
    """
    count = stepper.rows
    token = np.full(count, ids.start, np.int64)
    total, length = np.zeros(count), np.zeros(count, np.int64)
    alive, finished = np.ones(count, bool), np.zeros(count, bool)
    caption = np.arange(count)  # index of the caption in each row
    place = np.zeros(count, np.int64)  # row in which each caption got its last word
    for t in range(options.max_length + 1):
        prediction = stepper.predict(token, 1)
        token, logprob = pick(prediction)
        alive[caption] &= np.isfinite(logprob)
        ended = alive[caption] & (token == ids.end)
        goes_on = alive[caption] & ~ended & (t < options.max_length)
        total[caption] += np.where(ended | goes_on, logprob, 0.0)
        length[caption] += goes_on
        alive[caption], finished[caption] = goes_on, finished[caption] | ended
        if not goes_on.any():
            stepper.advance(prediction, np.arange(len(token)), token, logprob)
            break
        rows, items = np.arange(len(token)), None
        done = ~goes_on.reshape(-1, captions_per_item).any(-1)
        if stepper.should_leave(done):
            items = np.flatnonzero(~done)
            rows = np.flatnonzero(~done.repeat(captions_per_item))
        token, logprob, caption = token[rows], logprob[rows], caption[rows]
        stepper.advance(prediction, rows, token, logprob, items)
        here = np.flatnonzero(goes_on[rows])
        place[caption[here]] = here
    counted = np.maximum(1, length + finished)  # the score counts the end token
    score = total / counted**options.length_penalty
    read = stepper.record.hypothesis
    return [
        read(
            int(place[n]),
            int(length[n]),
            item=n // captions_per_item,
            score=float(score[n]),
            finished=bool(finished[n]),
        )
        for n in range(count)
    ]


def decode_sample(
    backend: Backend, annotations: Annotations, options: DecodingOptions, ids: Ids
) -> list[tuple[Hypothesis, ...]]:
    """Sample `n_best` captions per item, best score first; a caption may come more than once.

    Numpy draws the words from the options' seed, so that every backend draws the same, and with the
    same random numbers for every item, so that an item's captions do not depend on its batch.
    Scores and log-probabilities are the model's own, before temperature, top_k and top_p.
    """
    generator = np.random.default_rng(options.seed)
    count = options.n_best
    stepper = Stepper(backend, annotations, options, ids, captions_per_item=count)

    def draw(prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
        allowed = to_numpy(stepper.allowed(prediction.step)).astype(np.float64)
        logprobs = allowed - prediction.normaliser[:, None]
        logits = logprobs / max(options.temperature, _COLDEST)
        # arg max(logits + Gumbel noise) is distributed as softmax(logits).
        noise = generator.gumbel(size=(count, logits.shape[-1]))
        noisy = keep_likely(logits, options).reshape(-1, *noise.shape) + noise
        token = noisy.argmax(-1).reshape(-1)
        return token, logprobs[np.arange(len(token)), token]

    found = decode_paths(stepper, options, ids, draw, count)
    groups = [found[i : i + count] for i in range(0, len(found), count)]
    return [tuple(sorted(group, key=lambda h: -h.score)) for group in groups]


@dataclass(frozen=True)
class ForcedCaptions:
    """Log-probabilities and attention of one given caption of T words for each of N items.

    Attributes:
        logprobs: (N, T) natural log-probability of each word given the words before it.
        alpha: (N, T, L) attention at each word.
    """

    logprobs: np.ndarray
    alpha: np.ndarray


def force_captions(
    backend: Backend, annotations: Annotations, tokens: np.ndarray, *, start: int
) -> ForcedCaptions:
    """Run the decoder over given captions word by word (forced decoding).

    Contexts are expectations, also for hard attention: with sampled ones two runs over the same
    picture would differ.

    Args:
        backend: runs the decoder's step.
        annotations: N items.
        tokens: (N, T) or (T,), the same for all items; word ids without start.
        start: id that the decoder reads first.
    """
    items = annotations.mask.shape[0]
    words = np.tile(np.asarray(tokens, np.int64), (items // len(np.atleast_2d(tokens)), 1))
    projected, state = backend.init_state(annotations)
    logprobs = np.zeros(words.shape, np.float64)
    alpha = np.zeros((*words.shape, annotations.mask.shape[1]), np.float32)
    token = np.full(items, start, np.int64)
    for t in range(words.shape[1]):
        check_stopped()
        step = backend.step(backend.asarray(token), state, projected)
        predicted = to_numpy(log_softmax(step.logits))
        logprobs[:, t] = predicted[np.arange(items), words[:, t]]
        alpha[:, t] = to_numpy(step.alpha)
        token, state = words[:, t], step.state
    return ForcedCaptions(logprobs, alpha)
