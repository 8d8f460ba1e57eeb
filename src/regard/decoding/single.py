"""Greedy decoding and sampling: one path per caption."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from regard.backends.base import Backend
from regard.decoding.options import DecodingOptions
from regard.decoding.trace import Candidates, Chooser, Ids, Record, strongest, to_numpy
from regard.types import Annotations, Array, Hypothesis

Pick = Callable[[Array, Candidates], np.ndarray]
"""Chooses a word per row, (B,), from log-probabilities (B, V) and the strongest of them."""


def decode_greedy(
    backend: Backend, annotations: Annotations, options: DecodingOptions, ids: Ids
) -> list[tuple[Hypothesis, ...]]:
    """Say the most likely word at every step."""
    found = _follow(backend, annotations, options, ids, 1, lambda _, best: best.ids[:, 0])
    return [(hypothesis,) for hypothesis in found]


def decode_sample(
    backend: Backend, annotations: Annotations, options: DecodingOptions, ids: Ids
) -> list[tuple[Hypothesis, ...]]:
    """Sample `n_best` captions per item, best score first.

    Words are drawn by numpy from the options' seed, so every backend draws alike.
    """
    generator = np.random.default_rng(options.seed)

    def draw(logprobs: Array, _: Candidates) -> np.ndarray:
        kept = keep_likely(to_numpy(logprobs).astype(np.float64) / options.temperature, options)
        # The Gumbel-max trick draws from every row's distribution at once.
        return (kept + generator.gumbel(size=kept.shape)).argmax(-1)

    found = _follow(backend, annotations, options, ids, options.n_best, draw)
    groups = [found[i : i + options.n_best] for i in range(0, len(found), options.n_best)]
    return [tuple(sorted(group, key=lambda h: -h.score)) for group in groups]


def keep_likely(logits: np.ndarray, options: DecodingOptions) -> np.ndarray:
    """Set to -inf what top_k and top_p leave out, (B, V); the most likely word always stays."""
    logits = logits.copy()
    if 0 < options.top_k < logits.shape[-1]:
        kth = np.partition(logits, -options.top_k, axis=-1)[:, -options.top_k]
        logits[logits < kth[:, None]] = -np.inf
    if options.top_p < 1:
        order = np.argsort(-logits, axis=-1)
        ordered = np.take_along_axis(logits, order, -1)
        p = np.exp(ordered - ordered.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        before = np.cumsum(p, -1) - p  # probability of all words more likely than this one
        ordered[before >= options.top_p] = -np.inf
        np.put_along_axis(logits, order, ordered, -1)
    return logits


def _follow(
    backend: Backend,
    annotations: Annotations,
    options: DecodingOptions,
    ids: Ids,
    captions_per_item: int,
    pick: Pick,
) -> list[Hypothesis]:
    projected, state = backend.init_state(annotations, captions_per_item)
    generator = backend.generator(options.seed)
    rows = state.hidden.shape[0]
    same = np.arange(rows)
    token = np.full(rows, ids.start, np.int64)
    total, length = np.zeros(rows), np.zeros(rows, int)
    alive, finished = np.ones(rows, bool), np.zeros(rows, bool)
    record, chooser = Record(), None
    for t in range(options.max_length + 1):
        step = backend.step(
            backend.asarray(token), state, projected, context=options.context, generator=generator
        )
        chooser = chooser or Chooser(backend, options, ids, step.logits.shape[-1])
        histories = [record.tokens(row) for row in same] if options.block_ngram else None
        logprobs = chooser.logprobs(step.logits, t, histories)
        best = strongest(logprobs, max(1, options.alternatives))
        token = pick(logprobs, best)
        chosen = to_numpy(logprobs)[same, token].astype(np.float64)
        ended = alive & (token == ids.end)
        # At the last step only the end token counts: a caption without it stays unfinished.
        said = alive & ~ended & (t < options.max_length)
        total[ended | said] += chosen[ended | said]
        length[said] += 1
        record.add(step, best, same, token, chosen)
        alive, finished, state = said, finished | ended, step.state
        if not alive.any():
            break
    return [
        record.hypothesis(
            int(row),
            int(length[row]),
            score=total[row] / max(1, length[row] + finished[row]) ** options.length_penalty,
            finished=bool(finished[row]),
            alternatives=options.alternatives,
        )
        for row in same
    ]
