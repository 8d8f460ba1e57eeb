"""Caption a whole split and score the captions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from regard.captioner import Captioner, Failure
from regard.config import DecodingConfig
from regard.config.io import to_dict
from regard.data.dataset import CaptionDataset, split_named
from regard.errors import ConfigError, DatasetError
from regard.media import medium_of
from regard.metrics.hallucination import judge
from regard.metrics.scores import Scores, check_scorers, score_captions
from regard.metrics.statistics import CaptionStatistics, caption_statistics
from regard.metrics.tokenize import ptb_tokenize
from regard.reliability.calibration import Judged
from regard.text.vocabulary import SPECIALS
from regard.text.words import SpokenWord, spoken_words


@dataclass(frozen=True)
class EvaluationResult:
    """Scores of one model on one split.

    Attributes:
        scores: with what is missing and the settings of the scorers.
        captions: text by item key; "" where the picture failed.
        settings: model, split, beam, context, and those of the scorers.
        failures: reason by item key.
        statistics: what the captions are like; of pictures that did not fail.
        judged: for each of these the words that references can support or not.
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
        captioner: the model; one of pictures may be given clips.
        dataset: pictures and references.
        split: which part of it; synonyms and capitals mean what they mean in a file.
        beam: beam width; 1 is greedy.
        context: how hard attention forms the context: "expected", "sample" or "argmax".
        decoding: length penalty and blocking of n-grams; else the model's own.
        limit: only the first so many pictures; 0 takes all.
        tokenizer: see `score_captions`.
        batch_size: pictures at a time.
        report: is told (pictures done, pictures).

    Raises:
        DatasetError: the split is empty.
        UnknownName: the tokenizer does not exist.
        ConfigError: the tokenizer cannot run here, or the beam, context or limit makes no sense.
        MissingExtra: pycocoevalcap is absent.
    """
    if limit < 0:
        raise ConfigError(f"limit is {limit}; it must be 0 (all pictures) or more.")
    check_scorers(tokenizer)  # now, not after an hour of captioning
    split = split_named(split)
    items = dataset.split(split).items[: limit or None]
    if not items:
        names = sorted({item.split or "(none)" for item in dataset})
        raise DatasetError(
            f"{dataset.source} has no pictures in the split {split!r}; it has {', '.join(names)}."
        )
    if medium_of(items[0].file) == "video" and captioner.medium == "image":
        captioner = captioner.for_clips()
    captions: dict[str, str] = {}
    failures: dict[str, str] = {}
    spoken: dict[str, tuple[SpokenWord, ...]] = {}
    own = to_dict(decoding or captioner.config.decoding)
    results = captioner.accelerated(len(items)).caption_many(
        (item.file for item in items),
        batch_size=batch_size,
        keep_pixels=False,
        beam=beam,
        context=context,
        **own,
    )
    for item, result in zip(items, results, strict=True):
        if isinstance(result, Failure):
            failures[item.key], captions[item.key] = str(result.error), ""
        else:
            captions[item.key], spoken[item.key] = result.text, spoken_words(result)
        if report is not None:
            report(len(captions), len(items))
    references = {item.key: list(item.captions) for item in items}
    scores = score_captions(captions, references, tokenizer=tokenizer)
    settings = {"model": captioner.name, "split": split, "beam": beam, "context": context}
    settings |= own
    settings |= scores.settings
    vocabulary = captioner.vocabulary
    words = len(vocabulary) - len(SPECIALS) if vocabulary.tokens == "word" else None
    statistics, judged = _read(spoken, references, words)
    return EvaluationResult(scores, captions, settings, failures, statistics, judged)


def _read(
    spoken: dict[str, tuple[SpokenWord, ...]],
    references: dict[str, list[str]],
    vocabulary: int | None,
) -> tuple[CaptionStatistics, tuple[Judged, ...]]:
    """Return what the captions are like, and their judged words."""
    texts = {key: [word.text for word in words] for key, words in spoken.items()}
    support = {
        key: judge(words, [ptb_tokenize(text) for text in references[key]]).support
        for key, words in texts.items()
    }
    judged = tuple(
        [(w.logprob, ok) for w, ok in zip(words, support[key], strict=True) if ok is not None]
        for key, words in spoken.items()
    )
    return caption_statistics(texts, support, vocabulary=vocabulary), judged
