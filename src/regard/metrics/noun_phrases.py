"""Noun phrases of captions: how many of what, in which colours. Rules for captions, no parser."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from regard.text.words import is_living, is_plural, is_quality, related, supported, word_class

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


MISTAKES = ("unsupported", "colour", "count", "missed", "repetition")
"""A word that no reference supports; another colour, another number of the same noun; a thing that
all references name and the caption does not; something said twice."""
FEWEST = 2
"""References that must speak of a thing before it is judged; one, where there is but one."""


@dataclass(frozen=True)
class Mistake:
    """One thing that the references do not support.

    Attributes:
        kind: one of `MISTAKES`.
        place: index of the word; None for what was left out.
        said: the word; "" for what was left out.
        wanted: what most references say of that class and the caption does not; for a count or
            a colour what they say of that noun; for what was missed, the thing.
        noun: whose count or colour it is; "" otherwise.
    """

    kind: str
    place: int | None
    said: str
    wanted: tuple[str, ...] = ()
    noun: str = ""


def wrong_counts(words: Sequence[str], references: Sequence[Sequence[str]]) -> Iterable[Mistake]:
    """Find numbers that no reference agrees with.

    A number is what a word says ("two", "a group of"), an article, or the noun's form; only of
    people and animals do the last two count. "A man and a woman" are two people.

    Args:
        words: of the caption, lower case.
        references: tokens of each.
    """
    said = noun_phrases(words)
    seen: set[tuple[str, ...]] = set()
    told = [(reference, noun_phrases(reference)) for reference in references]
    for phrase in said:
        if phrase.head is None or phrase.number is None:
            continue
        head = words[phrase.head]
        if phrase.counted is None and not is_living(head):
            continue  # "a shirt" says nothing of how many there are
        counts: list[tuple[Range, str]] = []
        fits, speaking = False, 0
        for reference, phrases in told:
            options = _counts_of(head, reference, phrases)
            speaking += bool(options)
            counts += options
            for number, noun in options:
                own = [phrase.number, _total(noun, words, said)]
                fits |= any(_overlap(number, mine) for mine in own if mine is not None)
        if fits or speaking < min(FEWEST, len(references)):
            continue
        wanted = tuple(dict.fromkeys(_number_name(number) for number, _ in counts))
        if phrase.counted is None and wanted in seen:
            continue  # "a man and a woman" of three people are one mistake
        seen.add(wanted)
        place = phrase.head if phrase.counted is None else phrase.counted
        yield Mistake("count", place, words[place], wanted, head)


def _counts_of(
    head: str, reference: Sequence[str], phrases: Sequence[Phrase]
) -> list[tuple[Range, str]]:
    """Return how many of a thing a reference tells of: each number, and all together."""
    options = [
        (phrase.number, reference[phrase.head])
        for phrase in phrases
        if phrase.head is not None and phrase.number is not None
        if related(head, reference[phrase.head])
    ]
    total = _total(head, reference, phrases)
    return options + ([(total, head)] if total is not None and len(options) > 1 else [])


def _total(noun: str, words: Sequence[str], phrases: Sequence[Phrase]) -> Range | None:
    numbers = [
        phrase.number
        for phrase in phrases
        if phrase.head is not None and phrase.number and related(noun, words[phrase.head])
    ]
    return (sum(n[0] for n in numbers), sum(n[1] for n in numbers)) if numbers else None


def _overlap(one: Range, other: Range) -> bool:
    return max(one[0], other[0]) <= min(one[1], other[1])


def _number_name(number: Range) -> str:
    low, high = number
    return f"{low:.0f}" if low == high else f"{low:.0f} or more"


def wrong_colours(words: Sequence[str], references: Sequence[Sequence[str]]) -> Iterable[Mistake]:
    """Find colours of nouns that references give other colours.

    Args:
        words: of the caption, lower case.
        references: tokens of each.
    """
    told = [(reference, noun_phrases(reference)) for reference in references]
    for phrase in noun_phrases(words):
        if phrase.head is None:
            continue
        head = words[phrase.head]
        seen = [
            [reference[c] for p in phrases if _wears(p, reference, head)
             for c in colours_of(p, reference)]
            for reference, phrases in told
        ]  # fmt: skip
        if sum(map(bool, seen)) < min(FEWEST, len(references)):
            continue
        colours = Counter(colour for one in seen for colour in set(one))
        for place in colours_of(phrase, words):
            if not supported(words[place], colours):
                mine = [words[c] for c in phrase.colours]
                wanted = tuple(c for c, _ in colours.most_common() if c not in mine)
                yield Mistake("colour", place, words[place], wanted[:3], head)


def _wears(phrase: Phrase, words: Sequence[str], head: str) -> bool:
    """Whether a phrase's colours may be those of a noun; a colour alone may be any noun's."""
    return phrase.head is None or related(words[phrase.head], head)
