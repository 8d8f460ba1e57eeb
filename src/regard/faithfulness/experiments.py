"""Four experiments on the faithfulness of attention, for one model on one split.

1. Deletion and insertion: do the places with the most attention matter most?
2. Agreement of attention with occlusion, by kind of word.
3. Swaps: captions and word probabilities when the decoder looks elsewhere.
4. Regions: does attention lie on the thing that the word names (`regard.metrics.pointing`)?
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from regard.backends import Backend
from regard.captioner import Captioner, Source
from regard.data.dataset import CaptionDataset, CaptionedItem, split_named
from regard.data.regions import Regions, regions_of_word
from regard.decoding.sampling import force_captions
from regard.errors import ConfigError, DatasetError, UnknownName
from regard.faithfulness.occlusion import check_cover, deletion_and_insertion, occlude
from regard.metrics import score_captions
from regard.metrics.pointing import Pointing, pointing
from regard.metrics.scores import check_scorers
from regard.metrics.split_evaluation import split_items, succeeding
from regard.text.vocabulary import START, Vocabulary
from regard.text.words import CLASSES, word_class
from regard.types import Annotations, Array, Caption, DecoderState, ProjectedAnnotations
from regard.types.decoding import array_namespace

Report = Callable[[str, int, int], None]
"""Called with the name of the work and (done, total)."""
_FORCED = 100  # minimum number of readable pictures for occlusion
_BATCH = 50  # pictures captioned together
_SCORES = ("bleu4", "cider_d")
SWAPS = ("uniform", "permuted", "other picture")


@dataclass(frozen=True)
class Faithfulness:
    """The numbers of the four experiments; each is a mean over words, captions or the split.

    Attributes:
        settings: model, split, pictures of each experiment, beam, cover, seed.
        deletion: area under p(word) by order; less is better.
        insertion: area under p(word) by order; more is better.
        agreement: Spearman's correlation of alpha with occlusion, by kind of word, with the
            number of words.
        swaps: by swap ("none" first): scores of the captions made under it, and the mean
            log-probability of the words of the unswapped captions.
        regions: mass and hits inside the named regions, with both baselines, and the number of
            `words` that name one; empty without.
        failures: reason by item key of the pictures that could not be captioned. They are scored
            as empty captions, as in `regard.metrics.split_evaluation`, and left out elsewhere.
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
        split: part of the dataset; synonyms and capitals are resolved as in a file.
        limit: pictures to caption; 0 takes all.
        probed: pictures, evenly spread, whose cells are covered one by one: the slow part.
        beam: beam width of the captions.
        cover: content of covered cells (`regard.faithfulness.occlusion.COVERS`).
        regions: places of named things; None leaves that experiment out.
        seed: seed of random orders and permutations.
        report: receives progress.

    Raises:
        DatasetError: the split has fewer than two readable pictures.
        ConfigError: an option is out of range, or the cover is unknown.
        MissingExtra: pycocoevalcap is not installed.
    """
    if probed < 1:
        raise ConfigError(f"probed is {probed}: it must be 1 or more.")
    check_cover(cover)  # now, not after an hour of captioning
    check_scorers()
    report = report or (lambda *_: None)
    items = split_items(dataset, split, limit)
    split = split_named(split)
    _check_two(len(items), "to caption", split)
    captioner = captioner.accelerated(len(items) + probed * _FORCED)
    captions, failures = _captions(captioner, items, beam, "captioning", report)
    _check_two(len(captions), "that could be captioned", split)
    step = max(1, len(captions) // probed)
    chosen = list(captions.values())[::step][:probed]
    deletion, insertion, agreement = _occluded(captioner, chosen, cover, seed, report)
    settings = {"model": captioner.name, "split": split, "pictures": len(captions), "beam": beam,
                "probed": len(chosen), "cover": cover, "seed": seed}  # fmt: skip
    # A failed picture would leave a batch of one without another.
    readable = [item for item in items if item.key not in failures]
    swaps: dict[str, dict[str, float]] = {}
    for swap in ("none", *SWAPS):
        swapped, made = captioner, captions
        if swap != "none":
            backend = SwappedAttention(captioner.backend, swap, seed=seed)
            swapped = captioner.with_backend(backend)
            made, _ = _captions(swapped, readable, beam, f"attention: {swap}", report)
        logprob = _mean_logprob(swapped, list(captions.values()))
        swaps[swap] = _scores(items, made, captioner.vocabulary) | {"logprob": logprob}
    inside = _pointing(captions, regions) if regions else {}
    return Faithfulness(settings, deletion, insertion, agreement, swaps, inside, failures)


def check_control(captioner: Captioner) -> None:
    """Check that a model is a control: its attention is frozen at uniform.

    Raises:
        ConfigError: the model is not a control.
    """
    if captioner.config.decoder.scores != "uniform":
        raise ConfigError(
            f"The control {captioner.name!r} has {captioner.config.decoder.scores} scores: a "
            "control has uniform ones. Train one with `regard train uniform-control`."
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
        ConfigError: the model is not a control.
        DatasetError: the split is empty.
    """
    check_control(captioner)
    items = split_items(dataset, split, limit)
    captions, failures = _captions(captioner, items, beam, "control", report or (lambda *_: None))
    scores = _scores(items, captions, captioner.vocabulary)
    return {"model": captioner.name} | scores | {"failures": failures}


def _check_two(count: int, which: str, split: str) -> None:
    if count < 2:
        raise DatasetError(
            f"The split {split!r} has {count} pictures {which}; two are needed, because attention "
            "is swapped between pictures. Raise the limit, or name another split."
        )


def _captions(
    captioner: Captioner, items: Sequence[CaptionedItem], beam: int, what: str, report: Report
) -> tuple[dict[str, Caption], dict[str, str]]:
    """Return captions that have words, and the reasons of failures, by item key."""
    files = [item.file for item in items]
    batches = _batches(files, captioner.items_at_once(_BATCH))
    results = captioner.caption_batches(batches, beam=beam)
    failures: dict[str, str] = {}
    captioned = succeeding(items, results, failures, partial(report, what))
    return {item.key: caption for item, caption in captioned if caption.words}, failures


def _batches(files: Sequence[str], size: int) -> list[list[Source]]:
    """Cut files into batches of two or more, because attention is taken from another picture."""
    size = max(2, size)
    batches: list[list[Source]] = [list(files[at : at + size]) for at in range(0, len(files), size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        last = batches.pop()
        batches[-1] += last
    return batches


def _occluded(
    captioner: Captioner, captions: Sequence[Caption], cover: str, seed: int, report: Report
) -> tuple[dict[str, float], dict[str, float], dict[str, dict[str, float]]]:
    """Return the areas of deletion and of insertion, and the agreement with occlusion."""
    deletion: dict[str, list[float]] = defaultdict(list)
    insertion: dict[str, list[float]] = defaultdict(list)
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
        for kind, areas in (("deletion", deletion), ("insertion", insertion)):
            for order, values in curves.areas(kind).items():
                areas[order] += values.tolist()
    agreement = {
        name: {"correlation": float(np.mean(by_class[name])), "words": len(by_class[name])}
        for name in CLASSES
        if by_class[name]
    }
    return _means(deletion), _means(insertion), agreement


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: float(np.mean(some)) for name, some in values.items()}


def _scores(
    items: Sequence[CaptionedItem], captions: Mapping[str, Caption], vocabulary: Vocabulary
) -> dict[str, float]:
    texts = {item.key: captions[item.key].text if item.key in captions else "" for item in items}
    references = {item.key: list(item.captions) for item in items}
    return score_captions(
        texts, references, names=_SCORES, tokenizer="model", vocabulary=vocabulary
    ).values


def _mean_logprob(captioner: Captioner, captions: Sequence[Caption]) -> float:
    """Return the mean log-probability per word of given captions under a captioner."""
    by_length: dict[int, list[Caption]] = defaultdict(list)
    for caption in captions:
        by_length[len(caption.words)].append(caption)
    total, words = 0.0, 0
    for length, group in by_length.items():
        # A picture alone would swap attention with itself.
        others = (caption for caption in captions if caption is not group[0])
        pictures = [*group, next(others)] if len(group) == 1 else group
        media = [caption.media for caption in pictures if caption.media is not None]
        tokens = np.array([[w.token for w in c.words[:length]] for c in group], np.int64)
        if len(group) == 1:
            tokens = np.repeat(tokens, 2, axis=0)
        forced = force_captions(captioner.backend, captioner.annotate(media), tokens, start=START)
        total += float(forced.logprobs[: len(group)].sum())
        words += length * len(group)
    return total / words


def _pointing(captions: Mapping[str, Caption], regions: Regions) -> dict[str, float]:
    found: list[Pointing] = []
    for key, caption in captions.items():
        places, mentions = regions.get(key, {}), Counter[str]()
        for word in caption.words:
            if of_word := regions_of_word(places, word.text):
                region = of_word[min(mentions[word.text], len(of_word) - 1)]
                found.append(pointing(word.alpha, caption.grid, region))
            mentions[word.text] += 1
    if not found:
        return {"words": 0}
    names = ("mass", "uniform_mass", "hit", "uniform_hit", "middle_hit")
    means = _means({name: [getattr(one, name) for one in found] for name in names})
    return means | {"words": len(found)}


class SwappedAttention:
    """A backend like the one it wraps, but with other keys: the decoder attends elsewhere.

    Alpha depends on the keys alone, the context on the values alone (`ProjectedAnnotations`). So
    equal keys make attention uniform, permuted keys permute it, and another picture's keys move it
    to where the decoder would have looked there; the decoder itself is unchanged. If captions and
    word probabilities do not fall under a swap, it did not matter where the decoder looked (Serrano
    and Smith 2019; Jain and Wallace 2019).
    """

    def __init__(self, backend: Backend, swap: str, *, seed: int = 0) -> None:
        """Wrap a backend.

        Args:
            backend: runs encoder and decoder.
            swap: one of `SWAPS`; "other picture" takes the keys of the next picture of the
                batch, so a batch needs two or more.
            seed: seed of the permutations.

        Raises:
            UnknownName: the swap is unknown.
        """
        if swap not in SWAPS:
            raise UnknownName("swap of attention", swap, SWAPS)
        self._swap, self._rng = swap, np.random.default_rng(seed)
        self._init_state = backend.init_state
        self.encode, self.step = backend.encode, backend.step
        self.asarray, self.generator = backend.asarray, backend.generator
        self.encode_batch_size, self.use_one_core = backend.encode_batch_size, backend.use_one_core

    def init_state(
        self, annotations: Annotations, captions_per_item: int = 1
    ) -> tuple[ProjectedAnnotations, DecoderState]:
        """See `Backend.init_state`; the first state is the picture's own."""
        projected, state = self._init_state(annotations, captions_per_item)
        return replace(projected, keys=self._swapped(projected)), state

    def _swapped(self, projected: ProjectedAnnotations) -> Array:
        keys = projected.keys
        xp = array_namespace(keys)
        if self._swap == "uniform":  # any equal keys
            return xp.broadcast_to(xp.mean(keys, axis=1, keepdims=True), keys.shape)
        if self._swap == "other picture":
            return xp.roll(keys, 1, axis=0)
        orders = [self._order(np.asarray(mask)) for mask in projected.mask]
        index = np.stack(orders)[:, :, None]
        if not isinstance(keys, np.ndarray):  # compiled loops read numpy's arrays
            index = self.asarray(index)
        return xp.take_along_axis(keys, xp.broadcast_to(index, keys.shape), axis=1)

    def _order(self, mask: np.ndarray) -> np.ndarray:
        """Return the cells with the real ones shuffled; padding stays where it is."""
        order, real = np.arange(len(mask)), np.flatnonzero(mask)
        order[real] = self._rng.permutation(real)
        return order
