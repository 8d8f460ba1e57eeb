"""Confidence of a caption's words: the chance that people's captions support them.

A word's probability is not that chance. "puppy" and "dog" share the probability, so right words
have low ones, and of two models the one that was trained longer is more certain of its mistakes.
Platt 1999 fits two numbers to words whose support is known: the chance is
sigmoid(scale · logit p + shift). With shift 0 that is the temperature of Guo et al. 2017 for two
outcomes; it cannot lift a probability below a half above a half, which words need.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from regard.checkpoint.folder import change_config
from regard.config.io import Range, Section, from_dict
from regard.errors import CheckpointError, ConfigError, UnknownName
from regard.text.words import UNSPACED, is_judged, judged_words, spoken_words
from regard.types import Caption

LEAST = 1e-6
"""Probabilities are clipped to lie between this and 1 minus this."""
_KEY = "confidence"


@dataclass(frozen=True)
class Confidence(Section, section="confidence"):
    """Turns a word's probability into the chance that people's captions support it.

    Attributes:
        scale: factor of the logit of its probability; above 0.
        shift: added to it.
        split: the split whose captions it was fitted to.
        beam: the beam width of those captions; other decoding may make other mistakes.
        captions: number of the captions.
        words: number of their words that were judged.
        error_before: expected calibration error of the bare probabilities there.
        error: the same for the confidence, each caption's by a fit to others.
    """

    scale: Annotated[float, Range(0, 100, exclusive=True)]  # fits are far below 100
    shift: Annotated[float, Range(-100, 100)]
    split: str
    beam: int
    captions: int
    words: int
    error_before: Annotated[float, Range(0, 1)]
    error: Annotated[float, Range(0, 1)]

    def chance(self, logprob: float) -> float:
        """Return the chance that people's captions support a content word.

        Args:
            logprob: natural log-probability of the word.
        """
        return sigmoid(self.scale * logit(logprob) + self.shift)

    def rate(self, caption: Caption) -> Caption:
        """Return the caption with the confidence of its words and of itself.

        Only words whose support can be judged have a confidence: "dog" has one, "a" has none. All
        tokens of a word get the word's. The caption's confidence is their mean, the expected share
        of its content words with support; it is None without such a word.
        """
        tokens: list[float | None] = [None] * len(caption.words)
        known: list[float] = []
        for word in judged_words(caption):
            if is_judged(word.text.lower()):
                known.append(self.chance(word.logprob))
                tokens[word.first : word.stop] = known[-1:] * (word.stop - word.first)
        words = tuple(
            replace(word, confidence=own) for word, own in zip(caption.words, tokens, strict=True)
        )
        mean = math.fsum(known) / len(known) if known else None
        return replace(caption, words=words, confidence=mean)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> Confidence:
        """Read the values of `to_json`.

        Raises:
            CheckpointError: it is damaged.
        """
        try:
            return from_dict(cls, values, _KEY)
        except (ConfigError, UnknownName, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{_KEY} in config.json is damaged: {error}. Remove the key, and the model "
                "captions without it; `regard evaluate --calibrate` makes a new one."
            ) from error


def unsure_words(caption: Caption, below: float) -> tuple[int, ...]:
    """Return the indices of the words in `caption.words` whose confidence is below a limit."""
    return tuple(
        t
        for t, word in enumerate(caption.words)
        if word.confidence is not None and word.confidence < below
    )


def unsure_text(caption: Caption, below: float, mark: str = "(?)") -> str:
    """Return the caption with a mark after every word whose confidence is below a limit.

    Where a language puts no spaces between words, the marks stand after tokens.
    """
    unsure = unsure_words(caption, below)
    marked: list[str] = []
    for word in spoken_words(caption):
        if UNSPACED.search(word.text):
            tokens = range(word.first, word.stop)
            marked.append("".join(caption.words[t].text + mark * (t in unsure) for t in tokens))
        else:
            marked.append(word.text + mark * (word.first in unsure))
    return " ".join(marked)


def store_confidence(folder: Path, confidence: Confidence) -> None:
    """Write a confidence into a checkpoint's `config.json`.

    Raises:
        CheckpointError: the config cannot be read or written; it is then unchanged.
    """
    change_config(folder, lambda config: config.update({_KEY: confidence.to_json()}))


def logit(logprob: float) -> float:
    """Return log p - log(1 - p) of a natural log-probability."""
    p = min(1 - LEAST, max(LEAST, math.exp(min(0.0, logprob))))
    return math.log(p) - math.log1p(-p)


def sigmoid(value: float) -> float:
    """Return 1 / (1 + exp(-value)), for values of at most some hundreds."""
    return 1 / (1 + math.exp(-value))
