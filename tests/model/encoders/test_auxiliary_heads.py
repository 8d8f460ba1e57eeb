"""Numbers and shares in an encoder's vectors, and weights from a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from regard.config import EncoderConfig, VolumeConfig
from regard.errors import ConfigError
from regard.model.encoders import AuxiliaryHeads, build_encoder

CONFIG = EncoderConfig(
    "monai:resnet10",
    level="stride4",
    medium="volume",
    volume=VolumeConfig((8, 8, 8), channels=(4, 8, 8, 8), numbers=1, parts=1),
)


def test_a_number_is_the_mean_of_its_cells_contributions() -> None:
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
    encoder = build_encoder(CONFIG)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.add_(0.1)
    path = tmp_path / "encoder.safetensors"
    save_file(encoder.state_dict(), path)
    config = replace(CONFIG, weights=str(path))
    assert build_encoder(config).digest() == encoder.digest()
    # A checkpoint has its own weights: then the file is not needed.
    path.unlink()
    assert build_encoder(config, pretrained=False).digest() == build_encoder(CONFIG).digest()
    with pytest.raises(ConfigError, match=r"encoder\.weights is .*encoder\.safetensors"):
        build_encoder(config)
    save_file({"other": torch.zeros(1)}, path)
    with pytest.raises(ConfigError, match="does not fit monai:resnet10"):
        build_encoder(config)
