"""BLEU of one caption, smoothed, as a training reward; scores of a corpus are pycocoevalcap's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

_KEPT_PICTURES = 1024  # whose references' n-grams are remembered

Captions = tuple[tuple[str, ...], ...]


def sentence_bleu(candidate: Sequence[str], references: Captions, *, n: int = 4) -> float:
    """Return the smoothed BLEU of one caption, 0 to 1 (Lin and Och 2004, ORANGE, section 4).

        p_1 = matches / words,  p_k = (matches of k-grams + 1) / (k-grams + 1)
        BLEU = min(1, exp(1 − r / c)) · (Π p_k)^(1/n)

    A k-gram matches as often as the reference that has it most often; r is the length of the
    reference whose length is nearest (the shorter of two), c that of the caption. One is added
    because most captions have no four words in a row as a person wrote them, and a reward that
    is 0 for nearly all tells nothing.

    Args:
        candidate: tokens; of none the score is 0.
        references: tokens of each reference.
        n: longest n-gram.

    >>> round(sentence_bleu("a red ball".split(), (("a", "red", "ball"),)), 3)
    1.0
    """
    length = len(candidate)
    most, lengths = _references(references, n)
    logs = 0.0
    for k in range(1, n + 1):
        grams = _ngrams(candidate, k)
        matches = sum(min(count, most[gram]) for gram, count in grams.items() if gram in most)
        added = 1 if k > 1 else 0
        if matches + added == 0:
            return 0.0
        logs += math.log((matches + added) / (max(0, length - k + 1) + added))
    nearest = min(lengths, key=lambda own: (abs(own - length), own))
    return math.exp(min(0.0, 1 - nearest / length) + logs / n)


@lru_cache(_KEPT_PICTURES)
def _references(references: Captions, n: int) -> tuple[dict[tuple[str, ...], int], list[int]]:
    """Return how often an n-gram stands in the reference that has it most, and their lengths."""
    most: Counter[tuple[str, ...]] = Counter()
    for words in references:
        for k in range(1, n + 1):
            most |= _ngrams(words, k)
    return dict(most), [len(words) for words in references]


def _ngrams(words: Sequence[str], k: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + k]) for i in range(len(words) - k + 1))
