"""One front for the caption metrics; the arithmetic is pycocoevalcap's."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regard.errors import DatasetError, MissingExtra, UnknownName
from regard.metrics import java
from regard.metrics.tokenize import tokenize_captions

METRICS = ("bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l", "cider_d")
"""The usual metrics in the usual order; `spice` joins them where its files are there."""

Tokenized = dict[str, list[str]]


@dataclass(frozen=True)
class Scores:
    """Corpus scores and how they came about.

    Attributes:
        values: score × 100 by metric.
        missing: why a metric that was asked for has no value.
        settings: `tokenizer` ("ptb", "python" or "none"), `references` (captions a picture is
            compared with: a number, or [least, most] where it varies), `pictures`.
    """

    values: dict[str, float]
    missing: dict[str, str]
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; a missing metric's score is None."""
        return {
            "scores": self.values | dict.fromkeys(self.missing),
            "missing": self.missing,
            "settings": self.settings,
        }


def score_captions(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    tokenizer: str = "auto",
    names: Sequence[str] | None = None,
) -> Scores:
    """Score one caption per picture against its references, as coco-caption does.

    CIDEr-D takes its document frequencies from these references, so its value on a subset of
    a split is not comparable with its value on the whole.

    Args:
        candidates: caption by picture; "" where there is none.
        references: reference captions by picture; the same pictures.
        tokenizer: "ptb" (Java), "python" (the same tokens without Java), "auto" (ptb where
            Java is there), or "none" (captions are tokens joined by spaces already).
        names: metrics wanted; None takes all that can run here and lists the others of
            `METRICS` as missing.

    Raises:
        DatasetError: the pictures of both differ, or one has no reference.
        UnknownName: a metric or the tokenizer does not exist.
        ConfigError: the tokenizer cannot run here.
        MissingExtra: pycocoevalcap is absent.

    >>> scores = score_captions({"a.jpg": "A man speaks."}, {"a.jpg": ["a man speaks"]},
    ...                         tokenizer="python", names=["bleu1", "rouge_l"])
    >>> {name: round(value, 3) for name, value in scores.values.items()}
    {'bleu1': 100.0, 'rouge_l': 100.0}
    """
    wanted = _wanted(names)
    _check(candidates, references)
    flat = [c for refs in references.values() for c in refs] + [candidates[k] for k in references]
    tokens, used = tokenize_captions(flat, tokenizer)
    texts = iter([" ".join(caption) for caption in tokens])
    gts: Tokenized = {key: [next(texts) for _ in refs] for key, refs in references.items()}
    res: Tokenized = {key: [next(texts)] for key in references}
    values: dict[str, float] = {}
    missing: dict[str, str] = {}
    for family, scorer in _SCORERS.items():
        if not any(name.startswith(family) for name in wanted):
            continue
        try:
            values |= {name: 100.0 * value for name, value in scorer(gts, res).items()}
        except java.JavaUnavailable as error:
            missing[family] = f"{error}."
    counts = {len(refs) for refs in references.values()}
    count = counts.pop() if len(counts) == 1 else [min(counts), max(counts)]
    return Scores(
        {name: values[name] for name in wanted if name in values},
        missing,
        {"tokenizer": used, "references": count, "pictures": len(references)},
    )


def check_scorers(tokenizer: str = "auto") -> None:
    """Raise now what `score_captions` would raise of a missing package or tokenizer.

    Raises:
        UnknownName: the tokenizer does not exist.
        ConfigError: the tokenizer cannot run here.
        MissingExtra: pycocoevalcap is absent.
    """
    if importlib.util.find_spec("pycocoevalcap") is None:
        raise _missing()
    tokenize_captions(["a"], tokenizer)


def _wanted(names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return (*METRICS, "spice") if java.spice_installed() else METRICS
    for name in names:
        if name not in (*METRICS, "spice"):
            raise UnknownName("metric", name, (*METRICS, "spice"))
    return tuple(names)


def _check(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    if not references:
        raise DatasetError("there is nothing to score: no picture has references.")
    different = sorted(candidates.keys() ^ references.keys())
    if different:
        raise DatasetError(
            f"{len(different)} pictures have a caption or references but not both, the first: "
            f"{', '.join(different[:3])}. Score one caption per picture of one split."
        )
    bare = [key for key, refs in references.items() if isinstance(refs, str) or not refs]
    if bare:
        raise DatasetError(
            f"{len(bare)} pictures have no list of references, the first: {', '.join(bare[:3])}. "
            "Give each at least one caption."
        )


def _bleu(gts: Tokenized, res: Tokenized) -> dict[str, float]:
    try:
        from pycocoevalcap.bleu.bleu import Bleu
    except ImportError as error:
        raise _missing() from error
    values, _ = Bleu(4).compute_score(gts, res, verbose=0)
    return {f"bleu{n}": float(value) for n, value in enumerate(values, 1)}


def _meteor(gts: Tokenized, res: Tokenized) -> dict[str, float]:
    return {"meteor": java.meteor([res[key][0] for key in gts], list(gts.values()))}


def _rouge_l(gts: Tokenized, res: Tokenized) -> dict[str, float]:
    try:
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise _missing() from error
    return {"rouge_l": float(Rouge().compute_score(gts, res)[0])}


def _cider_d(gts: Tokenized, res: Tokenized) -> dict[str, float]:
    try:
        from pycocoevalcap.cider.cider import Cider  # CIDEr-D, in spite of its name
    except ImportError as error:
        raise _missing() from error
    return {"cider_d": float(Cider().compute_score(gts, res)[0])}


def _spice(gts: Tokenized, res: Tokenized) -> dict[str, float]:
    return {"spice": java.spice([res[key][0] for key in gts], list(gts.values()))}


def _missing() -> MissingExtra:
    return MissingExtra("pycocoevalcap", "metrics", "scoring captions")


_SCORERS: dict[str, Callable[[Tokenized, Tokenized], dict[str, float]]] = {
    "bleu": _bleu,
    "meteor": _meteor,
    "rouge_l": _rouge_l,
    "cider_d": _cider_d,
    "spice": _spice,
}
