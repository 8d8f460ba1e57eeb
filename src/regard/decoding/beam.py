"""Beam search, batched over items."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from regard.backends.base import Backend
from regard.decoding.options import DecodingOptions
from regard.decoding.trace import Candidates, Chooser, Ids, Record, strongest
from regard.types import Annotations, Hypothesis


@dataclass
class _Item:
    """One item's finished captions: (score, row, length), best first."""

    finished: list[tuple[float, int, int]] = field(default_factory=list)
    done: bool = False


def decode_beam(
    backend: Backend, annotations: Annotations, options: DecodingOptions, ids: Ids
) -> list[tuple[Hypothesis, ...]]:
    """Keep the `beam` most likely captions of every item.

    An item is done when no live caption can still beat its `n_best`-th finished one. Where
    none finishes within `max_length`, the best live captions are returned, marked unfinished.
    """
    search = _Search(backend, annotations, options, ids)
    for t in range(options.max_length + 1):
        if search.advance(t):
            break
    return search.results()


class _Search:
    def __init__(
        self, backend: Backend, annotations: Annotations, options: DecodingOptions, ids: Ids
    ) -> None:
        self.backend, self.options, self.ids = backend, options, ids
        self.width = options.beam
        self.projected, self.state = backend.init_state(annotations, self.width)
        self.items = [_Item() for _ in range(self.state.hidden.shape[0] // self.width)]
        rows = len(self.items) * self.width
        self.token = np.full(rows, ids.start, np.int64)
        # All beams of an item begin alike, so only its first may branch.
        self.total = np.where(np.arange(rows) % self.width == 0, 0.0, -np.inf)
        self.record = Record()
        self.generator = backend.generator(options.seed)
        self.chooser: Chooser | None = None

    def advance(self, t: int) -> bool:
        """Make step t; return whether every item is done."""
        step = self.backend.step(
            self.backend.asarray(self.token),
            self.state,
            self.projected,
            context=self.options.context,
            generator=self.generator,
        )
        words = step.logits.shape[-1]
        self.chooser = self.chooser or Chooser(self.backend, self.options, self.ids, words)
        histories = None
        if self.options.block_ngram:
            histories = [self.record.tokens(row) for row in range(len(self.token))]
        logprobs = self.chooser.logprobs(step.logits, t, histories)
        # Twice the width: at most `width` of them end a caption, the others live on.
        best = strongest(logprobs, max(2 * self.width, self.options.alternatives))
        last = t == self.options.max_length
        parent, token, chosen = self._extend(best, t, last)
        if last:
            # Unfinished captions are read from the step before; this one ended the others.
            return True
        self.record.add(step, best, parent, token, chosen)
        self.total = self.total[parent] + chosen
        self.token, self.state = token, step.state.select(self.backend.asarray(parent))
        self._check_done()
        return all(item.done for item in self.items)

    def _extend(
        self, best: Candidates, t: int, last: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Choose each item's next beams; collect the captions that end here."""
        rows = len(self.token)
        parent = np.arange(rows)
        token = np.full(rows, self.ids.end, np.int64)
        chosen = np.full(rows, -np.inf)
        penalty = (t + 1) ** self.options.length_penalty
        for n, item in enumerate(self.items):
            if item.done:
                continue
            live = n * self.width
            for rank, (total, row, column) in enumerate(self._ranked(best, n)):
                if not np.isfinite(total) or live == (n + 1) * self.width:
                    break
                if best.ids[row, column] == self.ids.end:
                    if rank < self.width:
                        item.finished.append((total / penalty, row, t))
                elif not last:
                    parent[live], token[live] = row, best.ids[row, column]
                    chosen[live] = best.logprobs[row, column]
                    live += 1
            item.finished.sort(key=lambda f: -f[0])
        return parent, token, chosen

    def _ranked(self, best: Candidates, n: int) -> list[tuple[float, int, int]]:
        rows = slice(n * self.width, (n + 1) * self.width)
        totals = self.total[rows, None] + best.logprobs[rows]
        # Stable: among equals the better beam and the smaller id come first.
        order = np.argsort(-totals, axis=None, kind="stable")[: 2 * self.width]
        row, column = np.unravel_index(order, totals.shape)
        return [
            (float(totals[r, c]), n * self.width + int(r), int(c))
            for r, c in zip(row, column, strict=True)
        ]

    def _check_done(self) -> None:
        """Mark the items whose live captions cannot win any more."""
        # Scores are negative, so the longest caption, which divides by the most, is the best
        # that a live one can reach.
        longest = (self.options.max_length + 1) ** self.options.length_penalty
        for n, item in enumerate(self.items):
            best = self.total[n * self.width : (n + 1) * self.width].max()
            reachable = best / longest
            enough = len(item.finished) >= self.options.n_best
            if not np.isfinite(best) or (
                enough and item.finished[self.options.n_best - 1][0] >= reachable
            ):
                item.done = True

    def results(self) -> list[tuple[Hypothesis, ...]]:
        """Return each item's best captions."""
        return [self._of_item(n, item) for n, item in enumerate(self.items)]

    def _of_item(self, n: int, item: _Item) -> tuple[Hypothesis, ...]:
        options = self.options
        found = [(score, row, length, True) for score, row, length in item.finished]
        if not found:
            length = len(self.record.steps)
            rows = range(n * self.width, (n + 1) * self.width)
            totals = [(float(self.total[row]), row) for row in rows]
            found = [
                (total / max(1, length) ** options.length_penalty, row, length, False)
                for total, row in sorted(totals, key=lambda pair: -pair[0])
                if np.isfinite(total)
            ]
        return tuple(
            self.record.hypothesis(
                row, length, score=score, finished=finished, alternatives=options.alternatives
            )
            for score, row, length, finished in found[: options.n_best]
        )
