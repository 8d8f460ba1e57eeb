"""Every encoder computes on the device of its input, and gives the CPU's vectors there."""

import math
from types import ModuleType

import pytest
import torch

from regard.config import EncoderConfig, VideoConfig, VolumeConfig
from regard.model.encoders import Encoder, build_encoder
from tests.helpers import toy_card

SCAN = VolumeConfig(shape=(8, 16, 16), spacing=(2.0, 2.0, 2.0), window="lung")
CONFIGS = {
    "small": EncoderConfig("small_cnn", 32, level="stride8"),
    "EfficientNet-Lite": EncoderConfig("efficientnet_lite0", 64),
    "GoogLeNet": EncoderConfig("googlenet", 64, level="stride16"),
    "frames": EncoderConfig(
        "small_cnn", 32, level="stride8", medium="video", video=VideoConfig(frames=3)
    ),
    "frames with motion": EncoderConfig(
        "small_cnn",
        32,
        level="stride8",
        medium="video",
        video=VideoConfig(frames=3, grid="spatio_temporal", motion="conv3d", motion_dim=5),
    ),
    "slices": EncoderConfig(
        "small_cnn",
        32,
        level="stride8",
        medium="volume",
        volume=VolumeConfig(shape=(4, 32, 32), window="lung"),
    ),
    "small of scans": EncoderConfig("small_cnn3d", level="stride4", medium="volume", volume=SCAN),
    "with auxiliary heads": EncoderConfig(
        "small_cnn3d",
        level="stride4",
        medium="volume",
        volume=VolumeConfig(shape=(8, 16, 16), window="lung", numbers=2, parts=3),
    ),
}


def compare(encoder: Encoder) -> None:
    device = toy_card.install()
    pixels = torch.randn(2, *encoder.input_shape, generator=torch.Generator().manual_seed(0))
    cells = math.prod(encoder.grid_shape)
    mask = torch.ones(2, cells, dtype=torch.bool)
    if encoder.medium == "video":
        mask[1, cells // 3 :] = False  # a clip of one frame
    for given in (None, mask):
        with torch.no_grad():
            wanted = encoder(pixels, given)
    moved = encoder.to(device)
    found = moved(pixels.to(device), mask.to(device))
    assert found.device.type == toy_card.NAME
    torch.testing.assert_close(found.detach().cpu(), wanted, rtol=1e-4, atol=1e-5)
    if any(p.requires_grad for p in moved.parameters()):
        found.sum().backward()
        assert all(p.grad is None or p.grad.device == p.device for p in moved.parameters())
    meta = moved.to("cpu").to("meta")
    assert meta(pixels.to("meta"), None).device.type == "meta"


@pytest.mark.parametrize("name", CONFIGS)
def test_encoders_follow_their_input(name: str) -> None:
    config = CONFIGS[name]
    compare(build_encoder(config, pretrained=False).requires_grad_(name != "EfficientNet-Lite"))


def test_a_timm_backbone_follows_its_input(timm: ModuleType) -> None:
    compare(
        build_encoder(EncoderConfig("timm:test_resnet.r160_in1k", 64, level="3"), pretrained=False)
    )


def test_a_monai_network_follows_its_input() -> None:
    pytest.importorskip("monai")
    config = EncoderConfig(
        "monai:resnet10",
        level="stride8",
        medium="volume",
        volume=VolumeConfig(shape=(16, 32, 24), channels=(4, 8, 8, 8)),
    )
    compare(build_encoder(config, pretrained=False))
