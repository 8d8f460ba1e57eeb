"""Where a model fails: every picture of a split is captioned, and what is found amiss is gathered.

The paper shows mistakes and where the model looked when it made them (Xu et al. 2015, figure 5);
here every mistake that text can tell is found, and nothing is chosen by hand.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from regard.captioner import Captioner, Failure
from regard.data.dataset import CaptionDataset, CaptionedItem, split_named
from regard.errors import ConfigError, DatasetError
from regard.metrics import ptb_tokenize
from regard.metrics.hallucination import hallucination, judge
from regard.metrics.noun_phrases import MISTAKES, Mistake
from regard.reliability.calibration import Reliability, reliability
from regard.text.words import (
    SpokenWord,
    is_judged,
    is_plural,
    lemmas,
    same,
    spoken_words,
    word_class,
)
from regard.types import Caption

KINDS = (*MISTAKES, "low confidence", "flat attention", "collapsed attention")
LOW_CONFIDENCE = 0.1
"""A content word below this probability is a finding."""
FLAT = 0.97
"""So is a content word whose attention has more than this share of the most entropy, log L."""
COLLAPSED = 0.9
"""And a caption of two words or more that all peak above this weight, all at one cell."""


@dataclass(frozen=True)
class Finding:
    """One thing amiss with one caption.

    Attributes:
        kind: one of `KINDS`.
        place: index into the picture's spoken words; None where no word of it is to blame.
        said: the word; "" without.
        wanted: what references say instead (`regard.metrics.noun_phrases.Mistake`).
        noun: whose count or colour it is; "" otherwise.
        severity: 0..1, by which findings of a kind are ranked: p(word), half of it where the
            references name nothing in its place; of what was missed the share of references with
            the word itself; 1 - p(word) of low confidence; entropy's share of log L; the least
            peak.
    """

    kind: str
    place: int | None
    said: str
    wanted: tuple[str, ...]
    noun: str
    severity: float

    @property
    def is_text(self) -> bool:
        """Whether it is a mistake of the text, no trait of confidence or attention."""
        return self.kind in MISTAKES

    @property
    def number(self) -> str:
        """The number that was said, in words or by the noun's form; of counts only."""
        if self.said != self.noun:
            return f"{self.said} {self.noun}"
        return self.noun if is_plural(self.noun) else f"one {self.noun}"


@dataclass(frozen=True)
class Audited:
    """One picture.

    Attributes:
        item: the picture and its references.
        caption: without its picture and runners-up.
        spoken: its words.
        support: for each word whether references support it; None where that was not judged.
        findings: in the order of `KINDS`.
    """

    item: CaptionedItem
    caption: Caption
    spoken: tuple[SpokenWord, ...]
    support: tuple[bool | None, ...]
    findings: tuple[Finding, ...]

    @property
    def mistakes(self) -> tuple[Finding, ...]:
        """The findings that are mistakes of the text."""
        return tuple(finding for finding in self.findings if finding.is_text)


@dataclass(frozen=True)
class Audit:
    """One model on one split.

    Attributes:
        settings: model, split, pictures, beam, and the thresholds.
        pictures: those that could be captioned.
        failures: reasons by key of the others.
    """

    settings: dict[str, Any]
    pictures: tuple[Audited, ...]
    failures: dict[str, str]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return by kind how many findings there are, and in how many pictures."""
        found = Counter(f.kind for one in self.pictures for f in one.findings)
        pictures = Counter(k for one in self.pictures for k in {f.kind for f in one.findings})
        return {kind: {"findings": found[kind], "pictures": pictures[kind]} for kind in KINDS}

    def hallucination(self) -> dict[str, float]:
        """Return `regard.metrics.hallucination.hallucination` of all pictures with references."""
        return hallucination(
            ([word.text for word in one.spoken], one.support)
            for one in self.pictures
            if one.item.captions
        )

    def reliability(self) -> Reliability:
        """Return how p(word) and support agree, over all judged words."""
        judged = [
            (min(1.0, math.exp(word.logprob)), ok)
            for one in self.pictures
            for word, ok in zip(one.spoken, one.support, strict=True)
            if ok is not None
        ]
        return reliability([p for p, _ in judged], [ok for _, ok in judged])

    def confusions(self) -> list[tuple[str, str, str, int]]:
        """Return (class, said, what most references say instead, pictures), the most first."""
        names = _OneForm()
        pairs = Counter(
            pair
            for one in self.pictures
            for pair in {
                (_class(f), f.number if f.kind == "count" else names(f.said), names(wanted))
                for f in one.findings
                if f.kind in ("unsupported", "colour", "count")
                for wanted in f.wanted
            }
        )
        return [(*pair, n) for pair, n in sorted(pairs.items(), key=lambda i: (-i[1], i[0]))]


class _OneForm:
    """Gives all inflections of a word the form that came first."""

    def __init__(self) -> None:
        self._forms: dict[str, str] = {}

    def __call__(self, word: str) -> str:
        known = next((self._forms[form] for form in lemmas(word) if form in self._forms), word)
        for form in lemmas(word):
            self._forms.setdefault(form, known)
        return known


def audit(
    captioner: Captioner,
    dataset: CaptionDataset,
    *,
    split: str = "val",
    limit: int = 0,
    beam: int = 3,
    report: Callable[[int, int], None] | None = None,
) -> Audit:
    """Caption a split and gather what is amiss.

    Args:
        captioner: the model.
        dataset: pictures and references.
        split: which part of it; synonyms and capitals mean what they mean in a file.
        limit: only the first so many pictures; 0 takes all.
        beam: beam width; 1 is greedy.
        report: is told (pictures done, all pictures).

    Raises:
        DatasetError: the split is empty.
        ConfigError: an option is out of range, or the model reads no pictures.
    """
    if limit < 0:
        raise ConfigError(f"limit is {limit}; it must be 0 or more.")
    if captioner.medium != "image":
        raise ConfigError(
            f"{captioner.name!r} captions {captioner.medium}s, and an audit knows pictures only."
        )
    split = split_named(split)
    items = dataset.split(split).items[: limit or None]
    if not items:
        known = sorted({item.split or "(none)" for item in dataset})
        raise DatasetError(
            f"{dataset.source} has no picture of the split {split!r}; it has {', '.join(known)}."
        )
    pictures: list[Audited] = []
    failures: dict[str, str] = {}
    results = captioner.caption_many((item.file for item in items), beam=beam)
    for done, (item, result) in enumerate(zip(items, results, strict=True), 1):
        if isinstance(result, Failure):
            failures[item.key] = str(result.error)
        else:
            pictures.append(examine(item, result))
        if report is not None:
            report(done, len(items))
    settings = {"model": captioner.name, "split": split, "pictures": len(pictures), "beam": beam,
                "low_confidence": LOW_CONFIDENCE, "flat": FLAT, "collapsed": COLLAPSED}  # fmt: skip
    return Audit(settings, tuple(pictures), failures)


def examine(item: CaptionedItem, caption: Caption) -> Audited:
    """Find what is amiss with one caption.

    Args:
        item: the picture's references; without any only the caption itself is examined.
        caption: its picture is not needed, and is not kept.
    """
    spoken = spoken_words(caption)
    references = [ptb_tokenize(reference) for reference in item.captions]
    judgement = judge([word.text for word in spoken], references)
    findings = [_mistake(mistake, spoken, references) for mistake in judgement.mistakes]
    findings += _confidence(spoken) + _attention(caption, spoken)
    light = replace(caption, media=None, n_best=())
    return Audited(item, light, spoken, judgement.support, tuple(findings))


def _mistake(
    mistake: Mistake, spoken: Sequence[SpokenWord], references: Sequence[Sequence[str]]
) -> Finding:
    if mistake.place is None:
        word = mistake.wanted[0]
        severity = sum(any(same(word, w) for w in r) for r in references) / len(references)
    else:
        severity = min(1.0, math.exp(spoken[mistake.place].logprob))
        if not mistake.wanted and mistake.kind != "repetition":
            severity /= 2
    return Finding(
        mistake.kind, mistake.place, mistake.said, mistake.wanted, mistake.noun, severity
    )


def _confidence(spoken: Sequence[SpokenWord]) -> list[Finding]:
    return [
        Finding("low confidence", place, word.text, (), "", 1 - math.exp(word.logprob))
        for place, word in enumerate(spoken)
        if is_judged(word.text.lower()) and word.logprob < math.log(LOW_CONFIDENCE)
    ]


def _attention(caption: Caption, spoken: Sequence[SpokenWord]) -> list[Finding]:
    cells = caption.grid.cells
    if cells < 2 or not spoken:
        return []  # over one cell attention has no choice
    found: list[Finding] = []
    for place, word in enumerate(spoken):
        share = caption.words[word.first].entropy / math.log(cells)
        if is_judged(word.text.lower()) and share > FLAT:
            found.append(Finding("flat attention", place, word.text, (), "", min(1.0, share)))
    peaks = np.array([word.peak for word in caption.words])
    at = {int(word.alpha.argmax()) for word in caption.words}
    if len(peaks) > 1 and len(at) == 1 and peaks.min() > COLLAPSED:
        found.append(Finding("collapsed attention", None, "", (), "", float(peaks.min())))
    return found


def _class(finding: Finding) -> str:
    return "number" if finding.kind == "count" else word_class(finding.said.lower())
