"""Rule-made text on real scans: facts to captions, and captions back to facts.

A caption states every fact once, in nine sentences. The first gives the volume of the whole; the
others follow in four pairs, in either order within a pair; each has several wordings. A *clause* is
the part of a sentence that states one fact, with a gap for its class. No two facts share a clause,
so `stated_facts` reads the facts back by searching for clauses, in a model's text as well.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from projects.hippocampus.facts import FACTS, Thresholds

CONTRADICTION = "contradiction"
"""The class of a fact with two different statements in a text."""
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(frozen=True)
class Clause:
    """One way to state one fact.

    Attributes:
        fact: its name.
        text: its text, with `{}` in place of the class.
        classes: what stands there, by class in the fact's own order; empty: the range of
            numbers, "under 10", "10 to 20" or "over 20".
        digits: digits of the numbers of a range; percent: 1.1 is written as 10.
        percent: see `digits`.
    """

    fact: str
    text: str
    classes: tuple[str, ...] = ()
    digits: int = 0
    percent: bool = False

    def gaps(self, thresholds: tuple[float, ...]) -> tuple[str, ...]:
        """Return the text for the gap, by class."""
        if self.classes:
            return self.classes
        values = [100 * (t - 1) if self.percent else t for t in thresholds]
        numbers = [f"{value:.{self.digits}f}" for value in values]
        between = [f"{a} to {b}" for a, b in itertools.pairwise(numbers)]
        return (f"under {numbers[0]}", *between, f"over {numbers[-1]}")


_SIZES = ("small", "medium-sized", "large")
_TILT = ("gently", "moderately", "steeply")
_DROP = ("a little", "well", "far")
_TURN = ("hardly", "somewhat", "far")
_MEETING = ("far to the front", "before the middle", "near the middle")
_SURFACE = ("rough", "fairly smooth", "smooth")
_SHADES = ("darker than", "as bright as", "brighter than")
_ENDS = ("posterior", "anterior")

SENTENCES: tuple[tuple[tuple[Clause | str, ...], ...], ...] = (
    (
        (Clause("volume", "a {} hippocampus", _SIZES),),
        (Clause("volume", "a hippocampus of {} mm3"),),
        (Clause("volume", "the hippocampus is {}", _SIZES),),
    ),
    (
        (
            Clause("anterior_volume", "its anterior part is {}", _SIZES),
            "and",
            Clause("posterior_volume", "its posterior part is {}", _SIZES),
        ),
        (
            Clause("anterior_volume", "the anterior part takes {} mm3"),
            "and",
            Clause("posterior_volume", "the posterior part takes {} mm3"),
        ),
        (
            Clause("anterior_volume", "it has a {} anterior part", _SIZES),
            "and",
            Clause("posterior_volume", "a {} posterior part", _SIZES),
        ),
    ),
    (
        (
            Clause("larger_part", "the {} part is the larger one", _ENDS),
            Clause("margin", "by {} percent", percent=True),
        ),
        (
            Clause("larger_part", "the {} part outweighs the other", _ENDS),
            Clause("margin", "by a {} margin", ("slight", "moderate", "great")),
        ),
    ),
    (
        (
            "it is",
            Clause("length", "{}", ("short", "of medium length", "long")),
            Clause("breadth", "{}", ("narrow", "of medium breadth", "broad")),
            "and",
            Clause("height", "{}", ("low", "of medium height", "tall")),
        ),
        (
            "it measures",
            Clause("length", "{} mm from back to front"),
            Clause("breadth", "{} mm from left to right"),
            "and",
            Clause("height", "{} mm from bottom to top"),
        ),
    ),
    (
        (
            "its axis is",
            Clause("tilt", "{} tilted", _TILT),
            "and",
            Clause("drop", "the anterior part lies {} below the posterior part", _DROP),
            "and",
            Clause("turn", "{} to its right", _TURN),
        ),
        (
            "its axis",
            Clause("tilt", "falls {} to the front", _TILT),
            "with",
            Clause("drop", "the anterior centre {} lower", _DROP),
            "and",
            Clause("turn", "{} more to the right", _TURN),
        ),
    ),
    (
        (Clause("border", "the parts meet {}", _MEETING),),
        (Clause("border", "the border between the parts lies {}", _MEETING),),
    ),
    (
        (
            "the whole is",
            Clause("elongation", "{}", ("stocky", "moderately elongated", "slender")),
            "and",
            Clause("flatness", "{} in cross section", ("round", "oval", "flat")),
            "with",
            Clause("surface", "a {} surface", _SURFACE),
        ),
        (
            "in shape it is",
            Clause("elongation", "{}", ("stocky", "moderately elongated", "slender")),
            "with",
            Clause("flatness", "a {} cross section", ("round", "oval", "flat")),
            "and",
            Clause("surface", "its surface is {}", _SURFACE),
        ),
    ),
    (
        (Clause("brightness", "the anterior part is {} the posterior part", _SHADES),),
        (Clause("brightness", "the anterior part looks {} the posterior one", _SHADES),),
    ),
    (
        (
            "it stands out",
            Clause("contrast", "{} against its surroundings", ("strongly", "moderately", "weakly")),
            "and is",
            Clause("texture", "{} inside", ("even", "slightly uneven", "uneven")),
        ),
        (
            Clause("contrast", "its surroundings differ {}", ("strongly", "moderately", "weakly")),
            "and",
            Clause("texture", "its intensity is {}", ("even", "slightly uneven", "uneven")),
        ),
    ),
)
"""For every sentence its wordings: clauses and the words between them."""

_FACTS = {fact.name: fact for fact in FACTS}


def write_caption(classes: Mapping[str, str], thresholds: Thresholds, draw: random.Random) -> str:
    """Write one caption.

    Args:
        classes: every fact's class.
        thresholds: that the classes were made with; some wordings name them.
        draw: chooses wordings and the order within pairs of sentences.
    """
    first, *others = (_sentence(draw.choice(ways), classes, thresholds) for ways in SENTENCES)
    # Not shuffled as a whole: with sentences in free order a small model lost track of what it
    # had already said in a caption of 100 words.
    for at in range(0, len(others), 2):
        if draw.random() < 0.5:
            others[at : at + 2] = reversed(others[at : at + 2])
    return ", ".join((first, *others))


def _sentence(
    parts: tuple[Clause | str, ...], classes: Mapping[str, str], thresholds: Thresholds
) -> str:
    said: list[str] = []
    for part in parts:
        if isinstance(part, Clause):
            at = _FACTS[part.fact].classes.index(classes[part.fact])
            part = part.text.format(part.gaps(thresholds[part.fact])[at])
        said.append(part)
    return " ".join(said)


def stated_facts(text: str, thresholds: Thresholds) -> dict[str, str]:
    """Return the class that a text states, for every fact that it mentions.

    A fact with two different statements has the class `CONTRADICTION`.

    >>> stated_facts("a large hippocampus, flat in cross section", EXAMPLE)
    {'volume': 'large', 'flatness': 'flat'}
    """
    text = _normalised(text)
    found: dict[str, str] = {}
    for fact, pattern, by_gap in _patterns(tuple(sorted(thresholds.items()))):
        for match in pattern.finditer(text):
            said = by_gap[match[1]]
            found[fact] = said if found.setdefault(fact, said) == said else CONTRADICTION
    return found


EXAMPLE: Thresholds = {
    fact.name: fact.fixed or tuple(float(i) for i in range(1, len(fact.classes))) for fact in FACTS
}
"""Thresholds for tests and examples; those of a data set are in its `facts.json`."""


def _normalised(text: str) -> str:
    """Return lower-case words without punctuation, with one space between them."""
    return " ".join(_WORD.findall(text.lower()))


@lru_cache(maxsize=16)
def _patterns(
    thresholds: tuple[tuple[str, tuple[float, ...]], ...],
) -> list[tuple[str, re.Pattern[str], dict[str, str]]]:
    """Return (fact, pattern whose first group is the gap, class by gap) of every clause."""
    cuts = dict(thresholds)
    made: list[tuple[str, re.Pattern[str], dict[str, str]]] = []
    clauses = {p for ways in SENTENCES for way in ways for p in way if isinstance(p, Clause)}
    order = {fact.name: i for i, fact in enumerate(FACTS)}
    for clause in sorted(clauses, key=lambda c: (order[c.fact], c.text)):
        gaps = [_normalised(gap) for gap in clause.gaps(cuts[clause.fact])]
        longest_first = sorted(gaps, key=len, reverse=True)  # "slightly uneven" before "uneven"
        before, after = (_normalised(side) for side in clause.text.split("{}"))
        words = (re.escape(before), f"({'|'.join(map(re.escape, longest_first))})",
                 re.escape(after))  # fmt: skip
        pattern = r"(?<!\S)" + r"\ ".join(filter(None, words)) + r"(?!\S)"
        classes = _FACTS[clause.fact].classes
        made.append((clause.fact, re.compile(pattern), dict(zip(gaps, classes, strict=True))))
    return made
