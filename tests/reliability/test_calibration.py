"""The fit of confidence: by hand, where words are too few, and on words whose truth is known."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from regard.errors import DatasetError
from regard.reliability.calibration import calibrate, platt, reliability
from regard.reliability.confidence import sigmoid


def judged(
    captions: int, chance: Callable[[float], float], *, seed: int = 0
) -> list[list[tuple[float, bool]]]:
    """Captions of five words of random p, each supported with the chance that it is given."""
    rng = np.random.default_rng(seed)
    probabilities = rng.uniform(0.02, 0.98, (captions, 5))
    return [[(math.log(p), bool(rng.random() < chance(p))) for p in row] for row in probabilities]


def test_two_probabilities_are_fitted_to_their_shares() -> None:
    # At two logits scale and shift meet the mean targets, (n + 1) / (n + 2) and 1 / (m + 2) with
    # n = 4 supported and m = 4 others: low (1 · 5/6 + 3 · 1/6) / 4, high (3 · 5/6 + 1 · 1/6) / 4.
    logits = np.array([-1.0] * 4 + [3.0] * 4)
    supported = np.array([True, False, False, False, True, True, True, False])
    low, high = math.log((1 / 3) / (2 / 3)), math.log((2 / 3) / (1 / 3))
    scale, shift = platt(logits, supported)
    assert scale == pytest.approx((high - low) / 4)
    assert shift == pytest.approx(low + scale)


def test_a_temperature_has_no_shift() -> None:
    # p = 1/2 whatever the scale at 0; elsewhere the scale alone meets the mean target.
    logits = np.array([0.0, 0.0, 2.0, 2.0, 2.0, 2.0])
    supported = np.array([True, False, True, True, True, False])
    mean = (3 * 5 / 6 + 1 * 1 / 4) / 4
    assert platt(logits, supported, shifted=False) == pytest.approx(
        (math.log(mean / (1 - mean)) / 2, 0.0)
    )


def test_the_fit_is_finite_where_nothing_is_mixed_up() -> None:
    logits = np.concatenate([np.full(500, -13.8), np.full(500, 13.8)])
    scale, shift = platt(logits, logits > 0)
    assert sigmoid(scale * 13.8 + shift) == pytest.approx(501 / 502)
    assert platt(np.zeros(4), np.array([True, True, True, False]))[1] == pytest.approx(
        math.log((3 * 4 / 5 + 1 / 3) / 4 / (1 - (3 * 4 / 5 + 1 / 3) / 4))
    )


def test_known_numbers_come_back_and_new_captions_are_calibrated() -> None:
    truth = lambda p: sigmoid(0.5 * math.log(p / (1 - p)) + 1)  # noqa: E731
    found = calibrate(judged(2000, truth), split="val", beam=3)
    made = found.confidence
    assert made.scale == pytest.approx(0.5, abs=0.05)
    assert made.shift == pytest.approx(1.0, abs=0.06)
    assert (made.split, made.beam, made.captions, made.words) == ("val", 3, 2000, 10000)
    assert found.errors["confidence"] < 0.02 < found.errors["temperature"]
    assert found.errors["probability"] > 0.15
    assert found.losses["confidence"] < found.losses["temperature"] < found.losses["probability"]
    others = judged(2000, truth, seed=1)
    chances = [made.chance(p) for caption in others for p, _ in caption]
    assert reliability(chances, [ok for one in others for _, ok in one]).error < 0.02
    assert set(found.to_json()) == {"confidence", "expected_calibration_error", "log_loss"}


def test_a_fit_is_judged_by_captions_that_it_has_not_seen() -> None:
    """What was fitted to a word is kinder to it than what was fitted to all others."""
    draws = np.random.default_rng(5)
    words = [[(float(np.log(p)), bool(draws.random() < p))] for p in draws.uniform(0.1, 0.9, 80)]
    made = calibrate(words, split="val", beam=3)
    chances = [made.confidence.chance(logprob) for ((logprob, _),) in words]
    inside = [math.log(p if ok else 1 - p) for p, ((_, ok),) in zip(chances, words, strict=True)]
    assert made.losses["confidence"] > -np.mean(inside) + 1e-4


def test_what_cannot_be_calibrated_is_said() -> None:
    with pytest.raises(DatasetError, match="5 words with support and 0 without are too few"):
        calibrate([[(-0.5, True)] * 5], split="val", beam=3)
    with pytest.raises(DatasetError, match="0 words with support and 60 without"):
        calibrate([[(-0.5, False)] * 60, []], split="val", beam=3)
    with pytest.raises(DatasetError, match="the less probable .* the more support"):
        calibrate(judged(200, lambda p: 1 - p), split="val", beam=3)
