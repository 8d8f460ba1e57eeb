"""Evaluation after each epoch: captions and scores; and statistics of training items."""

from dataclasses import dataclass

import numpy as np
import torch

from regard.backends.torch_backend import TorchBackend
from regard.config.io import to_dict
from regard.data.dataset import CaptionDataset
from regard.decoding import DecodingOptions, decode
from regard.metrics import score_captions
from regard.reliability.out_of_distribution import ItemStats, OutOfDistributionDetector
from regard.text.vocabulary import END, PAD, START, UNKNOWN, Vocabulary
from regard.training.batches import Chunk, encode_captions, make_chunks
from regard.training.inputs import make_batch, stacked
from regard.training.objectives.base import caption_logprob
from regard.training.setup import TrainingRun
from regard.types import Annotations, Hypothesis

_PICTURES_PER_BATCH = 50
_FORBIDDEN = (PAD, START, UNKNOWN)
_ITEMS = 400  # training items whose statistics are computed, spread evenly
_ITEMS_PER_BATCH = 16


@dataclass(frozen=True)
class Evaluation:
    """Scores of one evaluation and the caption of every val picture.

    Attributes:
        scores: by name, × 100; `loss` is the negative log-likelihood per word in nats.
        captions: text by item key.
        hypotheses: the best hypothesis by item key, with its trace.
        tokenizer: what the captions were cut into for the scores (`score_captions`).
    """

    scores: dict[str, float]
    captions: dict[str, str]
    hypotheses: dict[str, Hypothesis]
    tokenizer: str = "python"


def evaluate_run(run: TrainingRun) -> Evaluation:
    """Caption the val split and score the captions.

    Every device captions its part of the pictures. Rank 0 scores the captions of all; the other
    ranks receive the scores and keep no captions.

    Raises:
        RuntimeError: the devices did not return exactly one caption per picture.
    """
    devices, recipe = run.devices, run.recipe
    items = run.splits.val.items[devices.rank :: devices.world]
    beam, length = recipe.evaluation.beam, recipe.data.max_length
    method = "greedy" if beam == 1 else "beam"
    options = DecodingOptions(
        method=method, beam=beam, max_length=length, **to_dict(recipe.decoding)
    )
    backend = TorchBackend(None, run.state.decoder, devices.device)
    hypotheses: dict[str, Hypothesis] = {}
    for first in range(0, len(items), _PICTURES_PER_BATCH):
        batch = items[first : first + _PICTURES_PER_BATCH]
        with torch.inference_mode():
            found, mask = run.pictures.read(list(batch), ["plain"] * len(batch))
            annotations = Annotations(run.pictures.vectors(found, mask), mask, ())
        best = decode(backend, annotations, options, start=START, end=END, forbidden=_FORBIDDEN)
        hypotheses |= {item.key: ranked[0] for item, ranked in zip(batch, best, strict=True)}
    gathered = devices.gather((hypotheses, *_nll(run)))
    if devices.rank != 0:
        return Evaluation(devices.broadcast({}), {}, {})
    evaluation = _score(gathered, run.splits.val, run.vocabulary)
    devices.broadcast(evaluation.scores)
    return evaluation


_Found = tuple[dict[str, Hypothesis], float, int]
"""A device's hypotheses, their negative log-likelihood, and its words."""


def _score(gathered: list[_Found], val: CaptionDataset, vocabulary: Vocabulary) -> Evaluation:
    """Score the captions of all devices, each picture once."""
    keys = [key for found, _, _ in gathered for key in found]
    if sorted(keys) != sorted(item.key for item in val.items):
        raise RuntimeError(f"got {len(keys)} captions for {len(val.items)} val pictures")
    unordered = {key: h for found, _, _ in gathered for key, h in found.items()}
    hypotheses = {item.key: unordered[item.key] for item in val.items}
    captions = {key: vocabulary.decode(h.tokens) for key, h in hypotheses.items()}
    names = ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider_d")
    cut = "python" if vocabulary.tokens == "word" else "model"
    scored = score_captions(
        captions, val.references(), tokenizer=cut, names=names, vocabulary=vocabulary
    )
    totals, words = zip(*((total, words) for _, total, words in gathered), strict=True)
    scores = dict(scored.values) | {"loss": sum(totals) / sum(words)}
    return Evaluation(scores, captions, hypotheses, scored.settings["tokenizer"])


def _nll(run: TrainingRun) -> tuple[float, int]:
    """Return this device's teacher-forced negative log-likelihood in nats, and its words.

    The end token counts as a word.
    """
    devices, pictures, val = run.devices, run.pictures, run.splits.val
    decoder = run.state.decoder
    ids = encode_captions(val, run.vocabulary, run.recipe.data.max_length)
    chunks = make_chunks(ids, max(map(len, ids)))[devices.rank :: devices.world]
    total, words = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(chunks), _PICTURES_PER_BATCH):
            for group in _by_size(chunks[start : start + _PICTURES_PER_BATCH]):
                batch = make_batch(group, val, pictures, ["plain"] * len(group))
                projected = decoder.project(pictures.vectors(batch.vectors, batch.mask), batch.mask)
                unrolled = decoder(batch.tokens, projected, steps=batch.rows)
                total -= caption_logprob(unrolled, batch).sum().item()
                words += len(batch.rows.flat)
    return total, words


def _by_size(chunks: list[Chunk]) -> list[list[Chunk]]:
    sizes = sorted({len(c.captions) for c in chunks})
    return [[c for c in chunks if len(c.captions) == size] for size in sizes]


def learn_item_statistics(run: TrainingRun) -> OutOfDistributionDetector:
    """Return statistics of training items, with features from the trained encoder.

    They are stored with the model for out-of-distribution checks.
    """
    encoder, items = run.state.encoder, run.splits.train.items
    chosen = [items[i] for i in np.unique(np.linspace(0, len(items) - 1, _ITEMS).astype(int))]
    statistics: list[ItemStats] = []
    for start in range(0, len(chosen), _ITEMS_PER_BATCH):
        media = [run.pictures.media(item.file) for item in chosen[start : start + _ITEMS_PER_BATCH]]
        inputs = [encoder.prepare(m) for m in media]
        with torch.inference_mode():
            given = (torch.from_numpy(x).to(run.devices.device) for x in stacked(inputs))
            vectors = encoder(*given).float().cpu().numpy()
        statistics += [
            ItemStats.measure(*seen) for seen in zip(media, inputs, vectors, strict=True)
        ]
    return OutOfDistributionDetector.fit(encoder.medium, statistics)
