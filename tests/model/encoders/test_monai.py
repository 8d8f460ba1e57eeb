"""MONAI networks as encoders of scans: where cells lie, what is cut off, what is refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from regard.config import EncoderConfig, VolumeConfig
from regard.errors import ConfigError, MissingExtra
from regard.model.encoders import Encoder, build_encoder

SHAPE = (16, 32, 24)
SMALL = VolumeConfig(shape=SHAPE, channels=(4, 8, 8, 8))
CONFIG = EncoderConfig("monai:resnet10", level="stride8", medium="volume", volume=SMALL)


def build(**settings: Any) -> Encoder:
    return build_encoder(replace(CONFIG, **settings))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return build()


def test_cells_cover_the_input_evenly(encoder: Encoder) -> None:
    assert encoder.grid_axes == ("slices", "rows", "cols")
    assert encoder.grid_shape == (2, 4, 3)
    assert encoder.input_shape == (1, *SHAPE)
    with torch.no_grad():
        assert encoder(torch.randn(2, 1, *SHAPE)).shape == (2, 24, encoder.annotation_dim)


def test_a_vector_looks_around_the_middle_of_its_cell() -> None:
    """A cell's receptive field is centred on the cell to within half a voxel.

    Without the shift it would be 3.5 voxels off; random weights move it by some tenths.
    """
    shape = (48, 48, 48)
    encoder = build(volume=VolumeConfig(shape=shape, channels=(8, 16, 16, 16)))
    middle = 3 * 36 + 3 * 6 + 3  # cell (3, 3, 3): voxels 24 to 32
    generator = torch.Generator().manual_seed(0)
    weight = torch.zeros(shape)
    for _ in range(16):
        pixels = torch.randn(1, 1, *shape, generator=generator).requires_grad_()
        direction = torch.randn(encoder.annotation_dim, generator=generator)
        found = torch.autograd.grad(encoder(pixels)[0, middle] @ direction, pixels)[0]
        weight += found[0, 0].abs()
    # GroupNorm gives every voxel some weight; what is left is where the kernels look.
    weight = (weight - 0.1 * weight.max()).clamp_min(0)
    for axis in range(3):
        profile = weight.sum([other for other in range(3) if other != axis])
        centre = float((profile * (torch.arange(48) + 0.5)).sum() / profile.sum())
        assert centre == pytest.approx(28, abs=1.25)


def test_a_batch_is_its_items_one_by_one(encoder: Encoder) -> None:
    pixels = torch.randn(3, 1, *SHAPE)
    with torch.no_grad():
        together = encoder(pixels)
        alone = torch.cat([encoder(p[None]) for p in pixels])
        masked = encoder(pixels, torch.ones(3, 24, dtype=torch.bool))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together, masked, rtol=0, atol=0)


def test_fresh_weights_are_always_the_same_and_random_numbers_go_on_unmoved(
    encoder: Encoder,
) -> None:
    before = torch.random.get_rng_state()
    again = build()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again.digest() == encoder.digest()


def test_batch_norm_becomes_group_norm_and_what_follows_the_map_is_gone(encoder: Encoder) -> None:
    kinds = [type(module) for module in encoder.modules()]
    assert nn.GroupNorm in kinds
    assert nn.BatchNorm3d not in kinds
    assert not any(".layer4." in key for key in encoder.state_dict())
    assert any(".layer3." in key for key in encoder.state_dict())


def test_it_trains(encoder: Encoder) -> None:
    made = build(trainable=True).train()
    made(torch.randn(2, 1, *SHAPE)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())
    assert not any(p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize(
    ("name", "level", "cells"),
    [
        ("resnet10", "layer2", (4, 8, 6)),
        ("resnet18", "stride8", (2, 4, 3)),
        ("UNet?channels=[4,8,8]", "stride4", (4, 8, 6)),
        ("SegResNet?init_filters=8", "stride4", (4, 8, 6)),
        ('EfficientNetBN?model_name="efficientnet-b0"', "stride8", (2, 4, 3)),
    ],
)
def test_networks_by_name(name: str, level: str, cells: tuple[int, ...]) -> None:
    channels = SMALL.channels if name.startswith("resnet") else ()
    volume = replace(SMALL, channels=channels)
    made = build(name=f"monai:{name}", level=level, volume=volume)
    assert made.grid_shape == cells


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "monai:resnet11"}, "no network 'resnet11'.*'resnet10'"),
        ({"level": "stride7"}, "no such map.*layer3 of 2×4×3 cells"),
        ({"level": "layer9"}, "'layer9'"),
        ({"level": "layer3", "volume": replace(SMALL, shape=(16, 32, 20))}, "do not cover it"),
        ({"volume": replace(SMALL, channels=(4, 8))}, "resnet10 has 4 stages"),
        ({"name": "monai:UNet"}, "only ResNets"),
        ({"name": "monai:UNet?channels=[", "volume": VolumeConfig(SHAPE)}, "not a TOML key=value"),
        ({"name": "monai:DynUNet", "volume": VolumeConfig(SHAPE)}, "cannot build.*kernel_size"),
        ({"name": "monai:SwinUNETR", "volume": VolumeConfig(SHAPE)}, "cannot read an input of"),
        ({"medium": "image"}, "reads volumes only"),
    ],
)
def test_what_cannot_be_used_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**settings)


def test_without_monai_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai", None)
    monkeypatch.delitem(sys.modules, "monai.networks.nets", raising=False)
    with pytest.raises(MissingExtra, match=r"regard\[monai\]"):
        build()


def test_monai_imports_beside_a_broken_torchvision() -> None:
    code = """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
sys.meta_path.insert(0, Broken())
import monai.networks.nets
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
