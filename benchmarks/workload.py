"""The timed work: sizes, captions, a decoder, and the number of operations.

Sizes are those of the literature: 196 cells, everything else 512, 9,490 words (COCO's at five
occurrences or more), captions of 7 to 20 words.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regard.config import DecoderConfig
from regard.model.decoder import AttentionDecoder
from regard.model.encoders import Encoder
from regard.text.vocabulary import END, SPECIALS
from regard.training.batches import Chunk, collate
from regard.training.objectives.base import Batch

SHORTEST, LONGEST, MEAN_WORDS = 7, 20, 10.5
_FAILURES = 5  # of the negative binomial; 5 gives COCO's standard deviation of 2.4 words


@dataclass(frozen=True)
class Sizes:
    """Sizes of a decoder and its grid (names as in `regard.types`)."""

    annotation_dim: int = 512
    embedding_dim: int = 512
    hidden_dim: int = 512
    attention_dim: int = 512
    cells: int = 196
    vocabulary: int = 9490
    gate: str = "feature"

    def to_json(self) -> dict[str, Any]:
        """Return the sizes as plain values."""
        return asdict(self)


def caption_lengths(count: int, generator: np.random.Generator) -> np.ndarray:
    """Draw caption lengths in words, (count,): from 7 to 20, mean 10.5, standard deviation 2.4.

    7 plus a negative binomial number of mean 3.5, cut at 20, which 3 captions in 1,000 reach.
    """
    mean = MEAN_WORDS - SHORTEST
    more = generator.negative_binomial(_FAILURES, _FAILURES / (_FAILURES + mean), count)
    return np.minimum(SHORTEST + more, LONGEST)


def build_decoder(sizes: Sizes, *, seed: int = 0, dropout: float = 0.5) -> AttentionDecoder:
    """Build a decoder of these sizes with random weights; torch's generator is unchanged."""
    config = DecoderConfig(
        embedding_dim=sizes.embedding_dim,
        hidden_dim=sizes.hidden_dim,
        attention_dim=sizes.attention_dim,
        gate=sizes.gate,
        dropout=dropout,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AttentionDecoder(
            config, annotation_dim=sizes.annotation_dim, vocabulary_size=sizes.vocabulary
        )


class Stored(Encoder):
    """Stand-in for a frozen encoder whose vectors lie in a store; it has no weights."""

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the input: the vectors exist already."""
        return pixels


def draw_vectors(items: int, sizes: Sizes, seed: int) -> Tensor:
    """Draw annotation vectors (N, L, D) like those of a network's last ReLU: half are 0."""
    generator = torch.Generator().manual_seed(seed)
    shape = (items, sizes.cells, sizes.annotation_dim)
    return torch.randn(shape, generator=generator).clamp_(min=0)


def make_batch(items: int, captions_per_item: int, sizes: Sizes, *, seed: int = 0) -> Batch:
    """Draw a batch of N pictures with G captions each, lengths mixed as they come.

    Args:
        items: N.
        captions_per_item: G.
        sizes: sizes of the decoder.
        seed: seed of everything that is drawn.
    """
    generator = np.random.default_rng(seed)
    chunks = [
        Chunk(item, _captions(captions_per_item, sizes.vocabulary, generator))
        for item in range(items)
    ]
    tokens, targets, steps = collate(chunks)
    vectors = draw_vectors(items, sizes, seed)
    mask = torch.ones(vectors.shape[:2], dtype=torch.bool)
    return Batch(vectors, mask, tokens, targets, steps, tuple(range(items)))


def _captions(
    count: int, words: int, generator: np.random.Generator
) -> tuple[tuple[int, ...], ...]:
    lengths = caption_lengths(count, generator)
    drawn = [tuple(generator.integers(len(SPECIALS), words, n).tolist()) for n in lengths]
    return tuple(sorted(drawn, key=len))


def step_operations(sizes: Sizes, words_read: int, captions: int, items: int) -> float:
    """Return the useful floating-point operations of one training step.

    Forward 2LDA + 4DH per picture, and per word that is read (the start token among them)
    2HA + 4LA + 2LD + 8H(E + D + H) + 2HE + 2DE + 2EV, and 2HD or 2H for the gate. Backward takes
    twice that, but once for the projection, the context sum and the first state, since the
    annotations need no gradient. Padding does not count. The start is counted per caption.

    Args:
        sizes: sizes of the decoder.
        words_read: sum over the captions of their words + 1.
        captions: B.
        items: N pictures.
    """
    of_pictures, of_captions, of_word, of_context = _forward(sizes)
    once = items * of_pictures + captions * of_captions + words_read * of_context
    thrice = words_read * (of_word - of_context)
    return 2.0 * once + 3.0 * thrice


def decode_operations(sizes: Sizes, rows_read: int, items: int) -> float:
    """Return the useful operations of decoding: `rows_read` words over all beams, N pictures."""
    of_pictures, of_captions, of_word, _ = _forward(sizes)
    return float(items * (of_pictures + of_captions) + rows_read * of_word)


def _forward(sizes: Sizes) -> tuple[int, int, int, int]:
    """Return the operations per picture, per caption, per word, and the context sum's of those."""
    d, e, h, a = (sizes.annotation_dim, sizes.embedding_dim, sizes.hidden_dim, sizes.attention_dim)
    cells, words = sizes.cells, sizes.vocabulary
    gate = {"none": 0, "scalar": 2 * h, "feature": 2 * h * d}[sizes.gate]
    attention = 2 * h * a + 4 * cells * a + 2 * cells * d + gate
    output = 2 * h * e + 2 * d * e + 2 * e * words
    of_word = attention + 8 * h * (e + d + h) + output
    return 2 * cells * d * a, 4 * d * h, of_word, 2 * cells * d


def add_clock(decoder: AttentionDecoder, *, sharpness: float = 40.0) -> None:
    """Make a decoder end every caption after the number of words in its picture's first feature.

    Untrained weights never predict the end of a caption. So one unit of the LSTM becomes a
    clock: it starts at -(words + 1/2) / 32, read from the mean of feature 0, goes up by 1 / 32
    with every word, and drives the end token's logit through a unit of the deep output. The
    rest of the decoder stays random. Every implementation that runs these weights ends there.

    Args:
        decoder: soft attention, with `init = "mlp"` and a tanh output; changed in place.
        sharpness: half the swing of the end token's logit.
    """
    hidden = decoder.config.hidden_dim
    weights = dict(decoder.named_parameters())
    with torch.no_grad():
        for gate, bias in enumerate((30.0, 30.0, 30.0, float(np.arctanh(1 / 32)))):  # i, f, o, g
            row = gate * hidden
            weights["lstm_word.weight"][row] = 0
            weights["lstm_word.bias"][row] = bias
            weights["lstm_recurrent.weight"][row] = 0
        weights["init_memory.0.weight"][0] = 0
        weights["init_memory.0.weight"][0, 0] = 1
        weights["init_memory.0.bias"][0] = 0
        weights["embedding.weight"][:, 0] = 0
        weights["output_hidden.weight"][0] = 0
        weights["output_hidden.weight"][0, 0] = 1000
        weights["output_context.weight"][0] = 0
        weights["output_context.bias"][0] = 0
        weights["output.weight"][:, 0] = 0
        weights["output.weight"][END] = 0
        weights["output.weight"][END, 0] = sharpness
        weights["output.bias"][END] = 0


def set_lengths(vectors: Tensor, lengths: np.ndarray) -> Tensor:
    """Return vectors (N, L, D) whose first feature encodes each caption's length (N,)."""
    told = vectors.clone()
    start = np.arctanh(-(lengths + 0.5) / 32)
    told[:, :, 0] = torch.from_numpy(start).to(told.dtype)[:, None]
    return told
