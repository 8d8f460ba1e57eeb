"""The record of a search, from which the traces of its captions are read.

Every step is recorded once for all rows, with the row that each row continues; a caption is
read backwards at the end. So beams never copy their histories.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from regard.decoding.topk import Candidates, to_numpy
from regard.types import Hypothesis, Step


@dataclass(frozen=True)
class _Recorded:
    """One step: the first three per row after the choice, the others per row before it."""

    parent: np.ndarray
    token: np.ndarray
    logprob: np.ndarray
    alternatives: Candidates | None
    alpha: np.ndarray
    beta: np.ndarray | None
    location: np.ndarray | None


class Record:
    """What happened at each step, for all rows."""

    def __init__(self) -> None:
        self._steps: list[_Recorded] = []

    def __len__(self) -> int:
        """Return the number of steps, which is the number of words that a row has said."""
        return len(self._steps)

    def add(
        self,
        step: Step,
        alternatives: Candidates | None,
        parent: np.ndarray,
        token: np.ndarray,
        logprob: np.ndarray,
    ) -> None:
        """Add one step.

        Args:
            step: what the decoder said, one row per row before the choice.
            alternatives: the strongest words of those rows; None where none are kept.
            parent: (B,) the row that each new row continues.
            token: (B,) the word that it adds.
            logprob: (B,) that word's log-probability.
        """
        beta = None if step.beta is None else to_numpy(step.beta).mean(-1)
        location = None if step.location is None else to_numpy(step.location)
        alpha = to_numpy(step.alpha)
        self._steps.append(_Recorded(parent, token, logprob, alternatives, alpha, beta, location))

    def hypothesis(self, row: int, length: int, *, score: float, finished: bool) -> Hypothesis:
        """Read the caption of the first `length` words that ends in `row`.

        Args:
            row: a row as it stood after step `length`.
            length: T.
            score: passed on.
            finished: passed on.
        """
        path = self._path(row, length)
        cells = self._steps[0].alpha.shape[1]
        return Hypothesis(
            tokens=tuple(int(s.token[after]) for s, after, _ in path),
            logprobs=np.array([s.logprob[after] for s, after, _ in path], np.float64),
            score=score,
            finished=finished,
            alpha=np.array([s.alpha[b] for s, _, b in path], np.float32).reshape(-1, cells),
            beta=self._per_word([(s.beta, b) for s, _, b in path], self._steps[0].beta),
            location=self._per_word([(s.location, b) for s, _, b in path], self._steps[0].location),
            alternatives=tuple(_pairs(s.alternatives, before) for s, _, before in path),
        )

    def _path(self, row: int, length: int) -> list[tuple[_Recorded, int, int]]:
        """Return each step of a caption with its row after the choice and before it."""
        path: list[tuple[_Recorded, int, int]] = []
        for step in reversed(self._steps[:length]):
            before = int(step.parent[row])
            path.append((step, row, before))
            row = before
        return path[::-1]

    @staticmethod
    def _per_word(
        values: list[tuple[np.ndarray | None, int]], first: np.ndarray | None
    ) -> np.ndarray | None:
        """Return (T,) values, also for a caption of no words; None where there are none."""
        if first is None:
            return None
        return np.array([array[row] for array, row in values if array is not None], first.dtype)


def _pairs(candidates: Candidates | None, row: int) -> tuple[tuple[int, float], ...]:
    if candidates is None:
        return ()
    pairs = zip(candidates.ids[row].tolist(), candidates.logprobs[row].tolist(), strict=True)
    # A small vocabulary has fewer than were asked for.
    return tuple((word, logprob) for word, logprob in pairs if logprob > -math.inf)
