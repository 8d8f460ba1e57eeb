"""Free-running evaluation: what the model says of val pictures without help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from regard.backends.torch_backend import TorchBackend
from regard.config import EvaluationConfig
from regard.data.dataset import CaptionedItem
from regard.decoder import AttentionDecoder
from regard.decoding import DecodingOptions, decode
from regard.metrics import score_captions
from regard.training.batches import Chunk, make_chunks
from regard.training.objective import caption_logprob
from regard.training.prepare import Pictures, Splits, encode_captions, make_batch
from regard.types import Annotations, Hypothesis
from regard.vocabulary import END, PAD, START, UNKNOWN, Vocabulary

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
    config: EvaluationConfig,
    max_length: int,
) -> Evaluation:
    """Caption the val split and score the captions."""
    items = splits.val.items
    method = "greedy" if config.beam == 1 else "beam"
    options = DecodingOptions(method=method, beam=config.beam, max_length=max_length)
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
    captions = {key: vocabulary.decode(h.tokens) for key, h in hypotheses.items()}
    references = {item.key: list(item.captions) for item in items}
    names = ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider_d")
    scores = dict(score_captions(captions, references, tokenizer="python", names=names).values)
    scores["loss"] = _nll_per_word(decoder, vocabulary, splits, pictures, max_length)
    return Evaluation(scores, captions, hypotheses)


def _annotations(items: Sequence[CaptionedItem], pictures: Pictures) -> Annotations:
    with torch.inference_mode():
        found, mask = pictures.read(list(items), ["plain"] * len(items))
        return Annotations(pictures.vectors(found, mask), mask, ())


def _nll_per_word(
    decoder: AttentionDecoder,
    vocabulary: Vocabulary,
    splits: Splits,
    pictures: Pictures,
    max_length: int,
) -> float:
    """Teacher-forced negative log-likelihood per word, end token included, in nats."""
    ids = encode_captions(splits.val, vocabulary, max_length)
    chunks = make_chunks(ids, max(map(len, ids)))
    total, words = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(chunks), _PICTURES_PER_BATCH):
            for group in _same_size(chunks[start : start + _PICTURES_PER_BATCH]):
                batch = make_batch(group, splits.val, pictures, ["plain"] * len(group))
                projected = decoder.project(pictures.vectors(batch.vectors, batch.mask), batch.mask)
                unrolled = decoder(batch.tokens, projected, steps=batch.steps)
                total -= caption_logprob(unrolled, batch).sum().item()
                words += int(batch.steps.sum())
    return total / words


def _same_size(chunks: list[Chunk]) -> list[list[Chunk]]:
    sizes = sorted({len(c.captions) for c in chunks})
    return [[c for c in chunks if len(c.captions) == size] for size in sizes]
