"""Occlusion, deletion and insertion on a model whose answer is known, and on a real one."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import regard
from regard.config import VideoConfig
from regard.errors import ConfigError
from regard.faithfulness.occlusion import (
    Occluder,
    _blocks,
    _smeared,
    deletion_and_insertion,
    occlude,
    rank_correlation,
)
from regard.media import Input
from regard.media.reader import real_mask
from regard.types import Grid
from tests.helpers import filmed, scans
from tests.helpers.planted import GRID, planted, planted_clip
from tests.helpers.toy_media import scan

SAMPLES = Path(regard.__file__).parent / "samples"


def logprob(brightness: float) -> float:
    """Of the planted model's word: its logit against five others of logit 0."""
    return brightness / 50 - math.log(math.exp(brightness / 50) + 5)


def test_only_the_planted_cell_matters_and_by_the_computed_amount() -> None:
    captioner, caption = planted((0, 1))
    found = occlude(captioner, caption)
    mean = (200 + 20 + 60 + 140) / 4
    by_hand = np.zeros((2, 2, 2))
    by_hand[0, 0, 0] = logprob(200) - logprob(mean)  # brighter than the mean: speaks for it
    by_hand[1, 0, 1] = logprob(20) - logprob(mean)  # darker: speaks against it
    np.testing.assert_allclose(found.falls, by_hand, atol=1e-6)
    # One cell stands out in both, above all others and below them.
    np.testing.assert_allclose(found.correlation, [1, -1])


def test_cells_of_a_fine_grid_are_covered_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid(("rows", "cols"), (14, 14), (8, 8), ((0.0, 8.0), (0.0, 8.0)))
    blocks, side = _blocks(grid, grid.shape, np.arange(196))
    assert (blocks.shape, side) == ((49, 196), 2)
    assert (blocks.sum(0) == 1).all()
    assert (blocks.sum(1) == 4).all()
    np.testing.assert_array_equal(np.flatnonzero(blocks[8]), [30, 31, 44, 45])  # rows, cols 2 and 3
    blocks, side = _blocks(grid, (11, 12), np.arange(1, 132))  # the first cell is padding
    assert (blocks.shape, side) == ((36, 132), 2)
    assert blocks[:, 0].sum() == 0
    assert (blocks[:, 1:].sum(0) == 1).all()
    blocks, side = _blocks(grid, (10, 10), np.arange(100))
    assert (side, np.array_equal(blocks, np.eye(100, dtype=bool))) == (1, True)
    captioner, caption = planted((0, 1))
    each = occlude(captioner, caption)
    monkeypatch.setattr("regard.faithfulness.occlusion._FINE", 1)
    whole = occlude(captioner, caption)  # one block of 2×2 cells
    assert (each.covered, whole.covered) == ("cell", "block of 2×2 cells")
    mean = (200 + 20 + 60 + 140) / 4
    for falls, cell in zip(whole.falls, (200, 20), strict=True):
        np.testing.assert_allclose(falls, logprob(cell) - logprob(mean), atol=1e-6)


def test_a_blurred_cover_is_another_one() -> None:
    captioner, caption = planted((0,))
    mean, blur = (occlude(captioner, caption, cover=c).falls for c in ("mean", "blur"))
    assert mean[0, 0, 0] > blur[0, 0, 0] > 0
    with pytest.raises(ConfigError, match=r"cover is 'black'.*mean, blur"):
        occlude(captioner, caption, cover="black")


def test_a_caption_without_picture_or_ids_cannot_be_probed() -> None:
    captioner, caption = planted((0,))
    strange = replace(caption, words=(replace(caption.words[0], token=None),))
    for lacking in (caption.without_pixels(), strange):
        with pytest.raises(ConfigError, match="cannot be read again"):
            Occluder(captioner, lacking)


def test_the_shipped_model_reads_its_own_caption_as_it_said_it() -> None:
    captioner = regard.load()
    caption = captioner.caption(SAMPLES / "dog.jpg", beam=1)
    occluder = Occluder(captioner, caption)
    kept = np.ones((2, occluder.grid.cells), bool)
    kept[1, :24] = False
    read = occluder.read(kept)
    said = [word.logprob for word in caption.words]
    np.testing.assert_allclose(read.logprobs[0], said, atol=1e-4)
    np.testing.assert_allclose(read.alpha[0], caption.trace.alpha, atol=1e-4)
    assert np.abs(read.logprobs[1] - said).max() > 0.1


def test_deletion_and_insertion_by_hand() -> None:
    """Attention lies on the one cell that counts: p changes at the first step, and never after."""
    captioner, caption = planted((0,))
    falls = occlude(captioner, caption).falls
    curves = deletion_and_insertion(captioner, caption, falls=falls, steps=4, draws=40)
    bright, covered = math.exp(logprob(200)), math.exp(logprob(105))
    np.testing.assert_allclose(curves.shares, [0, 0.25, 0.5, 0.75, 1])
    for order in ("attention", "occlusion", "middle"):  # all four cells lie at the same distance
        np.testing.assert_allclose(curves.deletion[order], [[bright] + [covered] * 4], rtol=1e-5)
        np.testing.assert_allclose(curves.insertion[order], [[covered] + [bright] * 4], rtol=1e-5)
    areas = curves.areas("deletion")
    assert areas["attention"][0] == pytest.approx(covered + (bright - covered) / 8, rel=1e-5)
    # A random order meets the cell after half of the picture, on the average.
    assert areas["random"][0] == pytest.approx((bright + covered) / 2, abs=0.08)
    assert curves.areas("insertion")["random"][0] < curves.areas("insertion")["attention"][0]


def test_without_falls_there_is_no_order_by_occlusion() -> None:
    captioner, caption = planted((0, 3))
    curves = deletion_and_insertion(captioner, caption, steps=2, draws=1)
    assert set(curves.deletion) == {"attention", "random", "middle"}
    assert curves.deletion["attention"].shape == (2, 3)
    assert GRID.cells == 4


def test_rank_correlation_by_hand() -> None:
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([10.0, 20, 90])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5.
    tied = rank_correlation(np.array([1.0, 2, 2, 3]), np.array([1.0, 2, 3, 4]))
    assert tied == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert math.isnan(rank_correlation(np.ones(4), np.arange(4.0)))


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(("cell", "shape"), [(0, (3,)), (0, (5,)), (2, (3, 2, 2)), (1, (4, 2, 2))])
def test_a_clip_is_covered_frame_by_frame(cell: int, shape: tuple[int, ...], alone: bool) -> None:
    """Only the frame that holds the planted cell matters; the mean is that of real frames."""
    captioner, caption = planted_clip((cell,), shape, alone=alone)
    found = occlude(captioner, caption)
    assert (found.covered, found.falls.shape) == ("frame", (1, 3))
    by_hand = [[logprob(200) - logprob(100), 0, 0]]  # the mean of 200, 20 and 80
    np.testing.assert_allclose(found.falls, by_hand, atol=1e-6)
    np.testing.assert_allclose(found.correlation, [1])
    # Frames that are encoded each for itself are encoded whole and covered, and never again.
    assert captioner.backend.encoded == (2 if alone else 4)


def test_joined_frames_are_what_the_whole_encoding_gives() -> None:
    """The shipped model on a clip: two clips' encoding says what one per reading says."""
    captioner = regard.load().for_clips(VideoConfig(frames=4, grid="spatio_temporal"))
    caption = captioner.caption(filmed.clip((40, 90, 200)), beam=1)
    kept = np.array([[True, True, True], [False, True, True], [True, False, False]])
    for cover in ("mean", "blur"):
        joined = Occluder(captioner, caption, cover=cover)
        whole = Occluder(captioner, caption, cover=cover)
        whole._frames_alone = False
        one, other = joined.read(kept), whole.read(kept)
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)
        np.testing.assert_allclose(one.alpha, other.alpha, atol=1e-5)
        np.testing.assert_allclose(one.logprobs[0], [w.logprob for w in caption.words], atol=1e-4)
        of_three = 3 * caption.grid.cells // 4
        assert (one.alpha[..., of_three:] == 0).all()


def test_deletion_of_a_clip_goes_frame_by_frame() -> None:
    captioner, caption = planted_clip((0,), (4, 2, 2))
    falls = occlude(captioner, caption).falls
    curves = deletion_and_insertion(captioner, caption, falls=falls, steps=3, draws=1)
    bright, covered = math.exp(logprob(200)), math.exp(logprob(100))
    for order in ("attention", "occlusion"):
        np.testing.assert_allclose(curves.deletion[order], [[bright] + [covered] * 3], rtol=1e-5)


def test_the_cells_of_a_scan_are_covered_along_all_three_axes() -> None:
    """Nearest cell along each axis."""
    voxels = np.zeros((1, 4, 6, 9), np.float32)
    voxels[0, ::2] = 8.0
    grid = Grid(("slices", "rows", "cols"), (2, 3, 3), (4.0, 6.0, 9.0), ())
    encoder = SimpleNamespace(
        pictures_per_item=1, prepare=lambda media: Input(voxels, np.ones(18, bool), grid)
    )
    caption = replace(planted((0,))[1], medium="volume")
    for cover in ("mean", "blur"):
        occluder = Occluder(SimpleNamespace(reader=encoder), caption, cover=cover)  # type: ignore[arg-type]
        assert (occluder.part, occluder.shape) == ("cell", (2, 3, 3))
        kept = np.ones((1, 18), bool)
        kept[0, 1 * 9 + 2 * 3 + 1] = False  # slices 2 and 3, rows 4 and 5, cols 3 to 5
        masks = occluder._pixel_mask(kept)
        wanted = np.ones((1, 1, 4, 6, 9), bool)
        wanted[:, :, 2:4, 4:6, 3:6] = False
        np.testing.assert_array_equal(masks, wanted)
        np.testing.assert_allclose(occluder.covered.mean(), 4.0)
        assert np.ptp(occluder.covered) == (0 if cover == "mean" else pytest.approx(8.0))


def test_a_blurred_scan_keeps_its_mass_and_loses_its_detail() -> None:
    draw = np.random.default_rng(0)
    voxels = draw.normal(5.0, 1.0, (1, 24, 20, 16)).astype(np.float32)
    blurred = _smeared(voxels)
    assert blurred.shape == voxels.shape
    assert blurred.dtype == np.float32
    assert blurred.mean() == pytest.approx(5.0, abs=0.05)
    assert blurred.std() < 0.15


def test_padding_of_a_scan_gets_no_attention_and_is_not_covered() -> None:
    made = scan((4, 12, 20), (2.0, 1.0, 1.0))  # 8 × 12 × 20 mm in an input of 8 × 32 × 32 mm
    model = scans.captioner(4, (2.0, 1.0, 1.0))
    caption = model.caption(made, beam=1, min_length=2)
    real = real_mask(caption.grid)
    assert 0 < real.sum() == caption.grid.real_cells < caption.grid.cells
    alpha = caption.trace.alpha
    assert (alpha[:, ~real] == 0).all()
    np.testing.assert_allclose(alpha.sum(1), 1, atol=1e-5)
    found = occlude(model, caption)
    falls = found.falls.reshape(len(caption.words), -1)
    assert found.falls.shape == (len(caption.words), *caption.grid.shape)
    np.testing.assert_allclose(falls[:, ~real], 0, atol=1e-6)
    assert np.abs(falls[:, real]).max() > 1e-4


def test_padding_of_a_scan_has_no_part_in_ranks_orders_and_shares(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = scan((4, 12, 20), (2.0, 1.0, 1.0))
    model = scans.captioner(4, (2.0, 1.0, 1.0))
    caption = model.caption(made, beam=1, min_length=2)
    real = real_mask(caption.grid)
    asked: list[np.ndarray] = []
    read = Occluder.read
    monkeypatch.setattr(Occluder, "read", lambda self, kept: asked.append(kept) or read(self, kept))
    found = occlude(model, caption)
    assert len(asked.pop()) == 1 + real.sum()
    falls = found.falls.reshape(len(caption.words), -1)
    assert (falls[:, ~real] == 0).all()
    by_hand = [
        rank_correlation(a[real], f[real]) for a, f in zip(caption.trace.alpha, falls, strict=True)
    ]
    np.testing.assert_array_equal(found.correlation, by_hand)
    curves = deletion_and_insertion(model, caption, falls=found.falls, steps=4, draws=3)
    counts = np.round(np.linspace(0, real.sum(), 5))
    np.testing.assert_allclose(curves.shares * real.sum(), counts)
    for deletion, insertion in zip(asked[::2], asked[1::2], strict=True):
        assert deletion[:, ~real].all()
        for kept, wanted in ((deletion, real.sum() - counts), (insertion, counts)):
            touched = kept[:, real].sum(1).reshape(-1, 5)
            np.testing.assert_array_equal(touched, np.tile(wanted, (len(touched), 1)))
