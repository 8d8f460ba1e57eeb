"""An encoder of scans is taught by masks and numbers before any word is: few scans, much to see.

A caption of a hundred words says eighteen facts: too little a signal for a fresh network to learn
to see by. A mask says of every cell which share of it each part fills, and the facts' numbers are
known. So the encoder (`regard.model.encoders.auxiliary_heads`) learns both, and its vectors go on
saying them. It has then seen the masks of the training scans, and of no other. Where attention
lies on a part, the encoder knew parts before the decoder knew words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.model.encoders import AuxiliaryHeads

_SHARES_WEIGHT = 2.0  # of the shares' loss beside that of the numbers
_BRIGHTNESS = 0.1  # standard deviation of a random factor and of a random addition
_NOISE = 0.03


@dataclass(frozen=True)
class Targets:
    """What an encoder is taught with, N scans.

    Attributes:
        pixels: (N, *input_shape) float32.
        numbers: (N, K), standardised.
        shares: (N, L, P) in 0..1, of each cell that each part fills.
    """

    pixels: Tensor
    numbers: Tensor
    shares: Tensor


def teach_encoder(
    encoder: AuxiliaryHeads,
    targets: Targets,
    *,
    epochs: int,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
    seed: int = 0,
    report: Callable[[int, float], None] = lambda epoch, loss: None,
) -> None:
    """Train an encoder in place, by AdamW with a cosine schedule.

    The loss is the mean squared error of the numbers plus twice the binary cross-entropy of the
    shares, each averaged over all that it is of.

    Args:
        encoder: says K numbers and P shares; all of it is trained, and it ends frozen and in
            evaluation mode.
        targets: of the training scans.
        epochs: passes over them.
        batch_size: scans a step.
        learning_rate: at the beginning.
        seed: of order and noise.
        report: is told (epoch, loss) after each epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    encoder.requires_grad_(True)
    weights = list(encoder.parameters())
    optimizer = torch.optim.AdamW(weights, learning_rate, weight_decay=0.01)
    steps = epochs * -(-len(targets.pixels) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs):
        encoder.train()
        losses: list[float] = []
        for batch in _batches(targets, batch_size, generator):
            numbers, shares = encoder.predictions(encoder(batch.pixels))
            loss = F.mse_loss(numbers, batch.numbers)
            loss = loss + _SHARES_WEIGHT * F.binary_cross_entropy_with_logits(shares, batch.shares)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        encoder.eval()
        report(epoch + 1, sum(losses) / len(losses))
    encoder.requires_grad_(False)


def _batches(targets: Targets, size: int, generator: torch.Generator) -> Iterator[Targets]:
    order = torch.randperm(len(targets.pixels), generator=generator)
    for index in order.split(size):
        pixels = targets.pixels[index]
        shape = (len(index), *[1] * (pixels.dim() - 1))
        factor = 1 + _BRIGHTNESS * torch.randn(shape, generator=generator)
        more = _BRIGHTNESS * torch.randn(shape, generator=generator)
        noise = _NOISE * torch.randn(pixels.shape, generator=generator)
        # What is 0 may lie outside the scan, and stays 0.
        pixels = torch.where(pixels == 0, pixels, pixels * factor + more + noise)
        yield Targets(pixels, targets.numbers[index], targets.shares[index])
