"""Statistics of a model's captions beside their scores: length, variety, repetition, support.

A score is a mean over pictures; a model that says "a man in a red shirt" about every picture, or
that repeats itself, may still have a good one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from regard.metrics.hallucination import hallucination, mean
from regard.text.words import is_judged

N_GRAM = 3
"""Length of a run of words that counts as repetition: "in a" twice is normal English, "man in a"
twice is not."""


@dataclass(frozen=True)
class CaptionStatistics:
    """Statistics of one caption for each picture of a split; undefined values are nan.

    Attributes:
        captions: number of captions.
        mean_length: words of a caption.
        distinct: number of different captions.
        words_used: number of different words.
        vocabulary: number of words in the vocabulary; None where the model writes word pieces.
        repeated_ngram: share of captions with `N_GRAM` words in a row that occur twice.
        repeated_word: share of captions with a content word that occurs twice.
        unsupported: mean number of content words that references do not support.
        unsupported_words: share of judged content words without support.
        unsupported_things: share of named things without support, as CHAIR_i (Rohrbach et al.
            2018), by references alone (`regard.metrics.hallucination`).
        unsupported_captions: share of captions that name such a thing, as CHAIR_s.
    """

    captions: int
    mean_length: float
    distinct: int
    words_used: int
    vocabulary: int | None
    repeated_ngram: float
    repeated_word: float
    unsupported: float
    unsupported_words: float
    unsupported_things: float
    unsupported_captions: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values; unknown ones are None."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


def caption_statistics(
    captions: Mapping[str, Sequence[str]],
    support: Mapping[str, Sequence[bool | None]],
    *,
    vocabulary: int | None = None,
) -> CaptionStatistics:
    """Compute the statistics of captions.

    Args:
        captions: the words of each, by item key.
        support: support of the same items' words, from `regard.metrics.hallucination.judge`.
        vocabulary: number of words in the model's vocabulary.

    >>> said = {"a.jpg": ["a", "dog", "and", "a", "dog"], "b.jpg": ["a", "red", "dog"]}
    >>> known = {"a.jpg": [None, True, None, None, True], "b.jpg": [None, False, True]}
    >>> made = caption_statistics(said, known)
    >>> made.mean_length, made.words_used, made.repeated_word, made.unsupported
    (4.0, 4, 0.5, 0.5)
    """
    lower = [[word.lower() for word in words] for words in captions.values()]
    known = [support[key] for key in captions]
    share = hallucination(zip(lower, known, strict=True))
    return CaptionStatistics(
        captions=len(lower),
        mean_length=mean([len(words) for words in lower]),
        distinct=len({tuple(words) for words in lower}),
        words_used=len({word for words in lower for word in words}),
        vocabulary=vocabulary,
        repeated_ngram=mean([repeats_ngram(words) for words in lower]),
        repeated_word=mean([repeats_word(words) for words in lower]),
        unsupported=mean([sum(ok is False for ok in one) for one in known]),
        unsupported_words=share["content_words"],
        unsupported_things=share["things"],
        unsupported_captions=share["captions"],
    )


def repeats_ngram(words: Sequence[str], n: int = N_GRAM) -> bool:
    """Return whether n words in a row occur twice, overlapping or not."""
    runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(runs)) < len(runs)


def repeats_word(words: Sequence[str]) -> bool:
    """Return whether a content word occurs twice in the same form."""
    content = [word for word in words if is_judged(word)]
    return len(set(content)) < len(content)
