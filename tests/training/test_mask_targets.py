"""An encoder is taught by shares and numbers, and training starts from its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from regard.config import EncoderConfig, VolumeConfig
from regard.encoders import Encoder, build_encoder
from regard.errors import ConfigError
from regard.training.mask_targets import Heads, Targets, teach_encoder

CONFIG = EncoderConfig(
    "monai:resnet10",
    level="stride4",
    medium="volume",
    volume=VolumeConfig((8, 8, 8), channels=(4, 8, 8, 8)),
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


def test_it_learns_what_it_is_taught_and_ends_frozen() -> None:
    encoder, targets = build_encoder(CONFIG), toy_targets()
    losses: list[float] = []
    state = torch.random.get_rng_state()
    heads = teach_encoder(
        encoder, targets, epochs=30, learning_rate=1e-2,
        report=lambda epoch, loss, heads: losses.append(loss),
    )  # fmt: skip
    assert torch.equal(torch.random.get_rng_state(), state)
    assert losses[-1] < 0.3 * losses[0]
    with torch.no_grad():
        numbers, shares = heads(encoder(targets.pixels))
    assert ((numbers > 0) == (targets.numbers > 0)).float().mean() > 0.95
    assert (shares[..., 0].argmax(1) == targets.shares[..., 0].argmax(1)).float().mean() > 0.95
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())


def test_a_seed_gives_the_same_encoder() -> None:
    def taught(seed: int) -> Encoder:
        encoder = build_encoder(CONFIG)
        teach_encoder(encoder, toy_targets(), epochs=1, seed=seed)
        return encoder

    assert taught(1).digest() == taught(1).digest() != taught(2).digest()


def test_the_first_look_is_spread_evenly() -> None:
    heads = Heads(6, 8, 3, 2)
    vectors = torch.randn(2, 8, 6)
    heads.value.data.normal_()
    numbers, shares = heads(vectors)
    even = heads.norm(vectors).mean(1)
    torch.testing.assert_close(numbers, even @ heads.value.T + heads.bias)
    assert shares.shape == (2, 8, 2)


def test_training_starts_from_a_file_of_weights(tmp_path: Path) -> None:
    encoder = build_encoder(CONFIG)
    teach_encoder(encoder, toy_targets(), epochs=1)
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
