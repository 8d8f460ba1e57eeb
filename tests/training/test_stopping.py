"""When a run is at its best, when it has grown stale, how short runs warm up, averaged weights."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from regard.config import OptimizerConfig
from regard.training.state import MovingAverage, TrainState, rate_factor


def judged(metric: str, *evaluations: tuple[float, float]) -> list[tuple[bool, int]]:
    """Return (better, stale) after each evaluation of (cider_d, loss)."""
    nothing = cast("Any", None)
    state = TrainState(nothing, nothing, nothing, nothing, None, nothing)
    return [
        (state.record_scores({"cider_d": score, "loss": loss}, metric), state.stale)
        for score, loss in evaluations
    ]


def test_a_run_is_stale_when_neither_score_nor_loss_improves() -> None:
    found = judged(
        "cider_d", (0.0, 5.0), (0.0, 4.0), (0.0, 3.0), (0.0, 3.0), (2.0, 3.5), (1.0, 4.0)
    )
    assert found == [(True, 0), (True, 0), (True, 0), (False, 1), (True, 0), (False, 1)]


@pytest.mark.parametrize(
    ("evaluations", "best"),
    [
        ([(0.0, 3.0), (0.0, 2.0), (0.0, 1.0)], 2),
        ([(0.0, 1.0), (0.0, 2.0), (0.0, 1.0)], 0),
        ([(5.0, 2.0), (4.0, 1.0), (5.0, 1.5)], 2),
        ([(5.0, 2.0), (5.0, 3.0), (5.0, 1.9), (4.0, 0.1)], 2),
    ],
)
def test_of_equal_scores_the_lower_loss_is_best(
    evaluations: list[tuple[float, float]], best: int
) -> None:
    better = [better for better, _ in judged("cider_d", *evaluations)]
    assert max(place for place, is_best in enumerate(better) if is_best) == best


def test_of_the_loss_the_lowest_is_the_best() -> None:
    found = judged("loss", (0.0, 5.0), (9.0, 6.0), (0.0, 4.0))
    assert found == [(True, 0), (False, 1), (True, 0)]


@pytest.mark.parametrize(
    ("steps", "factors"), [(1000, [0.01, 0.02, 0.03]), (50, [0.1, 0.2, 0.3]), (3, [1.0, 1.0, 1.0])]
)
def test_warm_up_takes_a_fifth_of_a_short_run(steps: int, factors: list[float]) -> None:
    config = OptimizerConfig(warmup_steps=100)
    assert [rate_factor(config, step, steps) for step in range(3)] == pytest.approx(factors)


@pytest.mark.parametrize(
    ("decay", "averages"),
    [
        # d = 1/10, then 2/11: the first weights are soon forgotten.
        (0.999, [0.1 * 1 + 0.9 * 11, 2 / 11 * 10 + 9 / 11 * 21]),
        # d = 0.15 is less than 2/11, and holds from the second update on.
        (0.15, [0.1 * 1 + 0.9 * 11, 0.15 * 10 + 0.85 * 21]),
    ],
)
def test_a_moving_average_by_hand(decay: float, averages: list[float]) -> None:
    weight = torch.tensor([1.0])
    average = MovingAverage([weight], decay)
    for value, expected in zip((11.0, 21.0), averages, strict=True):
        weight.fill_(value)
        average.update([weight])
        assert average.average[0].item() == pytest.approx(expected)
    assert weight.item() == 21  # the weights themselves stay
    average.swap([weight])
    assert weight.item() == pytest.approx(averages[-1])
    average.swap([weight])
    assert weight.item() == 21
