"""An encoder is taught by shares and numbers, and training starts from its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from projects.hippocampus.pretrain_masks import Targets, teach_encoder
from regard.config import EncoderConfig, VolumeConfig
from regard.errors import ConfigError
from regard.model.encoders import AuxiliaryHeads, build_encoder

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


def taught(**settings: Any) -> AuxiliaryHeads:
    encoder = build_encoder(CONFIG)
    assert isinstance(encoder, AuxiliaryHeads)
    teach_encoder(encoder, toy_targets(), **settings)
    return encoder


def test_it_learns_what_it_is_taught_and_ends_frozen() -> None:
    targets = toy_targets()
    losses: list[float] = []
    state = torch.random.get_rng_state()
    encoder = taught(
        epochs=30, learning_rate=1e-2, report=lambda epoch, loss: losses.append(loss)
    )  # fmt: skip
    assert torch.equal(torch.random.get_rng_state(), state)
    assert losses[-1] < 0.3 * losses[0]
    with torch.no_grad():
        numbers, shares = encoder.predictions(encoder(targets.pixels))
    assert ((numbers > 0) == (targets.numbers > 0)).float().mean() > 0.95
    assert (shares[..., 0].argmax(1) == targets.shares[..., 0].argmax(1)).float().mean() > 0.95
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())


def test_a_seed_gives_the_same_encoder() -> None:
    one, again, other = (taught(epochs=1, seed=seed).digest() for seed in (1, 1, 2))
    assert one == again != other


def test_a_number_is_the_mean_of_what_its_cells_say() -> None:
    encoder = build_encoder(CONFIG)
    assert isinstance(encoder, AuxiliaryHeads)
    plain = build_encoder(
        replace(CONFIG, volume=replace(CONFIG.volume, numbers=0, parts=0))
    )  # fmt: skip
    assert encoder.annotation_dim == plain.annotation_dim + 1 + 1
    pixels = torch.randn(2, 1, 8, 8, 8)
    with torch.no_grad():
        vectors = encoder(pixels)
        numbers, shares = encoder.predictions(vectors)
        normed = encoder.norm(plain(pixels))
    torch.testing.assert_close(vectors[..., :-2], normed)
    torch.testing.assert_close(numbers, vectors[..., -2:-1].mean(1))
    torch.testing.assert_close(shares, vectors[..., -1:])


def test_training_starts_from_a_file_of_weights(tmp_path: Path) -> None:
    encoder = taught(epochs=1)
    path = tmp_path / "encoder.safetensors"
    save_file(encoder.state_dict(), path)
    config = replace(CONFIG, weights=str(path))
    assert build_encoder(config).digest() == encoder.digest()
    # A checkpoint brings its own weights: the file is then not needed.
    path.unlink()
    assert build_encoder(config, pretrained=False).digest() == build_encoder(CONFIG).digest()
    with pytest.raises(ConfigError, match=r"encoder\.weights is .*encoder\.safetensors"):
        build_encoder(config)
    save_file({"other": torch.zeros(1)}, path)
    with pytest.raises(ConfigError, match="does not give monai:resnet10 its weights"):
        build_encoder(config)
