"""Captured functions: one recording for each set of shapes, one run for each call."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.cuda_graphs import Captured, Outputs, recorder_for


class Tape:
    """Stands in for CUDA graphs: what it replays reads and writes the tensors it recorded.

    To record is to do nothing, as on a GPU: the outputs' places hold no numbers before a replay.
    """

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        self.shapes, self.recorded, self.plain = shapes, 0, 0

    def run(self, work: Callable[[], Outputs]) -> Outputs:
        self.plain += 1
        return work()

    def record(self, work: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        self.recorded += 1
        places = tuple(torch.full(shape, torch.nan) for shape in self.shapes)

        def replay() -> None:
            for place, made in zip(places, work(), strict=True):
                place.copy_(made.detach())

        return replay, places


def test_each_shape_runs_plainly_first_and_is_then_recorded_once() -> None:
    tape = Tape(())
    runs: list[int] = []

    def total(x: Tensor, y: Tensor) -> Outputs:
        runs.append(x.numel())
        return ((x * y).sum(),)

    captured = Captured(total, tape, plain=2)
    for call in range(1, 6):
        for size in (3, 4):
            x = torch.full((size,), float(call))
            assert captured(x, torch.ones(size))[0].item() == call * size
    assert (tape.plain, tape.recorded) == (4, 2)
    assert runs == [3, 4] * 5, "every call does the work once"


def test_types_are_told_apart_and_inputs_are_not_kept() -> None:
    tape = Tape((2,))
    captured = Captured(lambda x: (x + 1,), tape, plain=0)
    given = torch.zeros(2)
    assert captured(given)[0].tolist() == [1, 1]
    given.add_(5)
    assert captured(torch.ones(2))[0].tolist() == [2, 2], "reads a copy, not what came first"
    assert captured(torch.ones(2, dtype=torch.float64))[0].tolist() == [2, 2]
    assert tape.recorded == 2


def test_training_through_it_gives_the_weights_of_plain_training() -> None:
    def train(recorded: bool) -> list[Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Linear(3, 2)
        rule = torch.optim.Adam(model.parameters(), lr=0.1)

        def step(x: Tensor) -> Outputs:
            rule.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            rule.step()
            return (loss.detach(),)

        captured = Captured(step, Tape(()) if recorded else None)
        draw = torch.Generator().manual_seed(1)
        for t in range(12):
            captured(torch.randn(2 + t % 2, 3, generator=draw))
        return [p.detach() for p in model.parameters()]

    for one, other in zip(train(True), train(False), strict=True):
        assert torch.equal(one, other)


def test_without_a_gpu_there_is_nothing_to_record_with() -> None:
    assert recorder_for(torch.device("cpu")) is None
    captured = Captured(lambda x: (x,), None)
    given = torch.ones(1)
    assert captured(given)[0] is given
