"""Rows of a search: the decoder's steps, and the record that captions are traced back from.

Every step is recorded once for all rows, with the row that each row continues; a caption is
read backwards at the end. So beams never copy their histories.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from regard.backends import Backend
from regard.decoding.topk import Candidates, Filter, Ids, to_numpy
from regard.types import Annotations, Array, Hypothesis, ProjectedAnnotations, Step
from regard.util.parallel import check_stopped

if TYPE_CHECKING:
    from regard.decoding import DecodingOptions


_WORTH_A_COPY = 0.2
"""Share of finished items from which on the others are copied into a smaller batch."""


@dataclass(frozen=True)
class Prediction:
    """The decoder's step after a word, and the strongest words that may follow.

    Attributes:
        step: the decoder's step.
        normaliser: (B,) log sum exp of the step's logits.
        best: (B, M) the strongest allowed words.
        alternatives: the model's strongest words, allowed or not, the end token among them;
            None where none are kept.
    """

    step: Step
    normaliser: np.ndarray
    best: Candidates
    alternatives: Candidates | None


@dataclass(frozen=True)
class _StepRecord:
    """One step: the first three per row after the choice, the others per row before it."""

    parent: np.ndarray
    token: np.ndarray
    logprob: np.ndarray
    alternatives: Candidates | None
    alpha: np.ndarray
    beta: np.ndarray | None
    location: np.ndarray | None
    copy: np.ndarray | None
    copied: np.ndarray | None
    """Of the chosen word, per row after the choice."""


class SearchRecord:
    """The record of every step, for all rows."""

    def __init__(self, projected: ProjectedAnnotations) -> None:
        """Begin the record of a search over N items."""
        self._projected = projected
        self._steps: list[_StepRecord] = []

    def __len__(self) -> int:
        """Return the number of steps, which is the number of words in a row."""
        return len(self._steps)

    def add(
        self, prediction: Prediction, parent: np.ndarray, token: np.ndarray, logprob: np.ndarray
    ) -> None:
        """Add one step.

        Args:
            prediction: one row per row before the choice.
            parent: (B,) the row that each new row continues.
            token: (B,) the word that it adds.
            logprob: (B,) that word's log-probability.
        """
        step = prediction.step
        beta = None if step.beta is None else to_numpy(step.beta).mean(-1)
        location = None if step.location is None else to_numpy(step.location)
        alpha = to_numpy(step.alpha)
        copy = copied = None
        if step.copied is not None:
            copy = to_numpy(step.copied.sum(-1))
            named = to_numpy(step.copied[parent, token]).astype(np.float64)
            # A row without an allowed word has -inf, and its word may have underflowed to 0.
            copied = np.where(named > 0, np.minimum(named / np.exp(np.fmax(logprob, -80)), 1), 0.0)
        self._steps.append(
            _StepRecord(
                parent, token, logprob, prediction.alternatives, alpha, beta, location, copy, copied
            )
        )

    def hypothesis(
        self, row: int, length: int, *, item: int, score: float, finished: bool
    ) -> Hypothesis:
        """Return the caption of the first `length` words that ends in `row`.

        Args:
            row: index of a row after step `length`.
            length: T.
            item: index of the item among the N of the search.
            score: score of the hypothesis.
            finished: whether the hypothesis is finished.
        """
        path, first = self._path(row, length), self._steps[0]
        tokens = tuple(int(s.token[after]) for s, after, _ in path)
        alpha = np.array([s.alpha[b] for s, _, b in path], np.float32)
        alpha = alpha.reshape(-1, first.alpha.shape[1])
        location = self._per_word([(s.location, b) for s, _, b in path], first.location)
        return Hypothesis(
            tokens=tokens,
            logprobs=np.array([s.logprob[after] for s, after, _ in path], np.float64),
            score=score,
            finished=finished,
            alpha=alpha,
            beta=self._per_word([(s.beta, b) for s, _, b in path], first.beta),
            location=location,
            alternatives=tuple(_pairs(s.alternatives, before) for s, _, before in path),
            copy=self._per_word([(s.copy, b) for s, _, b in path], first.copy),
            copied=self._per_word([(s.copied, after) for s, after, _ in path], first.copied),
            cell=self._naming_cells(tokens, alpha, location, item),
        )

    def _naming_cells(
        self, tokens: tuple[int, ...], alpha: np.ndarray, location: np.ndarray | None, item: int
    ) -> np.ndarray | None:
        """Return arg max_i alpha_ti p(w_t | a_i), (T,), -1 where no concept is called w_t."""
        naming, forms = self._projected.naming, self._projected.forms
        if naming is None or forms is None:
            return None
        called = (to_numpy(forms)[None] == np.array(tokens, np.int64).reshape(-1, 1, 1)).any(-1)
        weight = alpha * (called.astype(np.float32) @ to_numpy(naming[item]).T)  # (T, L)
        cell = weight.argmax(-1) if location is None else location
        return np.where(called.any(-1), cell, -1)

    def _path(self, row: int, length: int) -> list[tuple[_StepRecord, int, int]]:
        """Return each step of a caption with its row after the choice and before it."""
        path: list[tuple[_StepRecord, int, int]] = []
        for step in reversed(self._steps[:length]):
            before = int(step.parent[row])
            path.append((step, row, before))
            row = before
        return path[::-1]

    @staticmethod
    def _per_word(
        values: list[tuple[np.ndarray | None, int]], first: np.ndarray | None
    ) -> np.ndarray | None:
        """Return (T,) values, also for an empty caption; None if no step has the value."""
        if first is None:
            return None
        return np.array([array[row] for array, row in values if array is not None], first.dtype)


def _pairs(candidates: Candidates | None, row: int) -> tuple[tuple[int, float], ...]:
    if candidates is None:
        return ()
    pairs = zip(candidates.ids[row].tolist(), candidates.logprobs[row].tolist(), strict=True)
    # A small vocabulary may have fewer words than the number of alternatives.
    return tuple((word, logprob) for word, logprob in pairs if logprob > -math.inf)


class Stepper:
    """Runs the decoder's step for all rows, chooses candidates and records every step.

    Rows n·G to (n + 1)·G - 1 are the captions of the n-th item that is still in the batch.
    """

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
        self._filter: Filter | None = None  # created once the first step shows the vocabulary size
        self.rows = self._state.hidden.shape[0]
        self.record = SearchRecord(self._projected)
        forms = self._projected.forms
        self._forms = None if forms is None or not options.name_once else to_numpy(forms)
        # The words of each row; None where no word is blocked.
        self._histories: list[tuple[int, ...]] | None = None
        if options.block_ngram or self._forms is not None:
            self._histories = [()] * self.rows

    def predict(self, token: np.ndarray, count: int) -> Prediction:
        """Run one step on the last words (B,) and find the `count` strongest next words."""
        check_stopped()
        step = self._backend.step(
            self._backend.asarray(token),
            self._state,
            self._projected,
            context=self._options.context,
            generator=self._generator,
        )
        if self._options.method == "sample":
            _ = step.logits  # sampling needs all of them, so let the ranking use them, too
        best, alternatives, normaliser = self._filter_for(step).choose(
            step, count, len(self.record), self._histories
        )
        return Prediction(step, normaliser, best, alternatives)

    def allowed(self, step: Step) -> Array:
        """Return the step's logits (B, V), -inf for words that are not allowed."""
        return self._filter_for(step).apply(step.logits, len(self.record), self._histories)

    def should_leave(self, done: np.ndarray) -> bool:
        """Return whether finished items, True in (N,), should leave the batch now.

        Leaving costs a copy of the other items' annotations; staying costs a share of each step.
        Sampled locations are drawn for the whole batch, which therefore stays as it is.
        """
        share = _WORTH_A_COPY if self._projected.copies else 0.0
        return self._options.context != "sample" and bool(done.any() and done.mean() >= share)

    def advance(
        self,
        prediction: Prediction,
        parent: np.ndarray,
        token: np.ndarray,
        logprob: np.ndarray,
        items: np.ndarray | None = None,
    ) -> None:
        """Add a word to every row, which may continue another row than itself.

        Args:
            prediction: the last one.
            parent: (B',) indices of the predicted rows that are continued.
            token: (B',) the words.
            logprob: (B',) the words' log-probabilities.
            items: indices of the items that stay, whose rows these are; None: all of them.
        """
        self.record.add(prediction, parent, token, logprob)
        unmoved = len(parent) == self.rows and bool((parent == np.arange(self.rows)).all())
        state = prediction.step.state
        self._state = state if unmoved else state.select(self._backend.asarray(parent))
        if items is not None:
            self._projected = self._projected.select(self._backend.asarray(items))
        self.rows = len(parent)
        if (before := self._histories) is not None:
            words = zip(parent.tolist(), token.tolist(), strict=True)
            self._histories = [(*before[row], word) for row, word in words]

    def _filter_for(self, step: Step) -> Filter:
        if self._filter is None:
            self._filter = Filter(self._backend, self._options, self._ids, step.words, self._forms)
        return self._filter
