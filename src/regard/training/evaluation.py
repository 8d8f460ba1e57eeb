"""Free-running evaluation: what the model says of val pictures without help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from regard.backends.torch_backend import TorchBackend
from regard.config import Recipe
from regard.config.io import to_dict
from regard.data.dataset import CaptionDataset, CaptionedItem
from regard.decoding import DecodingOptions, decode
from regard.metrics import score_captions
from regard.model.decoder import AttentionDecoder
from regard.text.vocabulary import END, PAD, START, UNKNOWN, Vocabulary
from regard.training.batches import Chunk, make_chunks
from regard.training.devices import Devices
from regard.training.inputs import Pictures, make_batch
from regard.training.objectives.base import caption_logprob
from regard.training.prepare import Splits, encode_captions
from regard.types import Annotations, Hypothesis

_PICTURES_PER_BATCH = 50


@dataclass(frozen=True)
class Evaluation:
    """Scores of one evaluation and the caption of every val picture.

    Attributes:
        scores: by name, × 100; `loss` is the negative log-likelihood per word in nats.
        captions: text by item key.
        hypotheses: the best hypothesis by item key, with its trace.
    """

    scores: dict[str, float]
    captions: dict[str, str]
    hypotheses: dict[str, Hypothesis]


def evaluate_decoder(
    decoder: AttentionDecoder,
    vocabulary: Vocabulary,
    splits: Splits,
    pictures: Pictures,
    recipe: Recipe,
    devices: Devices,
) -> Evaluation:
    """Caption the val split and score the captions.

    Every device captions its part of the pictures. Device 0 counts and scores them all; the
    others get the scores, and keep no captions.

    Raises:
        RuntimeError: the devices' captions are not one of each picture.
    """
    items = splits.val.items[devices.rank :: devices.world]
    beam, max_length = recipe.evaluation.beam, recipe.data.max_length
    method = "greedy" if beam == 1 else "beam"
    own = to_dict(recipe.decoding)
    options = DecodingOptions(method=method, beam=beam, max_length=max_length, **own)
    backend = TorchBackend(None, decoder)
    hypotheses: dict[str, Hypothesis] = {}
    for start in range(0, len(items), _PICTURES_PER_BATCH):
        batch = items[start : start + _PICTURES_PER_BATCH]
        best = decode(
            backend,
            _annotations(batch, pictures),
            options,
            start=START,
            end=END,
            forbidden=(PAD, START, UNKNOWN),
        )
        hypotheses |= {item.key: found[0] for item, found in zip(batch, best, strict=True)}
    nll = _nll(decoder, vocabulary, splits, pictures, max_length, devices)
    gathered = devices.gather((hypotheses, *nll))
    if devices.rank != 0:
        return Evaluation(devices.broadcast({}), {}, {})
    evaluation = _scored(gathered, splits.val, vocabulary)
    devices.broadcast(evaluation.scores)
    return evaluation


def _scored(
    gathered: list[tuple[dict[str, Hypothesis], float, int]],
    val: CaptionDataset,
    vocabulary: Vocabulary,
) -> Evaluation:
    """Score the captions of all devices, each picture once."""
    said = [key for found, _, _ in gathered for key in found]
    if sorted(said) != sorted(item.key for item in val.items):
        raise RuntimeError(f"{len(said)} captions came of {len(val.items)} val pictures")
    unordered = {key: h for found, _, _ in gathered for key, h in found.items()}
    hypotheses = {item.key: unordered[item.key] for item in val.items}
    captions = {key: vocabulary.decode(h.tokens) for key, h in hypotheses.items()}
    names = ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider_d")
    scored = score_captions(captions, val.references(), tokenizer="python", names=names)
    totals, words = zip(*((total, words) for _, total, words in gathered), strict=True)
    scores = dict(scored.values) | {"loss": sum(totals) / sum(words)}
    return Evaluation(scores, captions, hypotheses)


def _annotations(items: Sequence[CaptionedItem], pictures: Pictures) -> Annotations:
    with torch.inference_mode():
        found, mask = pictures.read(list(items), ["plain"] * len(items))
        return Annotations(pictures.vectors(found, mask), mask, ())


def _nll(
    decoder: AttentionDecoder,
    vocabulary: Vocabulary,
    splits: Splits,
    pictures: Pictures,
    max_length: int,
    devices: Devices,
) -> tuple[float, int]:
    """Sum this device's teacher-forced negative log-likelihood, in nats, and count the words.

    The end token is a word.
    """
    ids = encode_captions(splits.val, vocabulary, max_length)
    chunks = make_chunks(ids, max(map(len, ids)))[devices.rank :: devices.world]
    total, words = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(chunks), _PICTURES_PER_BATCH):
            for group in _same_size(chunks[start : start + _PICTURES_PER_BATCH]):
                batch = make_batch(group, splits.val, pictures, ["plain"] * len(group))
                projected = decoder.project(pictures.vectors(batch.vectors, batch.mask), batch.mask)
                unrolled = decoder(batch.tokens, projected, steps=batch.steps)
                total -= caption_logprob(unrolled, batch).sum().item()
                words += int(batch.steps.sum())
    return total, words


def _same_size(chunks: list[Chunk]) -> list[list[Chunk]]:
    sizes = sorted({len(c.captions) for c in chunks})
    return [[c for c in chunks if len(c.captions) == size] for size in sizes]
