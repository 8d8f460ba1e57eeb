"""A picture's encoder on clips and scans: frame by frame, slice by slice, nothing from padding."""

import numpy as np
import pytest
import torch

from regard.config import EncoderConfig, VideoConfig, VolumeConfig
from regard.errors import ConfigError
from regard.media import cell_bounds
from regard.media.preprocess import preprocess_pixels
from regard.model.encoders import Encoder, FrameEncoder, SliceEncoder, build_encoder
from regard.model.encoders.onnx_encoder import encode_with
from tests.helpers.toy_media import clip, scan


def frames(count: int, grid: str = "temporal") -> Encoder:
    video = VideoConfig(frames=count, grid=grid)
    return build_encoder(EncoderConfig("small_cnn", 32, "stride8", medium="video", video=video))


@pytest.mark.parametrize(
    ("grid", "axes", "shape"),
    [("temporal", ("frames",), (6,)), ("spatio_temporal", ("frames", "rows", "cols"), (6, 4, 4))],
)
def test_every_frame_is_encoded_as_the_picture_it_is(
    grid: str, axes: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    encoder, media = frames(6, grid), clip(6)
    assert isinstance(encoder, FrameEncoder)
    assert (encoder.medium, encoder.grid_axes, encoder.grid_shape) == ("video", axes, shape)
    found = encoder.prepare(media)
    assert (found.grid.axes, found.grid.shape) == (axes, shape)
    with torch.inference_mode():
        vectors = encoder(torch.from_numpy(found.pixels[None]))[0].unflatten(0, (6, -1))
        for at, pixels in enumerate(media.pixels):
            picture = torch.from_numpy(preprocess_pixels(pixels, encoder.spec.picture)[None])
            alone = encoder.picture(picture)[0]
            wanted = alone.mean(0, keepdim=True) if grid == "temporal" else alone
            torch.testing.assert_close(vectors[at], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid", ["temporal", "spatio_temporal"])
def test_padding_changes_nothing(grid: str) -> None:
    """A clip of 4 frames is encoded alike with room for 4 and for 7, alone and in a batch."""
    short, long = frames(4, grid), frames(7, grid)
    media, other = clip(4), clip(7, seed=1)
    with torch.inference_mode():
        tight = short.prepare(media)
        wanted = short(torch.from_numpy(tight.pixels[None]))[0]
        padded = [long.prepare(m) for m in (media, other)]
        pixels = torch.from_numpy(np.stack([p.pixels for p in padded]))
        mask = torch.from_numpy(np.stack([p.mask for p in padded]))
        found = long(pixels, mask)
    assert mask[0].sum() == len(wanted) == padded[0].grid.real_cells
    assert mask[1].all()
    torch.testing.assert_close(found[0, mask[0]], wanted, rtol=0, atol=1e-5)
    assert (found[0, ~mask[0]] == 0).all()


def test_a_fast_encoder_agrees_on_clips() -> None:
    encoder = frames(5)
    found = [encoder.prepare(clip(n, seed=n)) for n in (3, 5)]
    pixels, mask = np.stack([f.pixels for f in found]), np.stack([f.mask for f in found])
    one, other = (encode_with(encoder, runtime=r)(pixels, mask) for r in ("torch", "onnxruntime"))
    np.testing.assert_allclose(one, other, atol=1e-4)
    assert (other[0, 3:] == 0).all()


def slices(window: str = "percentile", rows: int = 32) -> Encoder:
    volume = VolumeConfig((4, rows, 32), (), window)
    return build_encoder(EncoderConfig("small_cnn", 32, "stride8", medium="volume", volume=volume))


def test_every_slice_is_encoded_as_a_grey_picture() -> None:
    encoder = slices()
    assert isinstance(encoder, SliceEncoder)
    assert (encoder.medium, encoder.grid_shape) == ("volume", (4, 4, 4))
    shades = torch.rand(1, 1, 4, 32, 32)
    with torch.inference_mode():
        vectors = encoder(shades)[0].unflatten(0, (4, -1))
        for at in range(4):
            grey = (255 * shades[0, :, at].expand(3, -1, -1) - 190) / 64  # small_cnn's own scale
            torch.testing.assert_close(
                vectors[at], encoder.picture(grey[None])[0], atol=1e-4, rtol=0
            )


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\[slices, 32, 32\]"):
        slices(rows=40)
    with pytest.raises(ConfigError, match="zscore"):
        slices("zscore")


def test_cells_of_a_scan_lie_where_their_millimetres_say() -> None:
    encoder, media = slices(), scan()
    grid = encoder.prepare(media).grid
    assert grid.source_size == (16.0, 10.0, 12.0)
    assert cell_bounds(grid, 0) == ((0.0, 4.0), (0.0, 2.5), (0.0, 3.0))
