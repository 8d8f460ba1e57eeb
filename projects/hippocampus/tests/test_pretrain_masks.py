"""The encoder learns shares and numbers of toy scans."""

from __future__ import annotations

from typing import Any

import torch

from projects.hippocampus.pretrain_masks import Targets, pretrain_encoder
from regard.config import EncoderConfig, VolumeConfig
from regard.model.encoders import TaughtEncoder, build_encoder

CONFIG = EncoderConfig(
    "monai:resnet10",
    level="stride4",
    medium="volume",
    volume=VolumeConfig((8, 8, 8), channels=(4, 8, 8, 8), numbers=1, parts=1),
)


def toy_targets() -> Targets:
    """One bright cell of eight; the number says whether it lies above."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(8, (64,), generator=generator)
    shares = torch.nn.functional.one_hot(cells, 8).float().unsqueeze(-1)
    pixels = shares.reshape(64, 1, 2, 2, 2)
    for axis in (2, 3, 4):
        pixels = pixels.repeat_interleave(4, axis)
    pixels = pixels + 0.1 * torch.rand(pixels.shape, generator=generator)
    return Targets(pixels, (cells >= 4).float()[:, None] * 2 - 1, shares)


def taught(**settings: Any) -> TaughtEncoder:
    encoder = build_encoder(CONFIG)
    assert isinstance(encoder, TaughtEncoder)
    pretrain_encoder(encoder, toy_targets(), **settings)
    return encoder


def test_it_learns_its_targets_and_ends_frozen() -> None:
    targets = toy_targets()
    losses: list[float] = []
    state = torch.random.get_rng_state()
    encoder = taught(
        epochs=30, learning_rate=1e-2, report=lambda epoch, loss: losses.append(loss)
    )  # fmt: skip
    assert torch.equal(torch.random.get_rng_state(), state)
    assert losses[-1] < 0.3 * losses[0]
    with torch.no_grad():
        numbers, shares = encoder.answered(encoder(targets.pixels))
    assert ((numbers > 0) == (targets.numbers > 0)).float().mean() > 0.95
    assert (shares[..., 0].argmax(1) == targets.shares[..., 0].argmax(1)).float().mean() > 0.95
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())


def test_a_seed_gives_the_same_encoder() -> None:
    one, again, other = (taught(epochs=1, seed=seed).digest() for seed in (1, 1, 2))
    assert one == again != other
