"""What all searches share: the backend's state, the filter and the record, moved together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regard.backends.base import Backend
from regard.decoding.candidates import Candidates, log_softmax, strongest
from regard.decoding.filters import Filter, Ids
from regard.decoding.options import DecodingOptions
from regard.decoding.trace import Record
from regard.types import Annotations, Array, Step


@dataclass(frozen=True)
class Reading:
    """What the decoder said after a word.

    Attributes:
        step: the decoder's step.
        allowed: (B, V) the model's log-probabilities, -inf for what may not be said.
        alternatives: the model's strongest words, the end among them, whether or not they
            may be said; None where none are kept.
    """

    step: Step
    allowed: Array
    alternatives: Candidates | None


class Stepper:
    """Reads words, moves the state along, and records what happened."""

    def __init__(
        self,
        backend: Backend,
        annotations: Annotations,
        options: DecodingOptions,
        ids: Ids,
        captions_per_item: int,
    ) -> None:
        """Start B = N·captions_per_item captions, those of an item in consecutive rows."""
        self._backend, self._options, self._ids = backend, options, ids
        self._projected, self._state = backend.init_state(annotations, captions_per_item)
        self._generator = backend.generator(options.seed)
        self._filter: Filter | None = None  # made when the first step shows the vocabulary's size
        self.rows = self._state.hidden.shape[0]
        self.record = Record()

    def read(self, token: np.ndarray) -> Reading:
        """Read the words (B,) that were said last."""
        step = self._backend.step(
            self._backend.asarray(token),
            self._state,
            self._projected,
            context=self._options.context,
            generator=self._generator,
        )
        if self._filter is None:
            words = step.logits.shape[-1]
            self._filter = Filter(self._backend, self._options, self._ids, words)
        histories = None
        if self._options.block_ngram:
            histories = [self.record.words(row) for row in range(self.rows)]
        logprobs = log_softmax(step.logits)
        kept = self._options.alternatives
        return Reading(
            step,
            self._filter.apply(logprobs, len(self.record), histories),
            strongest(self._filter.listed(logprobs), kept) if kept else None,
        )

    def keep(self, reading: Reading, token: np.ndarray, logprob: np.ndarray) -> None:
        """Let every row say its word (B,) of that log-probability (B,)."""
        self.record.add(reading.step, reading.alternatives, np.arange(self.rows), token, logprob)
        self._state = reading.step.state

    def reorder(
        self, reading: Reading, parent: np.ndarray, token: np.ndarray, logprob: np.ndarray
    ) -> None:
        """Let every row continue the row `parent` (B,) with a word, as `keep` does."""
        self.record.add(reading.step, reading.alternatives, parent, token, logprob)
        self._state = reading.step.state.select(self._backend.asarray(parent))
