"""Corpus scores of captions, computed by pycocoevalcap."""

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regard.errors import DatasetError, MissingExtra, UnknownName, needs_extra
from regard.metrics import java
from regard.metrics.tokenize import tokenize_captions
from regard.text.vocabulary import Vocabulary, words_of

METRICS = ("bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l", "cider_d")
"""The usual metrics in the usual order; `spice` is added where its files are installed."""

Tokenized = dict[str, list[str]]
_PURPOSE = "scoring captions"
_FAMILIES = {
    "bleu": ("bleu.bleu", "Bleu"),
    "meteor": ("", ""),  # a Java program, as is spice
    "rouge_l": ("rouge.rouge", "Rouge"),
    "cider_d": ("cider.cider", "Cider"),  # CIDEr-D, in spite of its name
    "spice": ("", ""),
}
"""Module of pycocoevalcap and class by family of metrics, in the order of work."""
_ENGLISH = ("meteor", "spice")
_OF_ENGLISH = "a an the and with is are of in on at to his her their two man woman person people"
_OF_OTHERS = (
    "ein eine einem einen einer der das und mit auf im ist zwei mann frau "  # German
    "un une le la les des et dans avec sur est deux homme femme "  # French
    "una el los las y con en de del hombre mujer dos perro "  # Spanish
    "di che gli della nel uomo donna due um uma os em com homem mulher dois "  # Italian, Portuguese
    "een het van met op twee vrouw ett och på med som hund kvinde kvinna mies ja "  # and others
    "jest na się i w z"
)
_READ = 2000  # references at most
_ENOUGH, _FEWEST = 40, 0.05  # words, and the share of English ones among them
_MOST_FOREIGN = 0.05  # share of letters outside ASCII


@dataclass(frozen=True)
class Scores:
    """Corpus scores and how they were computed.

    Attributes:
        values: score × 100 by metric.
        missing: reason by requested metric without a value.
        settings: `tokenizer` (what `tokenize_captions` used), `references` (references per picture:
            a number, or [least, most] where it varies), `pictures`.
    """

    values: dict[str, float]
    missing: dict[str, str]
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; a missing metric's score is None."""
        scores = self.values | dict.fromkeys(self.missing)
        return {"scores": scores, "missing": self.missing, "settings": self.settings}


def score_captions(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    tokenizer: str = "auto",
    names: Sequence[str] | None = None,
    vocabulary: Vocabulary | None = None,
) -> Scores:
    """Score one caption per picture against its references, as coco-caption does.

    CIDEr-D takes its document frequencies from these references, so its value on a subset of
    a split is not comparable with its value on the whole.

    Args:
        candidates: caption by picture; "" where it failed.
        references: reference captions by picture; the same pictures.
        tokenizer: "ptb" (Java), "python" (the same tokens without Java), "auto" (ptb where
            Java is installed), "model" (the tokens of `vocabulary` where they are characters or
            BPE pieces, else auto), or "none" (captions are tokens joined by spaces already).
            Languages without spaces are cut into characters.
        names: requested metrics; None takes all that can run here and lists the others of
            `METRICS` as missing. METEOR and SPICE are missing for other languages than English.
        vocabulary: of the model, for "model".

    Raises:
        DatasetError: candidates and references are of different pictures, or a picture has no
            reference.
        UnknownName: a metric or the tokenizer does not exist.
        ConfigError: the tokenizer cannot run here.
        MissingExtra: pycocoevalcap is not installed.

    >>> scores = score_captions({"a.jpg": "A man speaks."}, {"a.jpg": ["a man speaks"]},
    ...                         tokenizer="python", names=["bleu1", "rouge_l"])
    >>> {name: round(value, 3) for name, value in scores.values.items()}
    {'bleu1': 100.0, 'rouge_l': 100.0}
    """
    requested = _requested(names)
    _check(candidates, references)
    flat = [c for refs in references.values() for c in refs] + [candidates[k] for k in references]
    tokens, used = tokenize_captions(flat, tokenizer, vocabulary)
    texts = iter([" ".join(caption) for caption in tokens])
    gts: Tokenized = {key: [next(texts) for _ in refs] for key, refs in references.items()}
    res: Tokenized = {key: [next(texts)] for key in references}
    values: dict[str, float] = {}
    missing: dict[str, str] = {}
    for family in _FAMILIES:
        if not any(name.startswith(family) for name in requested):
            continue
        if family in _ENGLISH and (reason := _not_english(references, used)):
            missing[family] = reason
            continue
        try:
            values |= {name: 100.0 * value for name, value in _score(family, gts, res).items()}
        except java.JavaUnavailable as error:
            missing[family] = f"{error}."
    counts = {len(refs) for refs in references.values()}
    count = counts.pop() if len(counts) == 1 else [min(counts), max(counts)]
    return Scores(
        {name: values[name] for name in requested if name in values},
        missing,
        {"tokenizer": used, "references": count, "pictures": len(references)},
    )


def _not_english(references: Mapping[str, Sequence[str]], tokenizer: str) -> str:
    """Return why a metric for English does not apply; "" if it does."""
    if tokenizer.startswith("the model's"):
        return f"it compares English words, and the captions are cut into {tokenizer}."
    texts = [text for some in references.values() for text in some]
    words = [word for text in texts[:: 1 + len(texts) // _READ] for word in words_of(text)]
    letters = [letter for word in words for letter in word if letter.isalpha()]
    known = [frozenset(text.split()) for text in (_OF_ENGLISH, _OF_OTHERS)]
    english, other = (sum(word in listed for word in words) for listed in known)
    foreign = sum(not letter.isascii() for letter in letters)
    few = len(words) >= _ENOUGH and english < _FEWEST * len(words)
    if few or other > english or foreign > _MOST_FOREIGN * len(letters):
        return "it is for English, and the references seem to be in another language."
    return ""


def check_scorers(tokenizer: str = "auto") -> None:
    """Check the package and the tokenizer that `score_captions` needs.

    Raises:
        UnknownName: the tokenizer does not exist.
        ConfigError: the tokenizer cannot run here.
        MissingExtra: pycocoevalcap is not installed.
    """
    if importlib.util.find_spec("pycocoevalcap") is None:
        raise MissingExtra("pycocoevalcap", "metrics", _PURPOSE)
    tokenize_captions(["a"], tokenizer)


def _requested(names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return (*METRICS, "spice") if java.spice_installed() else METRICS
    for name in names:
        if name not in (*METRICS, "spice"):
            raise UnknownName("metric", name, (*METRICS, "spice"))
    return tuple(names)


def _check(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    if not references:
        raise DatasetError("Nothing to score: no picture has references.")
    different = sorted(candidates.keys() ^ references.keys())
    if different:
        raise DatasetError(
            f"{len(different)} pictures have a caption or references but not both, such as "
            f"{', '.join(different[:3])}. Score one caption per picture of one split."
        )
    bare = [key for key, refs in references.items() if isinstance(refs, str) or not refs]
    if bare:
        raise DatasetError(
            f"{len(bare)} pictures have no list of references, such as {', '.join(bare[:3])}. Give "
            "each at least one caption."
        )


def _score(family: str, gts: Tokenized, res: Tokenized) -> dict[str, float]:
    """Return the values of a family of metrics: of "bleu" four, else one.

    Args:
        family: one of `_FAMILIES`.
        gts: the references of each picture.
        res: the caption of each picture.
    """
    if family in ("meteor", "spice"):
        scorer = java.meteor if family == "meteor" else java.spice
        return {family: scorer([res[key][0] for key in gts], list(gts.values()))}
    module, name = _FAMILIES[family]
    with needs_extra("pycocoevalcap", "metrics", _PURPOSE):
        scorer = getattr(importlib.import_module(f"pycocoevalcap.{module}"), name)
    if family == "bleu":
        values, _ = scorer(4).compute_score(gts, res, verbose=0)
        return {f"bleu{n}": float(value) for n, value in enumerate(values, 1)}
    return {family: float(scorer().compute_score(gts, res)[0])}
