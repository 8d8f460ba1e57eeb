"""Published Flickr8k scores that a model's own row is set beside."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedRow:
    """One row of a paper.

    Attributes:
        name: whose captions.
        conditions: split, tokenizer, beam and references, as far as they are known.
        scores: × 100 by metric.
    """

    name: str
    conditions: str
    scores: dict[str, float]


_PAPER = "test · own BLEU, no brevity penalty · beam not stated · 5 refs"

FLICKR8K = (
    PublishedRow(
        "Log Bilinear (Kiros et al. 2014)",
        _PAPER,
        {"bleu1": 65.6, "bleu2": 42.4, "bleu3": 27.7, "bleu4": 17.7, "meteor": 17.31},
    ),
    PublishedRow(
        "Soft attention (Xu et al. 2015)",
        _PAPER,
        {"bleu1": 67.0, "bleu2": 44.8, "bleu3": 29.9, "bleu4": 19.5, "meteor": 18.93},
    ),
    PublishedRow(
        "Hard attention (Xu et al. 2015)",
        _PAPER,
        {"bleu1": 67.0, "bleu2": 45.7, "bleu3": 31.4, "bleu4": 21.3, "meteor": 20.30},
    ),
    PublishedRow(
        "one person (middle of two draws)",
        "test · ptb · the other 4 refs",
        {
            "bleu1": 64.85,
            "bleu2": 45.9,
            "bleu3": 31.5,
            "bleu4": 21.55,
            "meteor": 25.65,
            "rouge_l": 49.75,
            "cider_d": 82.85,
        },
    ),
)
"""Near a model's row, not strictly comparable: the papers count BLEU their own way, the person
faces four references instead of five, and CIDEr-D depends on the split it is measured on."""
