"""Hallucination: words, counts and colours that references do not support, and missing things.

Text is compared with text: references need not name everything that a picture shows, so an
unsupported word may be right. The measures follow Rohrbach et al. 2018 (CHAIR: the share of named
things that are not in the picture, and of captions that name one). CHAIR knows 80 objects from
segmentations and references; these measures cover every thing that is named, by references alone.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from regard.metrics.noun_phrases import (
    FEWEST,
    MISTAKES,
    Mistake,
    noun_phrases,
    wrong_colours,
    wrong_counts,
)
from regard.text.words import (
    UNSPACED,
    broader,
    is_judged,
    is_quality,
    kinds,
    lemmas,
    related,
    same,
    supported,
    word_class,
)

_SELDOM_TOLD = "torso"
"""Most people wear a shirt, but few references mention it: clothes of the upper body are judged
only where a reference names some."""
_LONGEST_REPEAT = 8  # words of a repeated run
_JOINTS = ("and", "with", "in", "on", "of")  # may stand between: "a dog and a dog"


@dataclass(frozen=True)
class Judgement:
    """One caption against its references.

    Attributes:
        support: for each word whether references support it; None where it was not judged:
            function words, words without meaning of their own, numbers of things that no
            reference counts, shirts where no reference mentions such clothes.
        mistakes: in the order of `MISTAKES`, then of the words.
    """

    support: tuple[bool | None, ...]
    mistakes: tuple[Mistake, ...]


def judge(words: Sequence[str], references: Sequence[Sequence[str]]) -> Judgement:
    """Compare a caption with its references.

    Args:
        words: words of the caption.
        references: tokens of each, lower case, as `ptb_tokenize` cuts them; without any, only
            repetition is judged.
    """
    words = [word.lower() for word in words]
    references = [reference for reference in references if reference]
    found: list[Mistake] = []
    support: list[bool | None] = [None] * len(words)
    if references:
        support, found = _compare(words, references)
    found += _repeated(words, references)
    return Judgement(tuple(support), tuple(sorted(found, key=_order)))


def hallucination(
    captions: Iterable[tuple[Sequence[str], Sequence[bool | None]]],
) -> dict[str, float]:
    """Measure how often captions name things that no reference supports.

    Args:
        captions: the words of each, and their support as `judge` returns it.

    Returns:
        `things`: share of named things without support; `captions`: share of captions with one;
        `content_words`: share of all judged words without support. nan where there are none.
    """
    named, judged, hit = [], [], []
    for words, support in captions:
        known = [(word_class(w) == "thing", ok) for w, ok in zip(words, support, strict=True)]
        judged += [not ok for _, ok in known if ok is not None]
        things = [not ok for thing, ok in known if thing and ok is not None]
        named += things
        hit.append(any(things))
    return {"things": mean(named), "captions": mean(hit), "content_words": mean(judged)}


def mean(values: Sequence[float]) -> float:
    """Return the mean; nan of no values."""
    return math.fsum(values) / len(values) if values else math.nan


def _order(mistake: Mistake) -> tuple[int, int]:
    return MISTAKES.index(mistake.kind), -1 if mistake.place is None else mistake.place


def _compare(
    words: list[str], references: Sequence[Sequence[str]]
) -> tuple[list[bool | None], list[Mistake]]:
    heard = {word for reference in references for word in reference}
    found = [*wrong_counts(words, references), *wrong_colours(words, references)]
    wrong = {mistake.place for mistake in found}
    support: list[bool | None] = []
    for place, word in enumerate(words):
        number = word_class(word) == "number"
        if place in wrong and (number or word_class(word) == "colour"):
            support.append(False)
        elif not is_judged(word):
            support.append(None)
        elif number:
            support.append(True if any(same(word, other) for other in heard) else None)
        elif broader(_SELDOM_TOLD, word) and not any(broader(_SELDOM_TOLD, w) for w in heard):
            support.append(None)
        else:
            support.append(supported(word, heard))
            if not support[-1]:
                wanted = tuple(_wanted(word, words, references))
                found.append(Mistake("unsupported", place, word, wanted))
    return support, found + _missed(words, references)


def _wanted(word: str, words: Sequence[str], references: Sequence[Sequence[str]]) -> Iterable[str]:
    """Return words of the same class and kind that most references use and the caption lacks."""
    for other, name in _agreed(references, share=0.5):
        if name == _class(word, ()) and kinds(other) == kinds(word) and _lacks(words, other):
            yield other


def _missed(words: Sequence[str], references: Sequence[Sequence[str]]) -> list[Mistake]:
    """Return the things that all of two or more references name and the caption does not."""
    if len(references) < FEWEST:
        return []
    found: list[str] = []
    for word, name in _agreed(references, share=1 - 1e-9):
        if name == "thing" and _lacks((*words, *found), word):
            found.append(word)
    return [Mistake("missed", None, "", (word,)) for word in found]


def _lacks(words: Sequence[str], word: str) -> bool:
    return not any(related(word, said) for said in words if not is_quality(said))


def _agreed(references: Sequence[Sequence[str]], share: float) -> list[tuple[str, str]]:
    """Return words, and their classes, that more than a share of references use.

    Synonyms count as one word; the most frequent of them is returned.
    """
    spoken = Counter(word for reference in references for word in set(reference) if is_judged(word))
    kept: dict[str, str] = {}
    for word, _ in sorted(spoken.items(), key=lambda item: (-item[1], item[0])):
        if any(same(word, other) for other in kept):
            continue
        holding = sum(any(same(w, word) or broader(word, w) for w in r) for r in references)
        if holding > share * len(references):
            kept[word] = _class(word, spoken)
    return list(kept.items())


def _class(word: str, heard: Iterable[str]) -> str:
    """Return the word's class, with two more rules than `word_class`.

    Qualities are "quality". Verbs in -s that are in no list are "action" where the same verb occurs
    in -ing, as "shakes" beside "shaking".
    """
    name = word_class(word)
    if name != "thing":
        return name
    if word.endswith("s") and any(
        word_class(other) == "action" and other.endswith("ing") and lemmas(word) & lemmas(other)
        for other in heard
    ):
        return "action"
    return "quality" if is_quality(word) else name


def _repeated(words: Sequence[str], references: Sequence[Sequence[str]]) -> list[Mistake]:
    """Return words repeated in a row, and things named twice although no reference does so."""
    found: dict[int, Mistake] = {}
    covered: set[int] = set()
    for length in range(_LONGEST_REPEAT, 0, -1):
        for place in range(len(words)):
            span = words[place : place + length]
            if length == 1 and UNSPACED.search(words[place]):
                continue  # a doubled character is often one word
            after = place + length
            joined = after < len(words) and words[after] in _JOINTS
            for second in (after, after + 1) if joined and any(map(is_judged, span)) else (after,):
                again = set(range(second, second + length))
                if list(words[second : second + length]) == list(span) and not again & covered:
                    head = next((second + i for i, w in enumerate(span) if is_judged(w)), second)
                    found[head] = Mistake("repetition", head, words[head])
                    covered |= again
    for place, word in enumerate(words):
        if place in covered or not is_judged(word) or _class(word, ()) != "thing":
            continue
        earlier = any(lemmas(word) & lemmas(w) and _class(w, ()) == "thing" for w in words[:place])
        if references and earlier and not any(_names_twice(word, r) for r in references):
            found.setdefault(place, Mistake("repetition", place, word))
    return list(found.values())


def _names_twice(word: str, reference: Sequence[str]) -> bool:
    plural = any(p.number is not None and p.number[1] > 1 and p.head is not None
                 and related(word, reference[p.head]) for p in noun_phrases(reference))  # fmt: skip
    return plural or sum(related(word, other) for other in reference) > 1
