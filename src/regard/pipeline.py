"""From text to ids before decoding, and from decoded ids to a `Caption` after it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from regard.config import DataConfig, DecodingConfig, Recipe
from regard.config.io import to_dict
from regard.decoding.search_options import DecodingOptions
from regard.errors import ConfigError, UnknownName
from regard.reliability.confidence import Confidence
from regard.text.vocabulary import UNKNOWN, Vocabulary
from regard.types import AttentionTrace, Caption, Grid, Hypothesis, Media, Word
from regard.util.safe_io import change_config

Words = str | Iterable[str | int]
"""A text, or words and ids."""

_OPTIONS = {f.name for f in fields(DecodingOptions)}


def prefix_ids(vocabulary: Vocabulary, words: Words) -> tuple[int, ...]:
    """Return the ids of a forced beginning.

    Raises:
        ConfigError: a word is not in the vocabulary, or an id is out of range.
    """
    ids: list[int] = []
    given = [words] if isinstance(words, str) else words
    for is_id, run in groupby(given, lambda word: isinstance(word, int)):
        # Words that follow one another are one text: where letters are tokens, so are spaces.
        if is_id:
            ids += [_checked(vocabulary, word) for word in run if isinstance(word, int)]
        else:
            ids += vocabulary.encode(" ".join(map(str, run)))
    if UNKNOWN in ids:
        text = words if isinstance(words, str) else " ".join(map(str, words))
        unknown = [t for t in vocabulary.split(text) if vocabulary.encode([t]) == [UNKNOWN]]
        raise ConfigError(
            f"prefix holds {', '.join(map(repr, unknown)) or UNKNOWN}, which the model cannot say: "
            f"it is not among its {len(vocabulary)} words. Use another word."
        )
    return tuple(ids)


def banned_ids(vocabulary: Vocabulary, words: Words) -> tuple[int, ...]:
    """Return the ids of words that shall not be said; words it does not know need no ban.

    Raises:
        ConfigError: a word is several pieces of the vocabulary, so that banning them would
            ban other words too, or an id is out of range.
    """
    banned: list[int] = []
    for word in words.split() if isinstance(words, str) else words:
        ids = [_checked(vocabulary, word)] if isinstance(word, int) else vocabulary.encode(word)
        if len(ids) > 1:
            raise ConfigError(
                f"banned holds {word!r}, which is {len(ids)} tokens to this model; banning each "
                "would ban other words too. Ban single words, or tokens by their ids."
            )
        banned += [i for i in ids if i != UNKNOWN]
    return tuple(banned)


def _checked(vocabulary: Vocabulary, token: int) -> int:
    if not 0 <= token < len(vocabulary):
        raise ConfigError(f"there is no word {token}: the vocabulary has {len(vocabulary)}.")
    return token


NOT_CLINICAL = "Not for clinical use."
"""What every caption of a scan says."""


def notices_of(media: Media) -> tuple[str, ...]:
    """Return what every reader of a medium's caption must know."""
    return (NOT_CLINICAL,) if media.medium == "volume" else ()


@dataclass(frozen=True)
class CaptionWriter:
    """Makes `Caption`s of what decoding found.

    Attributes:
        vocabulary: ids to words.
        model: the model's name.
        attention: "soft" or "hard".
        context: how contexts were formed: "expected", "sample" or "argmax".
        confidence: says how sure to be of words; None: captions do not.
    """

    vocabulary: Vocabulary
    model: str
    attention: str
    context: str
    confidence: Confidence | None = None

    def write(
        self,
        media: Media,
        grid: Grid,
        found: tuple[Hypothesis, ...],
        seconds: float,
        notices: tuple[str, ...] = (),
    ) -> Caption:
        """Return the best caption of an item, the others in its `n_best`.

        Args:
            media: the picture.
            grid: where its cells lie.
            found: best first, at least one.
            seconds: that the item took.
            notices: of this item, besides those of its medium.
        """
        notices = (*notices_of(media), *notices)
        best, *others = (
            self._one(media, grid, hypothesis, seconds, notices) for hypothesis in found
        )
        return replace(best, n_best=tuple(others))

    def _one(
        self,
        media: Media,
        grid: Grid,
        found: Hypothesis,
        seconds: float,
        notices: tuple[str, ...],
    ) -> Caption:
        caption = Caption(
            text=self.vocabulary.decode(found.tokens),
            words=tuple(self._word(found, t, grid) for t in range(len(found.tokens))),
            score=found.score,
            finished=found.finished,
            trace=AttentionTrace(
                found.alpha, found.beta, found.location, self.attention, self.context, grid
            ),
            file=media.name,
            medium=media.medium,
            model=self.model,
            seconds=seconds,
            notices=notices,
            media=media,
        )
        return caption if self.confidence is None else self.confidence.told(caption)

    def _word(self, found: Hypothesis, t: int, grid: Grid) -> Word:
        return Word(
            text=self.vocabulary.word(found.tokens[t]),
            logprob=float(found.logprobs[t]),
            alpha=found.alpha[t].reshape(grid.shape),
            beta=None if found.beta is None else float(found.beta[t]),
            location=None if found.location is None else int(found.location[t]),
            alternatives=tuple((self.vocabulary.word(i), p) for i, p in found.alternatives[t]),
            token=found.tokens[t],
        )


def store_decoding(folder: Path, decoding: DecodingConfig) -> None:
    """Keep with a checkpoint how its captions are decoded; nothing else of it is touched.

    Raises:
        CheckpointError: its config cannot be read or written; what was there is untouched.
    """
    change_config(folder, lambda config: config["recipe"].update(decoding=to_dict(decoding)))


def decoding_options(
    given: dict[str, Any], vocabulary: Vocabulary, config: Recipe, name: str
) -> DecodingOptions:
    """Return the options of a decoding from what a caller names.

    Args:
        given: fields of `DecodingOptions`; `prefix` and `banned` as words or ids.
        vocabulary: of the model.
        config: its recipe, which says how long captions are, and the decoding that suits it.
        name: of the model, for messages.

    Raises:
        UnknownName: there is no such option.
        ConfigError: an option is wrong, or the model cannot do it.
    """
    unknown = [key for key in given if key not in _OPTIONS]
    if unknown:
        raise UnknownName("captioning option", unknown[0], _OPTIONS)
    options = to_dict(config.decoding) | given
    longest = config.data.max_length
    # 20 characters are no caption, nor are 20 words where captions are long.
    if vocabulary.tokens != "word" or longest > DataConfig().max_length:
        options.setdefault("max_length", longest)
    for key, ids in (("prefix", prefix_ids), ("banned", banned_ids)):
        if key in options:
            options[key] = ids(vocabulary, options[key])
    made = DecodingOptions(**options)
    if made.context != "expected" and config.decoder.attention != "hard":
        raise ConfigError(
            f"context={made.context!r} chooses one location, and the model {name!r} has "
            "soft attention, which looks at all. Leave context out, or use a hard model."
        )
    return made
