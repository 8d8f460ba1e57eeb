"""Two captions that should be the same one."""

from __future__ import annotations

import numpy as np
import pytest

from regard.types import Caption


def assert_same(one: Caption, other: Caption, tolerance: float = 1e-4) -> None:
    """Words, alternatives and finish are equal; maps, gates and scores to the tolerance."""
    assert one.text == other.text
    assert one.finished == other.finished
    np.testing.assert_allclose(one.score, other.score, atol=20 * tolerance)
    np.testing.assert_allclose(one.trace.alpha, other.trace.alpha, atol=tolerance)
    for name in ("beta", "location"):
        ours, theirs = getattr(one.trace, name), getattr(other.trace, name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_allclose(ours, theirs, atol=tolerance)
    for a, b in zip(one.words, other.words, strict=True):
        assert (a.text, a.token) == (b.text, b.token)
        assert a.logprob == pytest.approx(b.logprob, abs=10 * tolerance)
        assert [text for text, _ in a.alternatives] == [text for text, _ in b.alternatives]
