"""The strongest words by 16-bit integers are those of all logits."""

from __future__ import annotations

import os
import platform
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.native import cpp_library, dispatch
from regard.native.cpp_library import Library, library
from regard.native.vocabulary_search import LazyRanking, VocabularyLayer

pytestmark = pytest.mark.skipif(library("float32") is None, reason="no C++ compiler")

TOLERANCE = {"float32": 2e-5, "float64": 1e-11}
"""Of a logit, as a share of |deep| · |weight| + |bias|: other sums than numpy's."""


def loops_of(dtype: str) -> Library:
    loops = library(dtype)
    assert loops is not None
    return loops


def layer_of(weight: np.ndarray, bias: np.ndarray, loops: Library | None = None) -> VocabularyLayer:
    return VocabularyLayer(weight, bias, loops or loops_of(str(weight.dtype)), int16=True)


def drawn(
    rows: int, words: int, inner: int, dtype: str = "float32", seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deep outputs, a weight whose words are of very different lengths, and a bias."""
    draw = np.random.default_rng(seed)
    weight = draw.normal(size=(words, inner)) * draw.lognormal(-2, 1.5, size=(words, 1))
    deep = np.tanh(2 * draw.normal(size=(rows, inner)))
    return deep.astype(dtype), weight.astype(dtype), draw.normal(size=words).astype(dtype)


def logits_of(deep: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return deep.astype(np.float64) @ weight.astype(np.float64).T + bias


def check(deep: np.ndarray, weight: np.ndarray, bias: np.ndarray, count: int) -> None:
    found = layer_of(weight, bias).strongest(deep, count)
    assert found is not None
    ids, values, normaliser = found
    logits = logits_of(deep, weight, bias)
    size = np.linalg.norm(deep, axis=1)[:, None] * np.linalg.norm(weight, axis=1) + np.abs(bias)
    near = TOLERANCE[str(deep.dtype)] * size.max()
    own = np.take_along_axis(logits, ids, axis=1)
    np.testing.assert_allclose(values, own, rtol=0, atol=near)
    assert (np.diff(values, axis=1) <= 0).all()
    assert all(len(set(row)) == count for row in ids.tolist())
    # Nothing that was left out is stronger: the strongest logits are these.
    np.testing.assert_allclose(values, -np.sort(-logits, axis=1)[:, :count], rtol=0, atol=near)
    top = logits.max(1)
    wanted = top + np.log(np.exp(logits - top[:, None]).sum(1))
    np.testing.assert_allclose(normaliser, wanted, rtol=0, atol=near + 2e-4 * max(1, size.max()))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1, 5, 6, 7, 95, 97, 200]),  # blocks of 6 rows, tiles of 96
    st.sampled_from([640, 641, 703, 1000, 2048]),  # blocks of 64 words, panels of 16 or 32
    st.sampled_from([1, 2, 7, 64, 65, 129, 512]),
    st.integers(1, 10),
    st.sampled_from(["float32", "float64"]),
    st.integers(0, 99),
)
def test_they_are_the_strongest_of_all(
    rows: int, words: int, inner: int, count: int, dtype: str, seed: int
) -> None:
    check(*drawn(rows, words, inner, dtype, seed), count)


def test_words_that_the_integers_confuse_are_told_apart() -> None:
    """A thousand logits so close that rounding puts other words first."""
    draw = np.random.default_rng(0)
    deep = np.tanh(draw.normal(size=(8, 512))).astype(np.float32)
    common = draw.normal(size=512)
    weight = (common + 1e-4 * draw.normal(size=(1280, 512))).astype(np.float32)
    bias = np.zeros(1280, np.float32)
    step = np.linalg.norm(weight, axis=1).max() / 32000  # what 1 is worth
    rounded = (weight / step).round() * step
    best = logits_of(deep, weight, bias).argmax(1)
    assert (logits_of(deep, rounded, bias).argmax(1) != best).any()  # they would be confused
    found = layer_of(weight, bias).strongest(deep, 5)
    assert found is not None
    logits = logits_of(deep, weight, bias)
    np.testing.assert_allclose(found[1], -np.sort(-logits, axis=1)[:, :5], rtol=0, atol=1e-5)


def test_words_are_told_apart_whose_own_rounding_confuses_them() -> None:
    """The deep output is exact in integers; the words differ by less than a step of theirs."""
    draw = np.random.default_rng(0)
    weight = 10 * draw.normal(size=(1280, 64)).astype(np.float32)
    weight[:, 3] = 1 + 1e-6 * draw.permutation(1280)
    deep = np.zeros((1, 64), np.float32)
    deep[0, 3] = 1
    found = layer_of(weight, np.zeros(1280, np.float32)).strongest(deep, 5)
    assert found is not None
    np.testing.assert_array_equal(found[0][0], np.argsort(-weight[:, 3], kind="stable")[:5])


def test_of_equals_the_first_comes_first() -> None:
    deep, weight, bias = drawn(4, 700, 30)
    weight[:], bias[:] = weight[0], 0
    found = layer_of(weight, bias).strongest(deep, 6)
    assert found is not None
    np.testing.assert_array_equal(found[0], np.tile(np.arange(6), (4, 1)))


def test_a_row_is_the_same_alone() -> None:
    deep, weight, bias = drawn(103, 1500, 77)
    layer = layer_of(weight, bias)
    together = layer.strongest(deep, 7)
    assert together is not None
    for row in (0, 5, 6, 95, 96, 102):
        alone = layer.strongest(deep[row : row + 1], 7)
        assert alone is not None
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(a[0], b[row])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads: int) -> None:
    deep, weight, bias = drawn(130, 1500, 64)
    layer, loops = layer_of(weight, bias), loops_of("float32")
    wanted = layer.strongest(deep, 7)
    try:
        loops.call("threads", count=threads)
        found = layer.strongest(deep, 7)
    finally:
        loops.call("threads", count=0)
    assert wanted is not None
    assert found is not None
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_not_hidden(value: float) -> None:
    deep, weight, bias = drawn(3, 700, 30)
    deep[1, 4] = value
    found = layer_of(weight, bias).strongest(deep, 3)
    assert found is not None
    ids, values, normaliser = found
    assert np.isfinite(normaliser).tolist() == [True, False, True]
    assert np.isnan(values[1]).all()
    assert (ids[1] == [0, 1, 2]).all()


def test_deep_outputs_of_nothing_leave_the_bias() -> None:
    deep, weight, bias = drawn(2, 700, 30)
    found = layer_of(weight, bias).strongest(np.zeros_like(deep), 3)
    assert found is not None
    np.testing.assert_array_equal(found[1], np.tile(-np.sort(-bias)[:3], (2, 1)))
    weight[5] = 0  # a word without weights
    check(deep, weight, bias, 3)


def test_more_words_than_there_are_blocks_take_all_logits() -> None:
    deep, weight, bias = drawn(2, 700, 30)
    layer = layer_of(weight, bias)
    assert layer.strongest(deep, 10) is not None
    assert layer.strongest(deep, 11) is None
    ids, _ = LazyRanking(layer, deep, nullcontext).strongest(300)
    np.testing.assert_array_equal(ids, np.argsort(-logits_of(deep, weight, bias))[:, :300])


def test_integers_are_used_where_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    deep, weight, bias = drawn(2, 2048, 30)
    loops = loops_of("float32")
    for pay, words, used in ((True, 2048, True), (True, 2047, False), (False, 2048, False)):
        monkeypatch.setattr(dispatch, "int16_pays", lambda _, pay=pay: pay)
        found = VocabularyLayer(weight[:words], bias[:words], loops).strongest(deep, 3)
        assert (found is not None) == used


def test_integers_pay_on_the_processors_that_they_are_written_for() -> None:
    answer = np.full(1, 7, np.int64)
    loops_of("float64").call("int16_pays", answer=answer)
    assert answer[0] == 0
    loops_of("float32").call("int16_pays", answer=answer)
    flags = Path("/proc/cpuinfo")
    if not flags.exists() or platform.machine() != "x86_64":
        pytest.skip("nothing says what the processor can do")
    known = next(x for x in flags.read_text("utf-8").splitlines() if x.startswith("flags")).split()
    plain = "avx2" in known and "avx512f" not in known
    assert bool(answer[0]) == (plain or "avx512_vnni" in known)


def test_a_ranking_computes_no_more_than_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    deep, weight, bias = drawn(5, 700, 30)
    layer = layer_of(weight, bias)
    asked: list[str] = []
    full, some = layer.full, layer.strongest
    monkeypatch.setattr(layer, "full", lambda x: asked.append("all") or full(x))
    monkeypatch.setattr(layer, "strongest", lambda x, n: asked.append(str(n)) or some(x, n))
    ranking = LazyRanking(layer, deep, nullcontext)
    assert (ranking.words, asked) == (700, [])
    ids, values = ranking.strongest(6)
    normaliser = ranking.normaliser
    fewer, _ = ranking.strongest(2)
    assert asked == ["6"]
    np.testing.assert_array_equal(fewer, ids[:, :2])
    ranking.strongest(8)
    assert asked == ["6", "8"]
    logits = ranking.logits()
    assert ranking.logits() is logits
    assert asked == ["6", "8", "all"]
    again, exactly = ranking.strongest(6)
    assert asked == ["6", "8", "all"]  # of the logits that are there
    np.testing.assert_array_equal(again, ids)
    # Logits reach 300, where float32 has steps of 3e-5: other sums differ by several of them.
    np.testing.assert_allclose(values, exactly, rtol=1e-6, atol=2e-5)
    np.testing.assert_allclose(normaliser, ranking.normaliser, rtol=0, atol=2e-4)
    np.testing.assert_allclose(logits, logits_of(deep, weight, bias), rtol=0, atol=1e-4)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="nothing to leave out")
def test_without_the_processors_instructions(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same sums where pairs are multiplied one by one, as on processors of other makes."""
    folder: Path = tmp_path_factory.mktemp("plain")
    script = folder / "cxx"
    script.write_text(f'#!/bin/sh\nexec {os.environ.get("CXX", "c++")} "$@" -mno-avx2 -Wno-psabi\n')
    script.chmod(0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setenv("CXX", str(script))
    plain = Library(cpp_library._built("float32"), "float32")  # type: ignore[reportPrivateUsage]
    answer = np.ones(1, np.int64)
    plain.call("int16_pays", answer=answer)
    assert answer[0] == 0
    deep, weight, bias = drawn(13, 1000, 65)
    found = layer_of(weight, bias, plain).strongest(deep, 9)
    wanted = layer_of(weight, bias).strongest(deep, 9)
    assert found is not None
    assert wanted is not None
    np.testing.assert_array_equal(found[0], wanted[0])
    for a, b in zip(found[1:], wanted[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=5e-5)
