"""Teacher forcing: what the model would have said at each step of a caption that is given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regard.backends.base import Backend
from regard.decoding.topk import log_softmax, to_numpy
from regard.types import Annotations


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
