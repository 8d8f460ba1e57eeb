"""Batches in several threads: order, failures, memory, and torch's threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from regard.backends.torch_backend import TorchBackend
from regard.captioner import Failure
from regard.types import Caption
from regard.util.parallel import ordered_map
from tests.helpers import toys


def nothing():
    return lambda: None


def test_results_come_in_order_from_several_threads() -> None:
    meet = threading.Barrier(2, timeout=30)
    seen: set[int] = set()

    def work(batch: list[int]) -> list[int]:
        if batch[0] < 4:
            meet.wait()  # passes only if two threads work at once
        seen.add(threading.get_ident())
        return [2 * x for x in batch]

    batches = [list(range(11))[i : i + 2] for i in range(0, 11, 2)]
    found = ordered_map(work, iter(batches), threads=2, start=nothing)
    assert [x for batch in found for x in batch] == [2 * x for x in range(11)]
    assert len(seen) == 2
    assert list(ordered_map(work, iter([]), threads=2, start=nothing)) == []


def test_no_more_is_taken_than_threads_and_one() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(1, 101):
            taken = number
            yield number

    results = ordered_map(lambda b: b, items(), threads=2, start=nothing)
    assert next(results) == 1
    assert taken <= 4
    results.close()
    assert taken <= 4


def test_an_error_reaches_the_caller() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    with pytest.raises(ValueError, match="three"):
        list(ordered_map(work, iter(range(9)), threads=2, start=nothing))


def test_each_thread_takes_one_core_and_torch_is_as_it_was() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:

        def work(_: int) -> int:
            return torch.get_num_threads()

        assert set(
            ordered_map(work, iter(range(6)), threads=3, start=TorchBackend.use_one_core)
        ) == {1}
        assert torch.get_num_threads() == 3
        other: list[int] = []
        thread = threading.Thread(target=lambda: other.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert other == [3]
    finally:
        torch.set_num_threads(before)


def test_captions_are_those_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    from regard.model.encoders.onnx_encoder import encode_with

    monkeypatch.setattr(
        "regard.model.encoders.onnx_encoder.encode_with",
        lambda e, threads: encode_with(e, runtime="torch"),
    )
    captioner = toys.captioner()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        faster = captioner.accelerated(1000)
    finally:
        torch.set_num_threads(before)
    sources: list[object] = [toys.picture(seed) for seed in range(7)]
    sources.insert(3, "nowhere.jpg")
    one = list(captioner.caption_many(sources, batch_size=2))
    other = list(faster.caption_many(sources, batch_size=2))
    for a, b in zip(one, other, strict=True):
        if isinstance(a, Failure):
            assert isinstance(b, Failure)
            continue
        assert isinstance(b, Caption)
        assert a.text == b.text
        np.testing.assert_allclose(a.trace.alpha, b.trace.alpha, atol=1e-5)
