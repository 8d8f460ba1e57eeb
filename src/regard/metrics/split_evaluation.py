"""Scores of a model on a whole split, and published scores for comparison."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from regard.captioner import Captioner, Failure
from regard.config import DecodingConfig
from regard.config.io import to_dict
from regard.data.dataset import CaptionDataset, CaptionedItem, split_named
from regard.errors import ConfigError, DatasetError
from regard.media import medium_of
from regard.metrics.hallucination import judge
from regard.metrics.scores import Scores, check_scorers, score_captions
from regard.metrics.statistics import CaptionStatistics, caption_statistics
from regard.metrics.tokenize import reference_words
from regard.reliability.calibration import Judged
from regard.text.vocabulary import SPECIALS
from regard.text.words import SpokenWord, judged_words
from regard.types import Caption


@dataclass(frozen=True)
class EvaluationResult:
    """Scores of one model on one split.

    Attributes:
        scores: with the missing metrics and the settings of the scorers.
        captions: text by item key; "" where the picture failed.
        settings: model, split, beam, context, and those of the scorers.
        failures: reason by item key.
        statistics: statistics of the captions of pictures that did not fail.
        judged: for each of these the words that references can support.
    """

    scores: Scores
    captions: dict[str, str]
    settings: dict[str, Any]
    failures: dict[str, str]
    statistics: CaptionStatistics
    judged: tuple[Judged, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; a metric without a value is None, its reason in `missing`."""
        return self.scores.to_json() | {
            "captions": self.captions,
            "failures": self.failures,
            "settings": self.settings,
            "statistics": self.statistics.to_json(),
        }


def evaluate(
    captioner: Captioner,
    dataset: CaptionDataset,
    *,
    split: str = "val",
    beam: int = 3,
    context: str = "expected",
    decoding: DecodingConfig | None = None,
    limit: int = 0,
    tokenizer: str = "auto",
    batch_size: int = 50,
    report: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Caption every picture (clip, scan) of a split once and score the captions.

    A model of pictures captions clips frame by frame (`Captioner.for_clips`), as `regard caption`
    does. A picture that fails is scored as an empty caption, so that no model gains by failing.

    Args:
        captioner: the model; a model of pictures also takes clips.
        dataset: pictures and references.
        split: part of the dataset; synonyms and capitals are resolved as in a file.
        beam: beam width; 1 is greedy.
        context: how hard attention forms the context: "expected", "sample" or "argmax".
        decoding: length penalty and blocking of n-grams; None: the model's own.
        limit: number of pictures; 0 takes all.
        tokenizer: see `score_captions`; "auto" takes the model's own tokens if they are
            characters or BPE pieces.
        batch_size: pictures at a time.
        report: called with (pictures done, pictures).

    Raises:
        DatasetError: the split is empty.
        UnknownName: the tokenizer does not exist.
        ConfigError: the tokenizer cannot run here, or beam, context or limit is out of range.
        MissingExtra: pycocoevalcap is not installed.
    """
    items = split_items(dataset, split, limit)
    check_scorers(tokenizer)  # now, not after an hour of captioning
    if medium_of(items[0].file) == "video" and captioner.medium == "image":
        captioner = captioner.for_clips()
    captions = {item.key: "" for item in items}
    failures: dict[str, str] = {}
    spoken: dict[str, Sequence[SpokenWord]] = {}
    options: dict[str, Any] = {"beam": beam, "context": context}
    options |= to_dict(decoding or captioner.config.decoding)
    files = (item.file for item in items)
    results = captioner.accelerated(len(items)).caption_many(
        files, batch_size=batch_size, keep_pixels=False, **options
    )
    for item, caption in succeeding(items, results, failures, report):
        captions[item.key], spoken[item.key] = caption.text, judged_words(caption)
    references = {item.key: list(item.captions) for item in items}
    scores = score_captions(
        captions,
        references,
        tokenizer="model" if tokenizer == "auto" else tokenizer,
        vocabulary=captioner.vocabulary,
    )
    settings = {"model": captioner.name, "split": split_named(split)} | options | scores.settings
    statistics, judged = _judged(captioner, spoken, references)
    return EvaluationResult(scores, captions, settings, failures, statistics, judged)


def split_items(dataset: CaptionDataset, split: str, limit: int = 0) -> tuple[CaptionedItem, ...]:
    """Return the items of a split, at most `limit` unless that is 0.

    Raises:
        DatasetError: the split is empty.
        ConfigError: the limit is below 0.
    """
    if limit < 0:
        raise ConfigError(f"limit is {limit}: it must be 0 (all pictures) or more.")
    split = split_named(split)
    items = dataset.split(split).items[: limit or None]
    if not items:
        names = sorted({item.split or "(none)" for item in dataset})
        raise DatasetError(
            f"{dataset.source} has no pictures in the split {split!r}; it has {', '.join(names)}."
        )
    return items


def succeeding(
    items: Sequence[CaptionedItem],
    results: Iterable[Caption | Failure],
    failures: dict[str, str],
    report: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[CaptionedItem, Caption]]:
    """Yield the items that could be captioned, each with its caption.

    Args:
        items: the items.
        results: the result of each, from `Captioner.caption_many`.
        failures: the reasons of the others are added, by item key.
        report: called with (items done, items).
    """
    for done, (item, result) in enumerate(zip(items, results, strict=True), 1):
        if isinstance(result, Failure):
            failures[item.key] = str(result.error)
        else:
            yield item, result
        if report is not None:
            report(done, len(items))


def _judged(
    captioner: Captioner, spoken: dict[str, Sequence[SpokenWord]], references: dict[str, list[str]]
) -> tuple[CaptionStatistics, tuple[Judged, ...]]:
    """Return the statistics of the captions, and their judged words."""
    texts = {key: [word.text for word in words] for key, words in spoken.items()}
    support = {
        key: judge(
            words, [reference_words(text, captioner.vocabulary) for text in references[key]]
        ).support
        for key, words in texts.items()
    }
    judged = tuple(
        [(w.logprob, ok) for w, ok in zip(words, support[key], strict=True) if ok is not None]
        for key, words in spoken.items()
    )
    known = captioner.vocabulary
    size = len(known) - len(SPECIALS) if known.tokens == "word" else None  # else pieces of words
    return caption_statistics(texts, support, vocabulary=size), judged


@dataclass(frozen=True)
class PublishedRow:
    """One row of a paper.

    Attributes:
        name: name of the model.
        conditions: split, tokenizer, beam and references, as far as they are known.
        scores: × 100 by metric.
    """

    name: str
    conditions: str
    scores: dict[str, float]


def _paper(name: str, *scores: float) -> PublishedRow:
    metrics = ("bleu1", "bleu2", "bleu3", "bleu4", "meteor")
    conditions = "test · own BLEU, no brevity penalty · beam not stated · 5 refs"
    return PublishedRow(name, conditions, dict(zip(metrics, scores, strict=True)))


FLICKR8K = (
    _paper("Log Bilinear (Kiros et al. 2014)", 65.6, 42.4, 27.7, 17.7, 17.31),
    _paper("Soft attention (Xu et al. 2015)", 67.0, 44.8, 29.9, 19.5, 18.93),
    _paper("Hard attention (Xu et al. 2015)", 67.0, 45.7, 31.4, 21.3, 20.30),
    PublishedRow(
        "one person (middle of two draws)",
        "test · ptb · the other 4 refs",
        {"bleu1": 64.85, "bleu2": 45.9, "bleu3": 31.5, "bleu4": 21.55, "meteor": 25.65,
         "rouge_l": 49.75, "cider_d": 82.85},
    ),
)  # fmt: skip
"""Published scores on Flickr8k. They are not strictly comparable with a model's row: the papers
compute BLEU in their own way, the person is scored against four references instead of five, and
CIDEr-D depends on the split that it is measured on."""
