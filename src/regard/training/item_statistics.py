"""Statistics of the training items, stored with the model for out-of-distribution checks."""

from __future__ import annotations

import numpy as np
import torch

from regard.errors import ConfigError
from regard.model.encoders import Encoder
from regard.reliability.out_of_distribution import ItemStats, OutOfDistributionDetector
from regard.training.inputs import Pictures
from regard.training.prepare import Splits

_ITEMS = 400  # looked at, evenly spread over the training items
_FEWEST = 10
_AT_ONCE = 16


def check_enough(splits: Splits) -> None:
    """Refuse, before anything is trained, too few items to say what they have in common.

    Raises:
        ConfigError: there are too few.
    """
    items = splits.train.items
    if len(items) < _FEWEST:
        raise ConfigError(
            f"data.familiarity is true, and {len(items)} training items are too few to say what "
            f"is familiar; wanted {_FEWEST} or more. Set it to false."
        )


def learn_familiarity(
    encoder: Encoder, splits: Splits, pictures: Pictures
) -> OutOfDistributionDetector:
    """Look at training items as the trained encoder sees them."""
    items = splits.train.items
    chosen = [items[i] for i in np.unique(np.linspace(0, len(items) - 1, _ITEMS).astype(int))]
    measured: list[ItemStats] = []
    for start in range(0, len(chosen), _AT_ONCE):
        media = [pictures.media(item.file) for item in chosen[start : start + _AT_ONCE]]
        inputs = [encoder.prepare(m) for m in media]
        with torch.inference_mode():
            pixels, mask = (
                torch.from_numpy(np.stack(arrays))
                for arrays in ([i.pixels for i in inputs], [i.mask for i in inputs])
            )
            vectors = encoder(pixels, mask).float().numpy()
        measured += [ItemStats.measure(*seen) for seen in zip(media, inputs, vectors, strict=True)]
    return OutOfDistributionDetector.fit(encoder.medium, measured)
