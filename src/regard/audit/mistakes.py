"""Audit of a model: caption every picture of a split and collect the mistakes.

The paper shows mistakes and where the model looked when it made them (Xu et al. 2015, figure 5).
Here every mistake that the text reveals is listed; none is picked by hand.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from regard.captioner import Captioner
from regard.data.dataset import CaptionDataset, CaptionedItem, split_named
from regard.errors import ConfigError
from regard.metrics.hallucination import hallucination, judge
from regard.metrics.noun_phrases import MISTAKES, Mistake
from regard.metrics.split_evaluation import split_items, succeeding
from regard.metrics.tokenize import reference_words
from regard.reliability.calibration import Reliability, reliability
from regard.text import words
from regard.text.vocabulary import Vocabulary
from regard.types import Caption

KINDS = (*MISTAKES, "low confidence", "flat attention", "collapsed attention")
LOW_CONFIDENCE = 0.1
"""Probability below which a content word is a finding."""
FLAT = 0.97
"""Share of the largest entropy, log L, above which a content word's attention is a finding."""
COLLAPSED = 0.9
"""Weight above which all words of a caption must peak at one cell to be a finding."""


@dataclass(frozen=True)
class Finding:
    """One mistake of a caption, or one suspicious trait.

    Attributes:
        kind: one of `KINDS`.
        place: index into the picture's spoken words; None where no word is concerned.
        said: the word; "" without.
        wanted: the references' words in its place (`regard.metrics.noun_phrases.Mistake`).
        noun: the noun that the count or colour belongs to; "" otherwise.
        severity: 0..1, ranks the findings of a kind: p(word), halved where the references
            name nothing in its place; for a missed thing the share of references with that
            word; 1 - p(word) for low confidence; entropy / log L; the lowest peak.
    """

    kind: str
    place: int | None
    said: str
    wanted: tuple[str, ...]
    noun: str
    severity: float

    @property
    def is_text(self) -> bool:
        """Whether it is a mistake in the text rather than in confidence or attention."""
        return self.kind in MISTAKES

    @property
    def number(self) -> str:
        """The number in the caption, as a word or by the noun's form; of counts only."""
        if self.said != self.noun:
            return f"{self.said} {self.noun}"
        return self.noun if words.is_plural(self.noun) else f"one {self.noun}"


@dataclass(frozen=True)
class AuditedPicture:
    """One picture with its caption and findings.

    Attributes:
        item: the picture and its references.
        caption: without its pixels and runners-up.
        spoken: its words.
        support: for each word whether references support it; None where it was not judged.
        findings: in the order of `KINDS`.
    """

    item: CaptionedItem
    caption: Caption
    spoken: tuple[words.SpokenWord, ...]
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
        settings: model, split, pictures, beam, tokens (words or characters), and the thresholds.
        pictures: those that could be captioned.
        failures: reasons by key of the other pictures.
    """

    settings: dict[str, Any]
    pictures: tuple[AuditedPicture, ...]
    failures: dict[str, str]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of findings, and of pictures with findings, by kind."""
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
        """Return the calibration of p(word) against support, over all judged words."""
        judged = [
            (min(1.0, math.exp(word.logprob)), ok)
            for one in self.pictures
            for word, ok in zip(one.spoken, one.support, strict=True)
            if ok is not None
        ]
        return reliability([p for p, _ in judged], [ok for _, ok in judged])

    def confusions(self) -> list[tuple[str, str, str, int]]:
        """Return (class, word, most references' word, pictures), most frequent first."""
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
    """Maps all inflections of a word to the form that occurred first."""

    def __init__(self) -> None:
        self._forms: dict[str, str] = {}

    def __call__(self, word: str) -> str:
        known = next(
            (self._forms[form] for form in words.lemmas(word) if form in self._forms), word
        )
        for form in words.lemmas(word):
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
    """Caption a split and collect the findings.

    Args:
        captioner: the model.
        dataset: pictures and references.
        split: part of the dataset; synonyms and capitals are resolved as in a file.
        limit: number of pictures; 0 takes all.
        beam: beam width; 1 is greedy.
        report: called with (pictures done, all pictures).

    Raises:
        DatasetError: the split is empty.
        ConfigError: an option is out of range, or the model is not one of pictures.
    """
    if captioner.medium != "image":
        raise ConfigError(
            f"{captioner.name!r} captions {captioner.medium}s, but an audit is of pictures only."
        )
    items = split_items(dataset, split, limit)
    failures: dict[str, str] = {}
    results = captioner.caption_many((item.file for item in items), beam=beam)
    captioned = succeeding(items, results, failures, report)
    known = captioner.vocabulary
    pictures = tuple(examine(item, caption, known) for item, caption in captioned)
    settings = {
        "model": captioner.name, "split": split_named(split), "pictures": len(pictures),
        "beam": beam, "tokens": _tokens(items), "low_confidence": LOW_CONFIDENCE,
        "flat": FLAT, "collapsed": COLLAPSED,
    }  # fmt: skip
    return Audit(settings, pictures, failures)


def _tokens(items: Sequence[CaptionedItem]) -> str:
    """Return what captions and references are compared by."""
    unspaced = any(words.UNSPACED.search(text) for item in items for text in item.captions)
    return "characters" if unspaced else "words"


def examine(
    item: CaptionedItem, caption: Caption, vocabulary: Vocabulary | None = None
) -> AuditedPicture:
    """Return a picture with the findings on its caption.

    Args:
        item: with references; without any only the caption itself is examined.
        caption: its pixels are neither needed nor kept.
        vocabulary: of the model; languages without spaces are compared by its tokens.
    """
    spoken = words.judged_words(caption)
    references = [reference_words(reference, vocabulary) for reference in item.captions]
    judgement = judge([word.text for word in spoken], references)
    findings = [_mistake(mistake, spoken, references) for mistake in judgement.mistakes]
    findings += _confidence(spoken) + _attention(caption, spoken)
    light = replace(caption, media=None, n_best=())
    return AuditedPicture(item, light, spoken, judgement.support, tuple(findings))


def _mistake(
    mistake: Mistake, spoken: Sequence[words.SpokenWord], references: Sequence[Sequence[str]]
) -> Finding:
    if mistake.place is None:
        word = mistake.wanted[0]
        severity = sum(any(words.same(word, w) for w in r) for r in references) / len(references)
    else:
        severity = min(1.0, math.exp(spoken[mistake.place].logprob))
        if not mistake.wanted and mistake.kind != "repetition":
            severity /= 2
    return Finding(
        mistake.kind, mistake.place, mistake.said, mistake.wanted, mistake.noun, severity
    )


def _confidence(spoken: Sequence[words.SpokenWord]) -> list[Finding]:
    return [
        Finding("low confidence", place, word.text, (), "", 1 - math.exp(word.logprob))
        for place, word in enumerate(spoken)
        if words.is_judged(word.text.lower()) and word.logprob < math.log(LOW_CONFIDENCE)
    ]


def _attention(caption: Caption, spoken: Sequence[words.SpokenWord]) -> list[Finding]:
    cells = caption.grid.cells
    if cells < 2 or not spoken:
        return []  # with one cell attention has no choice
    found: list[Finding] = []
    for place, word in enumerate(spoken):
        share = caption.words[word.first].entropy / math.log(cells)
        if words.is_judged(word.text.lower()) and share > FLAT:
            found.append(Finding("flat attention", place, word.text, (), "", min(1.0, share)))
    peaks = np.array([word.peak for word in caption.words])
    at = {int(word.alpha.argmax()) for word in caption.words}
    if len(peaks) > 1 and len(at) == 1 and peaks.min() > COLLAPSED:
        found.append(Finding("collapsed attention", None, "", (), "", float(peaks.min())))
    return found


def _class(finding: Finding) -> str:
    return "number" if finding.kind == "count" else words.word_class(finding.said.lower())
