"""Occlusion, deletion and insertion on a model whose answer is known, and on a real one."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import regard
from planted import GRID, planted
from regard.errors import ConfigError
from regard.explain.curves import deletion_and_insertion
from regard.explain.probe import Prober, occlude, rank_correlation

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
            Prober(captioner, lacking)


def test_the_shipped_model_reads_its_own_caption_as_it_said_it() -> None:
    captioner = regard.load()
    caption = captioner.caption(SAMPLES / "dog.jpg", beam=1)
    prober = Prober(captioner, caption)
    kept = np.ones((2, prober.grid.cells), bool)
    kept[1, :24] = False
    read = prober.read(kept)
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
