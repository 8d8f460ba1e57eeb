"""CIDEr-D and BLEU of one caption, fast enough for training rewards.

CIDEr-D takes its document frequencies from any corpus; BLEU is smoothed. Scores of a whole corpus
are those of `regard.metrics.scores`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from regard.errors import DatasetError

Ngram = tuple[str, ...]

_CACHED = 1024  # references in a cache; a picture's samples are scored in a row


@dataclass(frozen=True)
class _Vector:
    """TF-IDF weights of one caption, by n-gram length."""

    weights: tuple[dict[Ngram, float], ...]
    norms: tuple[float, ...]
    length: int


class CiderD:
    """Consensus of a caption with its references (Vedantam et al. 2015, section 3, CIDEr-D).

        g_k(c) = tf_k(c) · (log N − log max(1, df_k))
        CIDEr-D_n(c, S) = 10/|S| Σ_j exp(−(l(c) − l(s_j))² / 2σ²)
                          · min(g(c), g(s_j)) · g(s_j) / (‖g(c)‖ ‖g(s_j)‖)
        CIDEr-D = mean over n = 1 … 4

    df_k counts the pictures of the corpus with n-gram k in any of their captions, N counts
    its pictures. Range 0 to 10. As in the reference implementation tf is a raw count, nothing
    is stemmed, and l is the number of bigrams.

    >>> scorer = CiderD.from_captions([[["a", "red", "ball"]], [["a", "blue", "cube"]]])
    >>> round(scorer.score(["a", "red", "ball"], [["a", "red", "ball"]]), 3)
    7.5
    """

    def __init__(
        self,
        document_frequency: Mapping[Ngram, int],
        documents: int,
        *,
        n: int = 4,
        sigma: float = 6.0,
    ) -> None:
        """Use the counts of a corpus; `from_captions` counts them.

        Args:
            document_frequency: number of pictures with the n-gram in any caption.
            documents: N, pictures in the corpus. With N = 1 every score is 0.
            n: longest n-gram.
            sigma: width of the Gaussian length penalty.

        Raises:
            DatasetError: the counts contradict each other.
        """
        largest = max(document_frequency.values(), default=0)
        if documents < max(1, largest):
            raise DatasetError(
                f"CIDEr-D received {documents} documents and an n-gram that occurs in {largest} of "
                "them. Count pictures, not captions, over one corpus of at least one picture."
            )
        self.document_frequency = dict(document_frequency)
        self.documents = documents
        self.n = n
        self.sigma = sigma
        self._unseen = math.log(documents)
        self._idf = {k: self._unseen - math.log(max(1, df)) for k, df in document_frequency.items()}
        self._reference = lru_cache(_CACHED)(self._vector)

    @classmethod
    def from_captions(
        cls, captions: Iterable[Sequence[Sequence[str]]], *, n: int = 4, sigma: float = 6.0
    ) -> CiderD:
        """Count document frequencies.

        Args:
            captions: for each picture of the corpus its captions, each a list of tokens.
            n: longest n-gram.
            sigma: width of the Gaussian length penalty.
        """
        frequency: Counter[Ngram] = Counter()
        documents = 0
        for documents, of_one in enumerate(captions, 1):  # noqa: B007
            frequency.update({gram for caption in of_one for gram in _ngrams(caption, n)})
        return cls(frequency, documents, n=n, sigma=sigma)

    def score(self, candidate: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """Return the CIDEr-D of one caption, 0 to 10; an empty caption gets 0.

        Args:
            candidate: its tokens.
            references: tokens of each reference.

        Raises:
            DatasetError: no reference is given.
        """
        if not references:
            raise DatasetError(
                "CIDEr-D received no reference; it needs one or more for each caption."
            )
        ours = self._vector(tuple(candidate))
        total = sum(self._similarity(ours, self._reference(tuple(r))) for r in references)
        return 10.0 * total / len(references)

    def _vector(self, tokens: Ngram) -> _Vector:
        weights: tuple[dict[Ngram, float], ...] = tuple({} for _ in range(self.n))
        for gram, count in Counter(_ngrams(tokens, self.n)).items():
            weights[len(gram) - 1][gram] = count * self._idf.get(gram, self._unseen)
        norms = tuple(math.sqrt(sum(w * w for w in part.values())) for part in weights)
        return _Vector(weights, norms, max(0, len(tokens) - 1))

    def _similarity(self, ours: _Vector, theirs: _Vector) -> float:
        total = 0.0
        for mine, other, norm, other_norm in zip(
            ours.weights, theirs.weights, ours.norms, theirs.norms, strict=True
        ):
            if norm > 0 and other_norm > 0:
                shared = sum(
                    min(w, other[gram]) * other[gram] for gram, w in mine.items() if gram in other
                )
                total += shared / (norm * other_norm)
        delta = ours.length - theirs.length
        return total / self.n * math.exp(-(delta**2) / (2 * self.sigma**2))


def sentence_bleu(candidate: Sequence[str], references: tuple[Ngram, ...], *, n: int = 4) -> float:
    """Return the smoothed BLEU of one caption, 0 to 1 (Lin and Och 2004, ORANGE, section 4).

        p_1 = matches / words,  p_k = (matches of k-grams + 1) / (k-grams + 1)
        BLEU = min(1, exp(1 − r / c)) · (Π p_k)^(1/n)

    A k-gram matches as often as the reference that has it most often; r is the length of the
    reference whose length is nearest (the shorter of two), c that of the caption. One is added
    because most captions share no four words in a row with a reference, and a reward that is 0
    for nearly all captions carries no signal.

    Args:
        candidate: its tokens; without any the score is 0.
        references: tokens of each reference.
        n: longest n-gram.

    >>> round(sentence_bleu("a red ball".split(), (("a", "red", "ball"),)), 3)
    1.0
    """
    length = len(candidate)
    most, lengths = _references(references, n)
    matched = [0] * n
    for gram, count in Counter(_ngrams(candidate, n)).items():
        matched[len(gram) - 1] += min(count, most.get(gram, 0))
    logs = 0.0
    for k, matches in enumerate(matched, 1):
        added = 1 if k > 1 else 0
        if matches + added == 0:
            return 0.0
        logs += math.log((matches + added) / (max(0, length - k + 1) + added))
    nearest = min(lengths, key=lambda own: (abs(own - length), own))
    return math.exp(min(0.0, 1 - nearest / length) + logs / n)


@lru_cache(_CACHED)
def _references(references: tuple[Ngram, ...], n: int) -> tuple[dict[Ngram, int], list[int]]:
    """Return the largest count of each n-gram in a reference, and the references' lengths."""
    most: Counter[Ngram] = Counter()
    for tokens in references:
        most |= Counter(_ngrams(tokens, n))
    return dict(most), [len(tokens) for tokens in references]


def _ngrams(tokens: Sequence[str], longest: int) -> list[Ngram]:
    return [
        tuple(tokens[start : start + size])
        for size in range(1, longest + 1)
        for start in range(len(tokens) - size + 1)
    ]
