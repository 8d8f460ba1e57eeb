"""Motion features: they see the frames around their own, and never the padding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from regard.captioner import Captioner
from regard.config import EncoderConfig, OptimizerConfig, VideoConfig
from regard.errors import ConfigError
from regard.model.encoders import Encoder, build_encoder
from regard.model.encoders.sequences import LAYERS
from regard.training.state import build_optimizer
from tests.helpers import toys

APPEARANCE, MOTION = 64, 12


def encoder(
    frames: int, *, grid: str = "temporal", motion: str = "conv3d", trainable: bool = False
) -> Encoder:
    video = VideoConfig(frames=frames, grid=grid, motion=motion, motion_dim=MOTION)
    return build_encoder(
        EncoderConfig("small_cnn", 32, "stride8", medium="video", video=video, trainable=trainable)
    )


def clip(frames: int, *, count: int = 2, size: int = 32) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(count, frames, 3, size, size, generator=draw)


@pytest.mark.parametrize(("grid", "cells"), [("temporal", 1), ("spatio_temporal", 16)])
def test_padding_changes_no_vector(grid: str, cells: int) -> None:
    short, long = encoder(10, grid=grid), encoder(16, grid=grid)
    pixels = clip(10)
    # What lies on the padding is noise here, which it never is: it must not matter either.
    padded = torch.cat([pixels, 9 * clip(6)], 1)
    mask = (torch.arange(16 * cells) < 10 * cells).expand(2, -1)
    with torch.inference_mode():
        wanted, found = short(pixels), long(padded, mask)
    assert found.shape == (2, 16 * cells, APPEARANCE + MOTION)
    torch.testing.assert_close(found[:, : 10 * cells], wanted)
    assert bool((found[:, 10 * cells :] == 0).all())
    assert float(wanted[..., APPEARANCE:].std()) > 0.01


@pytest.mark.parametrize("grid", ["temporal", "spatio_temporal"])
def test_without_a_mask_all_frames_are_real(grid: str) -> None:
    eyes, pixels = encoder(5, grid=grid), clip(5)
    whole = torch.ones(2, math.prod(eyes.grid_shape), dtype=torch.bool)
    with torch.inference_mode():
        torch.testing.assert_close(eyes(pixels), eyes(pixels, whole))


def test_the_order_of_frames_is_in_motion_alone() -> None:
    eyes, pixels = encoder(8), clip(8)
    order = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    with torch.inference_mode():
        inorder, shuffled = eyes(pixels), eyes(pixels[:, order])
    torch.testing.assert_close(shuffled[..., :APPEARANCE], inorder[:, order, :APPEARANCE])
    gap = (shuffled[..., APPEARANCE:] - inorder[:, order, APPEARANCE:]).abs().mean()
    assert float(gap) > 0.01


def test_a_still_clip_played_backwards_is_the_same_and_a_moving_one_is_not() -> None:
    eyes, pixels = encoder(9), clip(9)
    still = pixels[:, :1].expand(-1, 9, -1, -1, -1)
    middle = slice(LAYERS + 1, 9 - LAYERS)  # sees neither end of the clip
    with torch.inference_mode():
        vectors = eyes(still)[:, middle, APPEARANCE:]
        torch.testing.assert_close(vectors, vectors[:, :1].expand_as(vectors))
        forward, backward = eyes(pixels)[:, 4], eyes(pixels.flip(1))[:, 4]
    torch.testing.assert_close(forward[:, :APPEARANCE], backward[:, :APPEARANCE])
    assert float((forward - backward)[:, APPEARANCE:].abs().mean()) > 0.01


def test_a_frame_sees_its_surroundings_and_no_more() -> None:
    eyes, pixels = encoder(16), clip(16, count=1).requires_grad_()
    eyes(pixels)[0, 8].sum().backward()
    assert pixels.grad is not None
    seen = torch.nonzero(pixels.grad[0].flatten(1).abs().sum(1)).flatten().tolist()
    assert seen == list(range(8 - LAYERS - 1, 8 + LAYERS + 1))


def test_large_frames_are_made_smaller_first() -> None:
    video = VideoConfig(frames=2, grid="spatio_temporal", motion="conv3d", motion_dim=MOTION)
    eyes = build_encoder(EncoderConfig("small_cnn", 128, "stride8", medium="video", video=video))
    with torch.inference_mode():
        assert eyes(clip(2, size=128)).shape == (2, 2 * 16 * 16, APPEARANCE + MOTION)


@pytest.mark.parametrize("trainable", [False, True])
def test_motion_is_trained_even_where_the_encoder_is_frozen(trainable: bool) -> None:
    eyes, decoder = (
        encoder(4, trainable=trainable),
        toys.decoder(annotation_dim=APPEARANCE + MOTION),
    )
    rates = OptimizerConfig(learning_rate=1e-2, encoder_learning_rate=1e-3)
    optimizer = build_optimizer(rates, decoder, eyes)
    rate = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in eyes.named_parameters():
        moves = name.startswith("motion.")
        assert parameter.requires_grad is (trainable or moves)
        wanted = 1e-2 if moves else 1e-3 if trainable else None
        assert rate.get(id(parameter)) == wanted
    assert len(rate) == sum(p.requires_grad for m in (eyes, decoder) for p in m.parameters())
    assert not eyes.exportable


def test_a_frozen_encoder_without_motion_has_nothing_to_train() -> None:
    eyes, decoder = encoder(4, motion="none"), toys.decoder()
    groups = build_optimizer(OptimizerConfig(), decoder, eyes).param_groups
    assert [len(g["params"]) for g in groups] == [len(list(decoder.parameters()))]
    assert eyes.exportable


def test_motion_is_the_same_in_every_process() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        one = encoder(4)
        torch.manual_seed(2)
        other = encoder(4)
    assert one.digest() == other.digest()


def test_a_model_of_pictures_has_no_motion_features() -> None:
    model: Captioner = toys.captioner()
    with pytest.raises(ConfigError, match=r"motion.*none"):
        model.for_clips(replace(VideoConfig(), motion="conv3d"))
