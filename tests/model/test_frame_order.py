"""Whether attention over frames knows their order: laws of random weights."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from regard.config import DecoderConfig, EncoderConfig, VideoConfig
from regard.model.decoder import AttentionDecoder, TeacherForcingOutput
from regard.model.encoders import Encoder, build_encoder

FRAMES, WORDS = 7, 9
SCORES = ("additive", "dot", "scaled_dot", "uniform")
TOKENS = torch.tensor([[1, 5, 6, 4], [1, 8, 7, 5]])


@dataclass(frozen=True)
class Reader:
    """A clip's encoder and decoder with random weights."""

    encoder: Encoder
    decoder: AttentionDecoder

    @torch.inference_mode()
    def read(self, pixels: Tensor, real: int = FRAMES) -> TeacherForcingOutput:
        vectors = self.encoder(pixels, mask := self.mask(len(pixels), real))
        return self.decoder(TOKENS, self.decoder.project(vectors, mask))

    def mask(self, clips: int, real: int) -> Tensor:
        cells = torch.arange(self.encoder.grid_shape[0]) < real
        return cells.repeat_interleave(self.cells_per_frame).expand(clips, -1)

    @property
    def cells_per_frame(self) -> int:
        return torch.Size(self.encoder.grid_shape[1:]).numel()


def reader(
    scores: str, *, position: str = "none", motion: str = "none", grid: str = "temporal"
) -> Reader:
    video = VideoConfig(frames=FRAMES, motion=motion, motion_dim=8, grid=grid)
    encoder = build_encoder(EncoderConfig("small_cnn", 16, "stride8", medium="video", video=video))
    config = DecoderConfig(
        embedding_dim=8,
        hidden_dim=10,
        attention_dim=7,
        scores=scores,
        position=position,
        grid_shape=encoder.grid_shape,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = AttentionDecoder(
            config, annotation_dim=encoder.annotation_dim, vocabulary_size=WORDS
        )
    return Reader(encoder, decoder.eval())


def clips() -> Tensor:
    return torch.randn(2, FRAMES, 3, 16, 16, generator=torch.Generator().manual_seed(1))


ORDER = torch.tensor([4, 0, 6, 2, 5, 1, 3])


@pytest.mark.parametrize("grid", ["temporal", "spatio_temporal"])
@pytest.mark.parametrize("scores", SCORES)
def test_bare_attention_is_blind_to_the_order_of_frames(scores: str, grid: str) -> None:
    """Frames in another order: alpha in that order, and every word as likely as before."""
    model = reader(scores, grid=grid)
    plain, shuffled = model.read(clips()), model.read(clips()[:, ORDER])
    torch.testing.assert_close(shuffled.logits, plain.logits, rtol=1e-4, atol=1e-5)
    by_frame = plain.alpha.unflatten(-1, (FRAMES, -1))
    moved = by_frame[:, :, ORDER].flatten(2)
    torch.testing.assert_close(shuffled.alpha, moved, rtol=1e-4, atol=1e-6)
    if scores != "uniform":  # else there is nothing to permute
        assert float((plain.alpha - plain.alpha.mean(-1, keepdim=True)).abs().max()) > 1e-3


@pytest.mark.parametrize("grid", ["temporal", "spatio_temporal"])
@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("eye", [{"position": "sinusoidal"}, {"motion": "conv3d"}])
def test_a_position_code_or_motion_features_see_the_order(
    eye: dict[str, str], scores: str, grid: str
) -> None:
    """Of uniform attention motion features alone see it: the mean holds every position code."""
    model = reader(scores, grid=grid, **eye)
    plain, shuffled = model.read(clips()), model.read(clips()[:, ORDER])
    gap = float((shuffled.logits - plain.logits).abs().max())
    if scores == "uniform" and "position" in eye:
        assert gap < 1e-5
    else:
        assert gap > 1e-4


@pytest.mark.parametrize("eye", [{}, {"position": "sinusoidal"}, {"motion": "conv3d"}])
def test_frames_that_a_clip_lacks_change_nothing(eye: dict[str, str]) -> None:
    model = reader("additive", **eye)
    noise = clips()
    noise[:, 5:] = 9.0
    plain, noisy = model.read(clips(), 5), model.read(noise, 5)
    torch.testing.assert_close(noisy.logits, plain.logits, rtol=1e-5, atol=1e-6)
    assert bool((noisy.alpha[..., 5:] == 0).all())
    torch.testing.assert_close(noisy.alpha.sum(-1), torch.ones(2, TOKENS.shape[1]))
