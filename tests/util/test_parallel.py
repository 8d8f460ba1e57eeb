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
from regard.util.parallel import in_lanes
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

    found = in_lanes(work, iter(range(11)), batch_size=2, lanes=2, alone=nothing)
    assert list(found) == [2 * x for x in range(11)]
    assert len(seen) == 2
    assert list(in_lanes(work, iter([]), batch_size=2, lanes=2, alone=nothing)) == []


def test_no_more_is_taken_than_lanes_and_one() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(1, 101):
            taken = number
            yield number

    results = in_lanes(lambda b: b, items(), batch_size=1, lanes=2, alone=nothing)
    assert next(results) == 1
    assert taken <= 4
    results.close()
    assert taken <= 4


def test_an_error_reaches_the_caller() -> None:
    def work(batch: list[int]) -> list[int]:
        if 3 in batch:
            raise ValueError("three")
        return batch

    with pytest.raises(ValueError, match="three"):
        list(in_lanes(work, iter(range(9)), batch_size=2, lanes=2, alone=nothing))


def test_each_thread_takes_one_core_and_torch_is_as_it_was() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:

        def work(batch: list[int]) -> list[int]:
            return [torch.get_num_threads()]

        assert set(
            in_lanes(work, iter(range(6)), batch_size=1, lanes=3, alone=TorchBackend.use_one_core)
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
