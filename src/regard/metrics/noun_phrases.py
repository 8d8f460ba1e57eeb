"""Noun phrases of captions: how many of what, in which colours. Rules for captions, no parser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from regard.text.words import is_living, is_plural, is_quality, word_class

Range = tuple[float, float]
"""At least and at most so many."""

_FROM_THREE = ("three", "four", "five", "six", "seven", "eight", "nine", "ten")
_WORDS: dict[str, Range] = {
    **{word: (1, 1) for word in ("a", "an", "one", "another", "single", "1")},
    **{word: (2, 2) for word in ("two", "couple", "pair", "both", "2")},
    **{
        word: (n, n)
        for n, word in enumerate(
            ["three", "four", "five", "six", "seven", "eight", "nine", "ten"], 3
        )
    },
    **{str(n): (n, n) for n in range(3, 11)},
    **{word: (3, math.inf) for word in ("several", "many", "group", "bunch", "crowd")},
    **{word: (2, math.inf) for word in ("few", "multiple", "some", "team", "family", "band")},
}
_COLLECTIVES = ("couple", "pair", "group", "crowd", "team", "family", "band", "bunch")
_SHADES = ("dark", "light", "bright")  # of the colour that follows


@dataclass
class Phrase:
    """A noun with what stands before it; places are indices of the caption's words.

    Attributes:
        head: the noun's place; None where colours stand alone, as in "a man in red".
        number: how many; None where the words leave it open.
        counted: the place of the word that says so; None for an article or an ending.
        colours: places.
    """

    head: int | None = None
    number: Range | None = None
    counted: int | None = None
    colours: list[int] = field(default_factory=list)


def noun_phrases(words: Sequence[str]) -> list[Phrase]:
    """Cut a caption's words, lower case, into the phrases whose number or colour can be told.

    >>> words = "two dogs and a man in a red and black shirt".split()
    >>> [(words[p.head], p.number, [words[c] for c in p.colours]) for p in noun_phrases(words)]
    [('dogs', (2, 2), []), ('man', (1, 1), []), ('shirt', (1, 1), ['red', 'black'])]
    """
    found: list[Phrase] = []
    open_phrase = Phrase()
    for place, word in enumerate(words):
        kind = word_class(word)
        if word in _WORDS:
            if word in ("a", "an") or not _continues(words, place):
                _close(found, open_phrase, words)
                open_phrase = Phrase()
            open_phrase.number = _WORDS[word]
            open_phrase.counted = None if word in ("a", "an") else place
        elif kind == "colour":
            open_phrase.colours.append(place)
        elif kind == "thing":
            if _is_modifier(words, place):
                continue
            open_phrase.head = place
            _close(found, open_phrase, words)
            open_phrase = Phrase()
        elif not (word == "of" and place and words[place - 1] in _WORDS) and not (
            word == "and" and place and word_class(words[place - 1]) == "colour"
        ):
            _close(found, open_phrase, words)
            open_phrase = Phrase()
    _close(found, open_phrase, words)
    return found


def _continues(words: Sequence[str], place: int) -> bool:
    """Whether a number word goes on with a phrase, as in "a group" or "a few"."""
    return place > 0 and words[place - 1] in (*_WORDS, "of")


def _is_modifier(words: Sequence[str], place: int) -> bool:
    """Whether a thing only describes the one after it, as in "soccer player"."""
    after = words[place + 1] if place + 1 < len(words) else ""
    if not after or after in _WORDS:
        return is_quality(words[place])
    kind = word_class(after)
    return kind == "thing" or (is_quality(words[place]) and kind in ("colour", "number"))


def _close(found: list[Phrase], phrase: Phrase, words: Sequence[str]) -> None:
    """Keep a phrase that says something, with the number that its noun's form says."""
    if phrase.head is None and phrase.counted is not None:
        if words[phrase.counted] in _COLLECTIVES:
            phrase.head = phrase.counted  # "a couple sits"
    if phrase.head is None:
        if phrase.colours:
            phrase.number = phrase.counted = None
            found.append(phrase)
        return
    head = words[phrase.head]
    if phrase.number is None and is_living(head):
        phrase.number = (2, math.inf) if is_plural(head) else (1, 1)
    elif phrase.number == (1, 1) and is_plural(head):
        phrase.number = phrase.counted = None  # "a pants": the article tells nothing
    found.append(phrase)


def colours_of(phrase: Phrase, words: Sequence[str]) -> list[int]:
    """Return the places of a phrase's colours, without shades such as "light"."""
    return [place for place in phrase.colours if words[place] not in _SHADES]
