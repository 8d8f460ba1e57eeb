"""Noun phrases of captions: numbers and colours of things, by rules instead of a parser."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from regard.text.words import is_living, is_plural, is_quality, related, supported, word_class

Range = tuple[float, float]
"""Least and greatest number."""

_FROM_THREE = ("three", "four", "five", "six", "seven", "eight", "nine", "ten")
_WORDS: dict[str, Range] = {
    **dict.fromkeys(("a", "an", "one", "another", "single", "1"), (1, 1)),
    **dict.fromkeys(("two", "couple", "pair", "both", "2"), (2, 2)),
    **{word: (n, n) for n, name in enumerate(_FROM_THREE, 3) for word in (name, str(n))},
    **dict.fromkeys(("several", "many", "group", "bunch", "crowd"), (3, math.inf)),
    **dict.fromkeys(("few", "multiple", "some", "team", "family", "band"), (2, math.inf)),
}
_COLLECTIVES = ("couple", "pair", "group", "crowd", "team", "family", "band", "bunch")
_SHADES = ("dark", "light", "bright")  # of the colour that follows


@dataclass
class Phrase:
    """A noun with its number and colours; places are indices of the caption's words.

    Attributes:
        head: the noun's place; None where colours stand alone, as in "a man in red".
        number: grammatical number of the noun; None if the words do not tell.
        counted: the place of the number word; None for an article or an ending.
        colours: places.
    """

    head: int | None = None
    number: Range | None = None
    counted: int | None = None
    colours: list[int] = field(default_factory=list)


def noun_phrases(words: Sequence[str]) -> list[Phrase]:
    """Return the phrases of a caption's words, lower case, that have a number or a colour.

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
                open_phrase = _close(found, open_phrase, words)
            open_phrase.number = _WORDS[word]
            open_phrase.counted = None if word in ("a", "an") else place
        elif kind == "colour":
            open_phrase.colours.append(place)
        elif kind == "thing":
            if _is_modifier(words, place):
                continue
            open_phrase.head = place
            open_phrase = _close(found, open_phrase, words)
        elif not (place and _joins(word, words[place - 1])):
            open_phrase = _close(found, open_phrase, words)
    _close(found, open_phrase, words)
    return found


def _joins(word: str, before: str) -> bool:
    """Return whether a function word continues a phrase, as in "a group of" or "red and"."""
    return (word == "of" and before in _WORDS) or (word == "and" and word_class(before) == "colour")


def _continues(words: Sequence[str], place: int) -> bool:
    """Return whether a number word continues a phrase, as in "a group" or "a few"."""
    return place > 0 and words[place - 1] in (*_WORDS, "of")


def _is_modifier(words: Sequence[str], place: int) -> bool:
    """Return whether a noun only modifies the next one, as in "soccer player"."""
    after = words[place + 1] if place + 1 < len(words) else ""
    if not after or after in _WORDS:
        return is_quality(words[place])
    kind = word_class(after)
    return kind == "thing" or (is_quality(words[place]) and kind in ("colour", "number"))


def _close(found: list[Phrase], phrase: Phrase, words: Sequence[str]) -> Phrase:
    """Keep a phrase with a noun or a colour, and return a new one.

    The noun's form may tell its number.
    """
    if phrase.head is None and phrase.counted is not None:
        if words[phrase.counted] in _COLLECTIVES:
            phrase.head = phrase.counted  # "a couple sits"
    if phrase.head is None:
        if phrase.colours:
            phrase.number = phrase.counted = None
            found.append(phrase)
        return Phrase()
    head = words[phrase.head]
    if phrase.number is None and is_living(head):
        phrase.number = (2, math.inf) if is_plural(head) else (1, 1)
    elif phrase.number == (1, 1) and is_plural(head):
        phrase.number = phrase.counted = None  # "a pants": the article does not count
    found.append(phrase)
    return Phrase()


def colours_of(phrase: Phrase, words: Sequence[str]) -> list[int]:
    """Return the places of a phrase's colours, without shades such as "light"."""
    return [place for place in phrase.colours if words[place] not in _SHADES]


MISTAKES = ("unsupported", "colour", "count", "missed", "repetition")
"""A word that no reference supports; another colour or number of the same noun; a thing that all
references name and the caption does not; a repetition."""
FEWEST = 2
"""References that must mention a thing before it is judged, where there are as many."""


@dataclass(frozen=True)
class Mistake:
    """A mistake in a caption, judged by its references.

    Attributes:
        kind: one of `MISTAKES`.
        place: index of the word; None of a missed thing.
        said: the word; "" of a missed thing.
        wanted: words of that class that most references use and the caption does not; for a
            count or a colour those of the noun; the name of a missed thing.
        noun: whose count or colour it is; "" otherwise.
    """

    kind: str
    place: int | None
    said: str
    wanted: tuple[str, ...] = ()
    noun: str = ""


def wrong_counts(words: Sequence[str], references: Sequence[Sequence[str]]) -> Iterable[Mistake]:
    """Find numbers that no reference agrees with.

    A number is a word ("two", "a group of"), an article, or the noun's form; the last two count
    only for people and animals. "A man and a woman" are two people.

    Args:
        words: words of the caption, lower case.
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
            continue  # "a shirt" does not count the shirts
        counts: list[tuple[Range, str]] = []
        fits, speaking = False, 0
        for reference, phrases in told:
            options = _numbers_of(head, reference, phrases)
            if len(options) > 1:
                options.append((_total(options), head))
            speaking += bool(options)
            counts += options
            for number, noun in options:
                own = _numbers_of(noun, words, said)
                fits |= _overlap(number, phrase.number)
                fits |= bool(own) and _overlap(number, _total(own))
        if fits or speaking < min(FEWEST, len(references)):
            continue
        wanted = tuple(dict.fromkeys(_number_name(number) for number, _ in counts))
        if phrase.counted is None and wanted in seen:
            continue  # "a man and a woman" of three people are one mistake
        seen.add(wanted)
        place = phrase.head if phrase.counted is None else phrase.counted
        yield Mistake("count", place, words[place], wanted, head)


def _numbers_of(
    noun: str, words: Sequence[str], phrases: Sequence[Phrase]
) -> list[tuple[Range, str]]:
    """Return the number and the noun of each phrase about a thing."""
    return [
        (phrase.number, words[phrase.head])
        for phrase in phrases
        if phrase.head is not None and phrase.number and related(noun, words[phrase.head])
    ]


def _total(numbers: Sequence[tuple[Range, str]]) -> Range:
    return sum(low for (low, _), _ in numbers), sum(high for (_, high), _ in numbers)


def _overlap(one: Range, other: Range) -> bool:
    return max(one[0], other[0]) <= min(one[1], other[1])


def _number_name(number: Range) -> str:
    low, high = number
    return f"{low:.0f}" if low == high else f"{low:.0f} or more"


def wrong_colours(words: Sequence[str], references: Sequence[Sequence[str]]) -> Iterable[Mistake]:
    """Find colours of nouns to which references give other colours.

    Args:
        words: words of the caption, lower case.
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
    """Return whether a phrase's colours may belong to a noun; a lone colour may belong to any."""
    return phrase.head is None or related(words[phrase.head], head)
