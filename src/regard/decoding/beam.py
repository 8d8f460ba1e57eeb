"""Beam search, batched over items."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from regard.backends.base import Backend
from regard.decoding.candidates import Candidates, strongest
from regard.decoding.filters import Ids
from regard.decoding.options import DecodingOptions
from regard.decoding.stepper import Stepper
from regard.types import Annotations, Hypothesis


@dataclass(frozen=True)
class _Found:
    """A caption of `length` words that `row` held when it had said them."""

    score: float
    row: int
    length: int
    finished: bool


@dataclass
class _Item:
    """What was found for one item.

    Attributes:
        found: captions that ended, best first.
        left: captions that did not end and cannot go on.
        done: whether the search is over.
    """

    found: list[_Found] = field(default_factory=list)
    left: list[_Found] = field(default_factory=list)
    done: bool = False


def decode_beam(
    backend: Backend, annotations: Annotations, options: DecodingOptions, ids: Ids
) -> list[tuple[Hypothesis, ...]]:
    """Keep the `beam` most likely captions of every item.

    A caption that ends leaves the beam, which stays as wide as it was. An item is done when
    no live caption can still beat its `n_best`-th finished one. Where fewer than `n_best`
    finish, because of `max_length` or because no word may follow, the best unfinished ones
    come after them; their scores lack an end token and do not compare with the others'.

    Returns:
        For each item `n_best` different captions, or all that there are where its options
        allow fewer; finished before unfinished, each best first.
    """
    search = _Search(backend, annotations, options, ids)
    for t in range(options.max_length + 1):
        if search.advance(t):
            break
    return search.results()


class _Search:
    """Rows n·beam to (n + 1)·beam - 1 are the live captions of item n."""

    def __init__(
        self, backend: Backend, annotations: Annotations, options: DecodingOptions, ids: Ids
    ) -> None:
        self.options, self.ids, self.width = options, ids, options.beam
        self.stepper = Stepper(backend, annotations, options, ids, captions_per_item=self.width)
        self.items = [_Item() for _ in range(self.stepper.rows // self.width)]
        self.token = np.full(self.stepper.rows, ids.start, np.int64)
        # All rows of an item begin alike, so only its first may branch.
        self.total = np.where(np.arange(self.stepper.rows) % self.width == 0, 0.0, -np.inf)

    def advance(self, t: int) -> bool:
        """Say word t; return whether every item is done."""
        reading = self.stepper.read(self.token)
        # Each row has one way to end, so 2·width candidates leave at least `width` that go on.
        best = strongest(reading.allowed, 2 * self.width)
        parent = np.arange(self.stepper.rows)
        token = np.full(self.stepper.rows, self.ids.end, np.int64)
        logprob = np.full(self.stepper.rows, -np.inf)
        for n, item in enumerate(self.items):
            if item.done:
                continue
            chosen = self._extend(item, n * self.width, best, t)
            for row, (before, column) in enumerate(chosen, n * self.width):
                parent[row], token[row] = before, best.ids[before, column]
                logprob[row] = best.logprobs[before, column]
        self.total = self.total[parent] + logprob
        self.token = token
        self.stepper.reorder(reading, parent, token, logprob)
        for n, item in enumerate(self.items):
            item.done = item.done or self._is_done(item, n * self.width)
        return all(item.done for item in self.items)

    def _extend(self, item: _Item, first: int, best: Candidates, t: int) -> list[tuple[int, int]]:
        """Collect an item's captions that end at word t, and those that can only stop there.

        Returns:
            The row and the candidate's column of each caption that lives on.
        """
        rows = slice(first, first + self.width)
        totals = self.total[rows, None] + best.logprobs[rows]
        # Stable: among equals the better row and the smaller id come first.
        order = np.argsort(-totals, axis=None, kind="stable")[: 2 * self.width]
        live: list[tuple[int, int]] = []
        for rank, at in enumerate(order):
            row, column = first + int(at) // totals.shape[1], int(at) % totals.shape[1]
            total = float(totals.flat[at])
            if not np.isfinite(total) or len(live) == self.width:
                break
            if best.ids[row, column] != self.ids.end:
                live.append((row, column))
            elif rank < self.width:  # an end that would not have stayed in the beam is no find
                item.found.append(_Found(self._score(total, t + 1), row, t, True))
        item.found.sort(key=lambda found: -found.score)
        if t == self.options.max_length:
            live = []
        item.left += self._stopped(item, first, totals, t)
        return live

    def _stopped(self, item: _Item, first: int, totals: np.ndarray, t: int) -> list[_Found]:
        """Return an item's captions of t words that neither ended nor can go on."""
        ended = {found.row for found in item.found if found.length == t}
        at_end = t == self.options.max_length
        goes_on = [not at_end and bool(np.isfinite(row).any()) for row in totals]
        return [
            _Found(self._score(float(self.total[row]), max(1, t)), row, t, False)
            for row in range(first, first + self.width)
            if np.isfinite(self.total[row]) and row not in ended and not goes_on[row - first]
        ]

    def _score(self, total: float, length: int) -> float:
        return total / length**self.options.length_penalty

    def _is_done(self, item: _Item, first: int) -> bool:
        """Whether an item's live captions cannot win any more."""
        live = float(self.total[first : first + self.width].max())
        if not np.isfinite(live):
            return True
        if len(item.found) < self.options.n_best:
            return False
        # A beam of one is greedy decoding: its caption has ended. Otherwise, as totals are
        # negative, a live caption scores best where it goes on for free to the longest.
        reachable = self._score(live, self.options.max_length + 1)
        return self.width == 1 or item.found[self.options.n_best - 1].score >= reachable

    def results(self) -> list[tuple[Hypothesis, ...]]:
        """Return each item's best captions."""
        read = self.stepper.record.hypothesis
        return [
            tuple(
                read(found.row, found.length, score=found.score, finished=found.finished)
                for found in self._best(item)
            )
            for item in self.items
        ]

    def _best(self, item: _Item) -> list[_Found]:
        left = sorted(item.left, key=lambda found: -found.score)
        return [*item.found, *left][: self.options.n_best]
