"""Products with a packed weight against numpy's, over the sizes at which their parts meet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.native.cpp_library import Library, PackedProduct, is_built, library

pytestmark = pytest.mark.skipif(library("float32") is None, reason="no C++ compiler")


def loops_of(dtype: str) -> Library:
    loops = library(dtype)
    assert loops is not None
    return loops


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1, 5, 6, 7, 13, 95, 96, 97, 200]),  # blocks of 6 rows, tiles of 96
    st.sampled_from([1, 127, 128, 129, 255, 257, 512, 1025, 2100]),  # depths of a part, slabs
    st.sampled_from([1, 8, 15, 16, 17, 33]),  # panels of 16 or 8 columns, and their rests
    st.sampled_from(["float32", "float64"]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_a_product_is_numpys(
    rows: int, inner: int, outer: int, dtype: str, turned: bool, tensors: bool, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(inner, rows) if turned else (rows, inner)).astype(dtype)
    weight = draw.normal(size=(outer, inner)).astype(dtype).T
    x = x.T if turned else x
    wanted = x.astype(np.float64) @ weight.astype(np.float64)
    scale = np.abs(x).astype(np.float64) @ np.abs(weight).astype(np.float64)
    given_x, given_weight = (torch.from_numpy(a) if tensors else a for a in (x, weight))
    product = PackedProduct(given_weight, loops_of(dtype))
    error = np.abs(np.asarray(product(given_x)) - wanted) / (scale + 1e-30)
    assert error.max() < (1e-5 if dtype == "float32" else 1e-13)
    out = np.ones((rows, outer + 3), dtype)
    view = torch.from_numpy(out)[:, 1:-2] if tensors else out[:, 1:-2]
    product.add_to(view, given_x)
    np.testing.assert_allclose(out[:, 1:-2], wanted + 1, rtol=1e-4, atol=1e-3)
    assert (out[:, [0, -1, -2]] == 1).all()  # what lies beside it is not written


def test_what_is_written_begins_with_a_cache_line() -> None:
    x, weight = np.ones((3, 40), np.float32), np.ones((40, 50), np.float32)
    product = PackedProduct(weight, loops_of("float32"))
    kept = [product(x) for _ in range(9)]
    assert {out.ctypes.data % 64 for out in kept} == {0}
    assert {out.strides for out in kept} == {(256, 4)}  # 64 numbers, so that every row does
    assert all(out.shape == (3, 50) for out in kept)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_many_rows_go_to_the_threads_tile_by_tile(threads: int) -> None:
    """The sums are the same ones, whoever makes them."""
    loops = loops_of("float32")
    draw = np.random.default_rng(0)
    x, weight = (draw.normal(size=s).astype(np.float32) for s in ((2500, 40), (40, 50)))
    product = PackedProduct(weight, loops)
    try:
        loops.call("threads", count=threads)
        found = product(x)
    finally:
        loops.call("threads", count=0)
    np.testing.assert_array_equal(found, np.concatenate([product(x[i : i + 6]) for i in
                                                         range(0, 2500, 6)]))  # fmt: skip


def test_what_is_built_is_not_built_again(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_built("float32")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    assert not is_built("float32")
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("PATH", "")
    assert not is_built("float32")
