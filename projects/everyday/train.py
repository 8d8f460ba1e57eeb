"""Stage 2: the decoder with its pointer, trained on the mix.

A step has two passes, whose gradients are added: photographs with five captions each, and pictures
of all other kinds with one. The loss is the mean cross-entropy of the words under the mixture of
vocabulary and pointer (`regard.model.pointer`), of which only the target's probability is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from projects.everyday.bank import Bank
from projects.everyday.concept_words import ConceptWords
from projects.everyday.encode import VIEW
from projects.everyday.mix import LONGEST, MIN_COUNT, Batch, Mix
from projects.everyday.naming import Cells
from regard import Captioner, ConfigError
from regard.backends.torch_backend import TorchBackend
from regard.config import DataConfig, DecoderConfig, DecodingConfig, EncoderConfig, Recipe
from regard.data import AnnotationStore
from regard.decoding import DecodingOptions, decode
from regard.metrics import score_captions
from regard.model.decoder import AttentionDecoder, TeacherForcingOutput
from regard.model.encoders import Encoder
from regard.text.vocabulary import END, PAD, START, UNKNOWN, Vocabulary
from regard.types import Annotations, Grid, ProjectedAnnotations

STEPS, LEARNING_RATE = 1500, 1.5e-3
_BETAS, _WEIGHT_DECAY = (0.9, 0.98), 0.01
_WARM_UP, _LAST_RATE = 200, 0.02  # steps; share of the rate at the end of the cosine
_CLIP_NORM = 1.0
_AVERAGE, _AVERAGE_DELAY = 0.998, 20  # of the weights; a shorter average in the first steps
_HALF_CELLS = 0.8  # share of the steps in which `others` has half of its cells, for speed
_LEAST = 1e-7  # of a target's probability: a hidden word that no cell shows has no gradient
_SWITCH = (0.0, -1.0)  # biases at the beginning: g_t of a half, and rather the singular
SCORED = ("bleu4", "cider_d")
OPTIONS = DecodingOptions(beam=3, max_length=LONGEST, block_ngram=2, alternatives=0)


def decoder_config(concepts: int, vector_dim: int) -> DecoderConfig:
    """Return the decoder's settings: 7.3 million weights with 1,042 concepts and 5,756 words.

    Args:
        concepts: C.
        vector_dim: K.
    """
    return DecoderConfig(
        embedding_dim=400,  # tied to the output, so the vocabulary is a third of the weights
        hidden_dim=512,
        attention_dim=320,
        feature_dim=448,
        annotation_norm=True,
        scores="scaled_dot",  # one product for all cells, where the additive score needs a tanh
        gate="scalar",
        dropout=0.4,
        embedding_dropout=0.1,
        tie_embeddings=True,
        concepts=concepts,
        concept_dim=vector_dim,
        concept_cells=True,  # attention can then look for what a cell would be called
        concept_dropout=0.4,
    )


def build_decoder(
    bank: Bank,
    words: ConceptWords,
    vocabulary: Vocabulary,
    *,
    config: DecoderConfig | None = None,
    seed: int = 0,
) -> AttentionDecoder:
    """Return a fresh decoder whose pointer has a bank.

    Args:
        bank: the concepts.
        words: their forms, which the vocabulary holds.
        vocabulary: the words.
        config: None: `decoder_config`.
        seed: seed of the weights.

    Raises:
        ConfigError: the config has no pointer, or the vocabulary lacks a form.
    """
    concepts, size = bank.vectors.shape
    forms = torch.tensor([vocabulary.encode(pair) for pair in words.forms])
    if (forms == UNKNOWN).any():
        lacks = words.forms[int((forms == UNKNOWN).any(1).nonzero()[0])]
        raise ConfigError(
            f"the vocabulary lacks a form of the concept {lacks[0]!r} ({', '.join(lacks)}). Make "
            "it with projects.everyday.mix.vocabulary_of."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = AttentionDecoder(
            config or decoder_config(concepts, size),
            annotation_dim=bank.cell.shape[1],
            vocabulary_size=len(vocabulary),
        )
    if decoder.pointer is None:
        raise ConfigError("decoder.concepts is 0, so there is no pointer. Set it to the bank's.")
    bank.fill(decoder.pointer, forms)
    with torch.no_grad():
        decoder.pointer.switch.bias.copy_(torch.tensor(_SWITCH))
    return decoder


def trainable(decoder: AttentionDecoder) -> AttentionDecoder:
    """Return a loaded decoder with all weights trainable but those of its bank."""
    decoder.requires_grad_(True)
    if decoder.pointer is not None:
        for fixed in (decoder.pointer.cell, decoder.pointer.whole, decoder.pointer.sharpness):
            fixed.requires_grad_(False)
    return decoder


def project(decoder: AttentionDecoder, cells: Cells) -> ProjectedAnnotations:
    """Return what `AttentionDecoder.project` does, with the stored names in place of its own.

    Args:
        decoder: with a pointer.
        cells: of N pictures.
    """
    assert decoder.pointer is not None
    vectors, mixed, shares = (
        torch.from_numpy(np.ascontiguousarray(x)).float()
        for x in (cells.vectors, cells.mixed, cells.shares)
    )
    values = decoder.norm(decoder.feature(vectors))
    if decoder.concept_cell is not None:
        values = values + decoder.concept_cell(mixed)
    values = decoder.position(values).float()
    places = torch.from_numpy(cells.concepts.astype(np.int64))
    named = shares.new_zeros(*shares.shape[:2], len(decoder.pointer.forms))
    named = named.scatter(2, places, shares)  # (N, L, C)
    if torch.is_autocast_enabled("cpu"):
        named = named.to(torch.get_autocast_dtype("cpu"))
    mask = torch.ones(vectors.shape[:2], dtype=torch.bool)
    keys = decoder.attention.scores.keys(values)
    return ProjectedAnnotations(values, keys, mask, named, decoder.pointer.forms)


def target_losses(output: TeacherForcingOutput, targets: Tensor, places: Tensor) -> Tensor:
    """Return -log p of the target words, (R,), without the mixture over the whole vocabulary.

    It equals `TeacherForcingOutput.losses`, packed, where p is at least 1e-7.

    Args:
        output: of a decoder with a pointer.
        targets: (B, T) ids.
        places: (V,), `Pointer.place_of`.
    """
    pointed = output.pointed
    assert pointed is not None
    target, pointer = output.packing.pack(targets), pointed.pointer
    logits = functional.linear(output.features, output.output.weight).float() + output.output.bias
    if pointed.hidden is not None:
        logits = logits.masked_fill(pointed.hidden, -1e4)  # finite, for its gradient
    said = functional.cross_entropy(logits, target, reduction="none").neg().exp()
    gate, many = torch.sigmoid(pointer.switch(output.features).float()).unbind(-1)
    named = pointed.named.float()  # (R, C)
    place = places[target]
    concept, is_plural = place.clamp_min(0) // 2, place % 2 == 1
    one_form = pointer.forms[concept, 0] == pointer.forms[concept, 1]
    form = torch.where(is_plural, many, 1 - many).masked_fill(one_form, 1)
    copied = gate * form * named.gather(1, concept[:, None])[:, 0]
    copied = copied.masked_fill(place < 0, 0)
    mixture = (1 - gate * named.sum(-1)) * said + copied
    return -mixture.clamp_min(_LEAST).log()


def padded(captions: Sequence[Sequence[str]], vocabulary: Vocabulary) -> tuple[Tensor, ...]:
    """Return what is read and what is said, (B, T) ids each, and the real steps, (B, T) bool."""
    ids = [vocabulary.encode(caption) for caption in captions]
    shape = len(ids), max(map(len, ids)) + 1
    read, said = (torch.full(shape, PAD) for _ in range(2))
    for row, caption in enumerate(ids):
        read[row, : len(caption) + 1] = torch.tensor([START, *caption])
        said[row, : len(caption) + 1] = torch.tensor([*caption, END])
    return read, said, said != PAD


def batch_loss(
    decoder: AttentionDecoder,
    batch: Batch,
    vocabulary: Vocabulary,
    places: Tensor,
    generator: torch.Generator,
    *,
    bf16: bool = True,
) -> Tensor:
    """Return the loss of a batch, averaged over its words.

    Args:
        decoder: in training mode.
        batch: pictures and captions.
        vocabulary: the words.
        places: (V,), `Pointer.place_of`.
        generator: of dropout and of the hidden concepts.
        bf16: compute the products in bfloat16.
    """
    read, said, real = padded(batch.captions, vocabulary)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        projected = project(decoder, batch.cells)
        output = decoder(read, projected, steps=real, generator=generator)
        return target_losses(output, said, places).mean()


def rate_factor(step: int, steps: int) -> float:
    """Return the share of the peak rate: linear warm-up times a cosine down to 2 %."""
    cosine = (1 + math.cos(math.pi * min(1, step / steps))) / 2
    return min(1, (step + 1) / _WARM_UP) * (_LAST_RATE + (1 - _LAST_RATE) * cosine)


class AveragedWeights:
    """Exponential moving average of a decoder's weights."""

    def __init__(self, decoder: AttentionDecoder) -> None:
        """Begin with the weights as they are."""
        self.state = {name: value.clone() for name, value in decoder.state_dict().items()}

    @torch.no_grad()
    def update(self, decoder: AttentionDecoder, step: int) -> None:
        """Move towards the weights after step 0, 1, ..."""
        decay = min(_AVERAGE, (step + 1) / (step + _AVERAGE_DELAY))
        for name, value in decoder.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)


def train(
    decoder: AttentionDecoder,
    mix: Mix,
    vocabulary: Vocabulary,
    *,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    bf16: bool = True,
    seed: int = 0,
) -> Iterator[tuple[tuple[float, float], AveragedWeights]]:
    """Train a decoder in place, by AdamW.

    Args:
        decoder: with a bank, which stays as it is.
        mix: draws the batches.
        vocabulary: the words.
        steps: of two passes each.
        learning_rate: at its peak.
        bf16: compute the products in bfloat16.
        seed: seed of dropout and of the hidden concepts.

    Yields:
        The losses of both passes and the averaged weights, after every step.
    """
    assert decoder.pointer is not None
    weights = [p for p in decoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, learning_rate, _BETAS, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, steps))
    average, places = AveragedWeights(decoder), decoder.pointer.place_of()
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        decoder.train()
        optimizer.zero_grad(set_to_none=True)
        losses: list[float] = []
        others = mix.others()
        if step < _HALF_CELLS * steps:
            others = mix.half(others)
        for batch in (mix.described(), others):
            loss = batch_loss(decoder, batch, vocabulary, places, generator, bf16=bf16)
            loss.backward()
            losses.append(loss.item())
        norm = torch.nn.utils.clip_grad_norm_(weights, _CLIP_NORM)
        if not math.isfinite(float(norm)):
            raise ConfigError(
                f"the gradient of step {step + 1} is not finite (losses {losses}). Lower the "
                "learning rate, or compute in float32."
            )
        optimizer.step()
        schedule.step()
        average.update(decoder, step)
        yield (losses[0], losses[1]), average
    decoder.load_state_dict(average.state)
    decoder.eval()


@dataclass(frozen=True)
class ScoredPictures:
    """Pictures that captions are scored on: their digests and references."""

    digests: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]


def evaluate(
    decoder: AttentionDecoder,
    vocabulary: Vocabulary,
    store: AnnotationStore,
    pictures: ScoredPictures,
    *,
    batch_size: int = 20,
) -> tuple[dict[str, float], list[str]]:
    """Return the scores × 100 of stored pictures, and their captions.

    Args:
        decoder: is run in evaluation mode.
        vocabulary: the words.
        store: holds the pictures.
        pictures: with references.
        batch_size: pictures at once.
    """
    backend, texts = TorchBackend(None, decoder), list[str]()
    grid = Grid(("rows", "cols"), store.key.grid_shape, (1.0, 1.0), ((0.0, 1.0), (0.0, 1.0)))
    for at in range(0, len(pictures.digests), batch_size):
        digests = pictures.digests[at : at + batch_size]
        vectors, mask = map(torch.from_numpy, store.read((digest, VIEW) for digest in digests))
        annotations = Annotations(vectors, mask, (grid,) * len(digests))
        found = decode(
            backend, annotations, OPTIONS,
            start=START, end=END, forbidden=(PAD, START, UNKNOWN), unlisted=(PAD, START),
        )  # fmt: skip
        texts += [vocabulary.decode(hypotheses[0].tokens) for hypotheses in found]
    keys = [str(row) for row in range(len(texts))]
    references: Mapping[str, Sequence[str]] = dict(zip(keys, pictures.references, strict=True))
    candidates = dict(zip(keys, texts, strict=True))
    scores = score_captions(candidates, references, tokenizer="python", names=SCORED)
    return scores.values, texts


def save(
    folder: Path,
    encoder: Encoder,
    decoder: AttentionDecoder,
    vocabulary: Vocabulary,
    *,
    config: EncoderConfig,
    metrics: dict[str, object],
    credit: str = "",
    name: str = "everyday",
) -> None:
    """Write a model folder that needs nothing else, with float16 weights.

    Args:
        folder: of the model.
        encoder: made by `config`.
        decoder: trained.
        vocabulary: the words.
        config: of the encoder.
        metrics: scores with their settings.
        credit: notes on the data for the model card.
        name: of the model.
    """
    recipe = Recipe(
        name,
        replace(config, weights="", trainable=False, frozen_blocks=0),  # the folder has them
        decoder.config,
        data=DataConfig(credit=credit, min_count=MIN_COUNT, max_length=LONGEST),
        decoding=DecodingConfig(block_ngram=OPTIONS.block_ngram),
    )
    captioner = Captioner(encoder, decoder, vocabulary, recipe, name=name)
    captioner.save(folder, metrics=metrics, half=True)
