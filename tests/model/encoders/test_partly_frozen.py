"""An EfficientNet-Lite whose first blocks stay as they are."""

from pathlib import Path

import pytest
import torch

from regard.config import EncoderConfig, VolumeConfig
from regard.errors import ConfigError
from regard.model.encoders import build_encoder
from tests.helpers import toys

SIZE = 64


def lite(**settings: object) -> EncoderConfig:
    given = {"name": "efficientnet_lite0", "image_size": SIZE, "trainable": True} | settings
    return EncoderConfig(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("level", "blocks"), [("stride32", 1), ("stride32", 11), ("stride32", 16), ("stride16", 5)]
)
def test_the_parts_in_turn_are_the_whole(level: str, blocks: int) -> None:
    encoder = build_encoder(lite(level=level, frozen_blocks=blocks))
    frozen = encoder.frozen_part()
    assert frozen is not None
    assert frozen is not encoder
    pixels = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    stored = frozen(pixels)
    cells = frozen.grid_shape[0] * frozen.grid_shape[1]
    assert stored.shape == (2, cells, frozen.annotation_dim)
    assert torch.equal(encoder.finish(stored), encoder(pixels))


def test_only_what_follows_the_frozen_blocks_has_gradients() -> None:
    encoder = build_encoder(lite(frozen_blocks=11))
    encoder.train()
    encoder(torch.randn(2, 3, SIZE, SIZE)).sum().backward()
    learning = {name for name, p in encoder.named_parameters() if p.grad is not None}
    last = {f"_blocks.{k}." for k in range(11, 16)} | {"_head."}
    assert learning == {
        name for name, _ in encoder.named_parameters() if any(name.startswith(x) for x in last)
    }


def test_frozen_as_a_whole_or_trained_as_a_whole_there_is_no_part() -> None:
    frozen = build_encoder(lite(trainable=False))
    assert frozen.frozen_part() is frozen
    kept = build_encoder(lite(trainable=False, frozen_blocks=11))
    assert kept.frozen_part() is kept
    vectors = torch.randn(1, 4, 1280)
    assert kept.finish(vectors) is vectors
    assert build_encoder(lite()).frozen_part() is None


def test_parts_with_other_weights_or_blocks_have_other_digests() -> None:
    digests = set()
    for blocks in (5, 11):
        encoder = build_encoder(lite(frozen_blocks=blocks))
        part = encoder.frozen_part()
        assert part is not None
        digests |= {part.digest(), encoder.digest()}
        with torch.no_grad():
            next(encoder.parameters()).add_(1.0)
        digests.add(part.digest())
    assert len(digests) == 5  # the two whole encoders are the same


def test_what_cannot_be_frozen_in_part_says_so() -> None:
    with pytest.raises(ConfigError, match="has 16 blocks"):
        build_encoder(lite(frozen_blocks=17))
    with pytest.raises(ConfigError, match="has 11 blocks"):
        build_encoder(lite(level="stride16", frozen_blocks=12))
    with pytest.raises(ConfigError, match="cannot be fine-tuned in part"):
        build_encoder(
            EncoderConfig(name="small_cnn", image_size=32, level="stride8", frozen_blocks=1)
        )


@pytest.mark.parametrize("medium", ["video", "volume"])
def test_clips_and_scans_by_a_partly_frozen_network_keep_it_frozen(medium: str) -> None:
    volume = VolumeConfig(shape=(2, SIZE, SIZE))
    encoder = build_encoder(lite(frozen_blocks=11, medium=medium, volume=volume))
    frozen = [name for name, p in encoder.named_parameters() if not p.requires_grad]
    assert len(frozen) == len(encoder.frozen_parameters()) > 0
    assert encoder.frozen_part() is None  # it reads pixels in every step


def test_training_may_start_from_the_encoder_of_another_model(tmp_path: Path) -> None:
    model = toys.captioner()
    model.save(tmp_path / "tuned")
    found = build_encoder(lite(weights=str(tmp_path / "tuned"), frozen_blocks=11))
    assert found.digest() == model.encoder.digest()
    wrong = {
        "none": (lite(), "which cannot be read: No such file"),
        "tuned": (lite(level="stride16"), "which does not fit efficientnet_lite0"),
    }
    for folder, (config, reason) in wrong.items():
        (tmp_path / folder).mkdir(exist_ok=True)
        path = str(tmp_path / folder)
        with pytest.raises(ConfigError, match=f"{folder}', {reason}"):
            build_encoder(EncoderConfig(config.name, SIZE, config.level, weights=path))
