"""Wrong numbers and colours of a caption's nouns, against what its references say of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from regard.metrics.noun_phrases import Phrase, Range, colours_of, noun_phrases
from regard.text.words import is_living, related, supported

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
