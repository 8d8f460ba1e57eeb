"""CLIP's tower in a small size, made-up weights of it, and captioners that use it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from regard.captioner import Captioner
from regard.config import EncoderConfig, Recipe, VideoConfig
from regard.model.encoders import Encoder, build_encoder, clip_vit
from regard.model.encoders.clip_vit import TowerSizes
from tests.helpers import toys

SIZES = TowerSizes(patch=8, width=16, heads=2, blocks=3, embedding=8)
CONFIG = EncoderConfig("clip_vit_b16", image_size=32, level="last")


def use_small_towers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_vit, "VIT_B16", SIZES)


def hub_weights(*, seed: int = 0, cells: int = 16) -> dict[str, Tensor]:
    """Weights in the form of Hugging Face's CLIP, its other parts among them."""
    draw = np.random.default_rng(seed)
    width = SIZES.width

    def drawn(*shape: int) -> Tensor:
        return torch.from_numpy(draw.normal(0, 0.5, shape).astype(np.float32))

    found = {
        "logit_scale": torch.tensor(4.6),
        "text_model.final_layer_norm.weight": drawn(8),
        "visual_projection.weight": drawn(8, width),
        "vision_model.embeddings.class_embedding": drawn(width),
        "vision_model.embeddings.patch_embedding.weight": drawn(width, 3, 8, 8) / 8,
        "vision_model.embeddings.position_embedding.weight": drawn(1 + cells, width),
        "vision_model.embeddings.position_ids": torch.arange(1 + cells)[None],
    }
    norms = ["pre_layrnorm", "post_layernorm"]
    for block in range(SIZES.blocks):
        layer = f"encoder.layers.{block}."
        norms += [layer + "layer_norm1", layer + "layer_norm2"]
        sizes = {f"self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}
        sizes |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        for name, shape in sizes.items():
            found[f"vision_model.{layer}{name}.weight"] = drawn(*shape)
            found[f"vision_model.{layer}{name}.bias"] = drawn(shape[0])
    for name in norms:
        found[f"vision_model.{name}.weight"] = 1 + drawn(width)
        found[f"vision_model.{name}.bias"] = drawn(width)
    return found


def tower(*, seed: int = 0, level: str = "last", video: VideoConfig | None = None) -> Encoder:
    """Return a small encoder with made-up weights, rounded to 8 bits."""
    medium = "image" if video is None else "video"
    config = EncoderConfig(
        "clip_vit_b16", 32, level, medium=medium, video=video or VideoConfig(frames=2)
    )
    encoder = build_encoder(config, pretrained=False)
    picture = encoder if video is None else encoder.get_submodule("picture")
    assert isinstance(picture, clip_vit.ClipVit)
    picture.load_pretrained(hub_weights(seed=seed), "made up")
    return encoder


def captioner(
    *, seed: int = 0, decoder_seed: int = 0, level: str = "last", video: VideoConfig | None = None
) -> Captioner:
    encoder = tower(seed=seed, level=level, video=video)
    grid = {"grid_shape": encoder.grid_shape}
    made = toys.decoder(annotation_dim=encoder.annotation_dim, seed=decoder_seed, **grid)
    config = EncoderConfig("clip_vit_b16", 32, level)
    if video is not None:
        config = EncoderConfig("clip_vit_b16", 32, level, medium="video", video=video)
    recipe = Recipe(name="toy", encoder=config, decoder=made.config)
    return Captioner(encoder, made, toys.vocabulary(), recipe, name="toy")


def saved(folder: Path, *, level: str = "last", **seeds: int) -> Path:
    """Save a small captioner in 8 bits."""
    captioner(level=level, **seeds).save(folder, int8=True)
    return folder
