"""Sampling: captions drawn from the model's own distribution."""

from __future__ import annotations

import numpy as np

from regard.backends.base import Backend
from regard.decoding.filters import Ids, keep_likely
from regard.decoding.greedy import follow
from regard.decoding.search_options import DecodingOptions
from regard.decoding.stepper import Reading, Stepper
from regard.decoding.topk import to_numpy
from regard.types import Annotations, Hypothesis

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
