"""Is attention worth its name? One model, one split, four experiments, all numbers cited whole.

1. Deletion and insertion: does what was looked at most matter most (`curves`)?
2. Agreement with occlusion, by kind of word (`probe`).
3. Swaps: what is left of captions and words when the decoder looks elsewhere (`swaps`)?
4. Regions: does attention lie on the thing that the word names (`metrics.pointing`)?
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from regard.captioner import Captioner, Failure, Source
from regard.data.dataset import CaptionDataset, CaptionedItem, split_named
from regard.data.regions import Regions
from regard.decoding.sampling import force_captions
from regard.errors import ConfigError, DatasetError
from regard.faithfulness.attention_swap import SWAPS, SwappedAttention
from regard.faithfulness.occlusion import check_cover, deletion_and_insertion, occlude
from regard.metrics import score_captions
from regard.metrics.pointing import Pointing, pointing
from regard.metrics.scores import check_scorers
from regard.text.vocabulary import START
from regard.text.words import CLASSES, word_class
from regard.types import Caption

Report = Callable[[str, int, int], None]
"""Is told what is being done, and (done, of how many)."""
_READINGS = 100  # of a picture whose cells are covered, and more
_AT_ONCE = 50  # pictures that are captioned together
_SCORED = ("bleu4", "cider_d")


@dataclass(frozen=True)
class Faithfulness:
    """The four experiments' numbers; each is a mean over words, captions or the split.

    Attributes:
        settings: model, split, pictures of each experiment, beam, cover, seed.
        deletion: area under p(word) by order, less is better.
        insertion: area under p(word) by order, more is better.
        agreement: Spearman's correlation of alpha with occlusion, by kind of word, with the
            number of words.
        swaps: by swap ("none" first): scores of the captions said under it, and the mean
            log-probability of the words of the captions that the model says unswapped.
        regions: mass and hits inside the named regions, with both baselines; empty without.
        failures: reason by item key of the pictures that could not be captioned. They are scored
            as empty captions, as `regard.metrics.evaluate` does, and left out of all else.
    """

    settings: dict[str, Any]
    deletion: dict[str, float]
    insertion: dict[str, float]
    agreement: dict[str, dict[str, float]]
    swaps: dict[str, dict[str, float]]
    regions: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dict(self.__dict__)


def faithfulness(
    captioner: Captioner,
    dataset: CaptionDataset,
    *,
    split: str = "val",
    limit: int = 0,
    probed: int = 50,
    beam: int = 3,
    cover: str = "mean",
    regions: Regions | None = None,
    seed: int = 0,
    report: Report | None = None,
) -> Faithfulness:
    """Run the experiments.

    Args:
        captioner: the model.
        dataset: pictures and references.
        split: which part of it; synonyms and capitals mean what they mean in a file.
        limit: pictures that are captioned; 0 takes all.
        probed: pictures, evenly over those, whose cells are covered one by one: the slow part.
        beam: beam width of the captions.
        cover: what covered cells show (`regard.faithfulness.occlusion.COVERS`).
        regions: where named things lie; None leaves that experiment out.
        seed: of random orders and permutations.
        report: is told of progress.

    Raises:
        DatasetError: the split has fewer than two readable pictures.
        ConfigError: an option is out of range, or there is no such cover.
        MissingExtra: pycocoevalcap is absent.
    """
    if limit < 0 or probed < 1:
        raise ConfigError(f"limit {limit} and probed {probed}; wanted 0 or more, and 1 or more.")
    check_cover(cover)  # now, not after an hour of captioning
    check_scorers()
    report = report or (lambda *_: None)
    split = split_named(split)
    items = dataset.split(split).items[: limit or None]
    _check_two(len(items), "are there to caption", split)
    captioner = captioner.accelerated(len(items) + probed * _READINGS)
    said, failures = _captions(captioner, items, beam, "captioning", report)
    _check_two(len(said), "could be captioned", split)
    step = max(1, len(said) // probed)
    chosen = list(said.values())[::step][:probed]
    deletion, insertion, agreement = _probe(captioner, chosen, cover, seed, report)
    settings = {"model": captioner.name, "split": split, "pictures": len(said), "beam": beam,
                "probed": len(chosen), "cover": cover, "seed": seed}  # fmt: skip
    return Faithfulness(
        settings,
        deletion,
        insertion,
        agreement,
        _swap(captioner, items, said, failures, beam, seed, report),
        _point(said, regions) if regions else {},
        failures,
    )


def check_control(captioner: Captioner) -> None:
    """Refuse a model that is no control.

    Raises:
        ConfigError: the model can look around.
    """
    if captioner.config.decoder.scores != "uniform":
        raise ConfigError(
            f"the control {captioner.name!r} has {captioner.config.decoder.scores} scores, so it "
            "looks where it likes. Train one: `regard train uniform-control`."
        )


def control_scores(
    captioner: Captioner,
    dataset: CaptionDataset,
    *,
    split: str = "val",
    limit: int = 0,
    beam: int = 3,
    report: Report | None = None,
) -> dict[str, Any]:
    """Return the scores of a control, a model trained with attention frozen at uniform.

    Returns:
        `model`, the scores, and `failures`, reasons by item key.

    Raises:
        ConfigError: the model can look around, so it is no control.
    """
    check_control(captioner)
    items = dataset.split(split_named(split)).items[: limit or None]
    said, failures = _captions(captioner, items, beam, "control", report or (lambda *_: None))
    return {"model": captioner.name} | _scores(items, said) | {"failures": failures}


def _check_two(count: int, what: str, split: str) -> None:
    if count < 2:
        raise DatasetError(
            f"Of the split {split!r} {count} pictures {what}; two are needed, since attention is "
            "swapped between pictures. Raise the limit, or name another split."
        )


def _captions(
    captioner: Captioner, items: Sequence[CaptionedItem], beam: int, what: str, report: Report
) -> tuple[dict[str, Caption], dict[str, str]]:
    """Return captions that have words, and the reasons of failures, by item key."""
    files = [item.file for item in items]
    batches = _batches(files, captioner.items_at_once(_AT_ONCE))
    results = captioner.caption_batches(batches, beam=beam)
    said: dict[str, Caption] = {}
    failures: dict[str, str] = {}
    for done, (item, result) in enumerate(zip(items, results, strict=True), 1):
        report(what, done, len(items))
        if isinstance(result, Failure):
            failures[item.key] = str(result.error)
        elif result.words:
            said[item.key] = result
    return said, failures


def _batches(files: Sequence[str], size: int) -> list[list[Source]]:
    """Cut files into batches of two or more: one alone has no other to take attention from."""
    size = max(2, size)
    batches: list[list[Source]] = [list(files[at : at + size]) for at in range(0, len(files), size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        alone = batches.pop()
        batches[-1] += alone
    return batches


def _probe(
    captioner: Captioner, captions: Sequence[Caption], cover: str, seed: int, report: Report
) -> tuple[dict[str, float], dict[str, float], dict[str, dict[str, float]]]:
    areas: dict[str, dict[str, list[float]]] = {
        kind: defaultdict(list) for kind in ("deletion", "insertion")
    }
    by_class: dict[str, list[float]] = defaultdict(list)
    for done, caption in enumerate(captions, 1):
        report("covering cells", done, len(captions))
        occlusion = occlude(captioner, caption, cover=cover)
        for word, correlation in zip(caption.words, occlusion.correlation, strict=True):
            if np.isfinite(correlation):
                by_class[word_class(word.text)].append(float(correlation))
        curves = deletion_and_insertion(
            captioner, caption, falls=occlusion.falls, seed=seed + done, cover=cover
        )
        for kind, of_kind in areas.items():
            for order, values in curves.areas(kind).items():
                of_kind[order] += values.tolist()
    deletion, insertion = (
        {order: float(np.mean(values)) for order, values in areas[kind].items()}
        for kind in ("deletion", "insertion")
    )
    agreement = {
        name: {"correlation": float(np.mean(by_class[name])), "words": len(by_class[name])}
        for name in CLASSES
        if by_class[name]
    }
    return deletion, insertion, agreement


def _swap(
    captioner: Captioner,
    items: Sequence[CaptionedItem],
    said: Mapping[str, Caption],
    failures: Mapping[str, str],
    beam: int,
    seed: int,
    report: Report,
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    # What fails would leave a batch of one without another.
    readable = [item for item in items if item.key not in failures]
    for swap in ("none", *SWAPS):
        backend = captioner.backend
        if swap != "none":
            backend = SwappedAttention(captioner.backend, swap, seed=seed)
        swapped = captioner.with_backend(backend)
        captions = said
        if swap != "none":
            captions, _ = _captions(swapped, readable, beam, f"attention: {swap}", report)
        logprob = _mean_logprob(swapped, list(said.values()))
        found[swap] = _scores(items, captions) | {"logprob": logprob}
    return found


def _scores(items: Sequence[CaptionedItem], said: Mapping[str, Caption]) -> dict[str, float]:
    texts = {item.key: said[item.key].text if item.key in said else "" for item in items}
    references = {item.key: list(item.captions) for item in items}
    return score_captions(texts, references, names=_SCORED).values


def _mean_logprob(captioner: Captioner, captions: Sequence[Caption]) -> float:
    """Return the mean log-probability per word of given captions under a captioner."""
    by_length: dict[int, list[Caption]] = defaultdict(list)
    for caption in captions:
        by_length[len(caption.words)].append(caption)
    total, words = 0.0, 0
    for length, group in by_length.items():
        # A picture alone would lend its attention to itself.
        others = (caption for caption in captions if caption is not group[0])
        pictures = [*group, next(others)] if len(group) == 1 else group
        media = [caption.media for caption in pictures if caption.media is not None]
        tokens = np.array([[w.token for w in c.words[:length]] for c in group], np.int64)
        if len(group) == 1:
            tokens = np.repeat(tokens, 2, axis=0)
        read = force_captions(captioner.backend, captioner.annotate(media), tokens, start=START)
        total += float(read.logprobs[: len(group)].sum())
        words += length * len(group)
    return total / words


def _point(said: Mapping[str, Caption], regions: Regions) -> dict[str, float]:
    found: list[Pointing] = []
    for key, caption in said.items():
        places, mentions = regions.get(key, {}), Counter[str]()
        for word in caption.words:
            if of_word := places.get(word.text):
                region = of_word[min(mentions[word.text], len(of_word) - 1)]
                found.append(pointing(word.alpha, caption.grid, region))
            mentions[word.text] += 1
    if not found:
        return {"words": 0}
    means = {
        name: float(np.mean([getattr(p, name) for p in found]))
        for name in ("mass", "uniform_mass", "hit", "uniform_hit", "middle_hit")
    }
    return means | {"words": len(found)}
