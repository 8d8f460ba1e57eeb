"""A picture's encoder on the slices of a scan, from voxels to a caption."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from regard.captioner import Captioner
from regard.config import DecoderConfig, EncoderConfig, Recipe, VolumeConfig
from regard.errors import ConfigError
from regard.model.encoders import Encoder, build_encoder
from tests.helpers import toys

CONFIG = EncoderConfig(
    "efficientnet_lite0",
    image_size=64,
    medium="volume",
    volume=VolumeConfig((6, 64, 64), (2.0, 1.0, 1.0)),
)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return build_encoder(CONFIG, pretrained=False)


def test_every_slice_is_a_grey_picture(encoder: Encoder) -> None:
    assert encoder.grid_axes == ("slices", "rows", "cols")
    assert encoder.grid_shape == (6, 2, 2)
    pixels = torch.rand(2, 1, 6, 64, 64)
    plain = build_encoder(replace(CONFIG, medium="image"), pretrained=False)
    plain.load_state_dict(
        {
            key.removeprefix("picture."): value
            for key, value in encoder.state_dict().items()
            if key.startswith("picture.")
        }
    )
    with torch.no_grad():
        vectors = encoder(pixels)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (plain.spec.mean, plain.spec.std))  # type: ignore[union-attr]
        grey = (pixels[1, :, 4].expand(3, -1, -1) * 255 - mean) / std
        alone = plain(grey[None])[0]
    torch.testing.assert_close(vectors[1, 16:20], alone, rtol=1e-4, atol=1e-4)


def test_a_slice_knows_nothing_of_the_others(encoder: Encoder) -> None:
    pixels = torch.rand(1, 1, 6, 64, 64)
    changed = pixels.clone()
    changed[:, :, 3] = 0
    with torch.no_grad():
        same = (encoder(pixels) == encoder(changed)).all(-1)[0]
    assert same.reshape(6, 4).all(1).tolist() == [True, True, True, False, True, True]


def test_from_a_scan_to_a_caption_on_its_millimetres(encoder: Encoder) -> None:
    sizes = {"embedding_dim": 8, "hidden_dim": 10, "attention_dim": 7, "grid_shape": (6, 2, 2)}
    recipe = Recipe(name="slices", encoder=CONFIG, decoder=DecoderConfig(**sizes))  # type: ignore[arg-type]
    decoder = toys.decoder(annotation_dim=encoder.annotation_dim)
    model = Captioner(encoder, decoder, toys.vocabulary(), recipe, name="slices")
    voxels = np.random.default_rng(0).random((10, 50, 60), np.float32)
    made = model.caption(voxels, min_length=3, max_length=5)
    assert made.medium == "volume"
    assert made.trace.alpha.shape[1] == 24
    assert made.grid.source_size == (10, 50, 60)
    assert made.grid.extent == ((-1, 11), (-7, 57), (-2, 62))
    assert made.notices == ("Not for clinical use.",)


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (VolumeConfig((6, 64, 32)), r"reads slices of 64 × 64: set it to \[slices, 64, 64\]"),
        (VolumeConfig((6, 64, 64), window="zscore"), "'zscore'.*use percentile"),
    ],
)
def test_what_a_slice_encoder_cannot_read(volume: VolumeConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_encoder(replace(CONFIG, volume=volume), pretrained=False)
