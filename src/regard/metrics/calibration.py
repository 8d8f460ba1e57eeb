"""Does confidence tell right from wrong? Reliability of word probabilities (Guo et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Bin:
    """The words whose probability lies in an interval.

    Attributes:
        low: the interval's lower end, which belongs to it.
        high: its upper end, which belongs to the next one, the last one's excepted.
        words: how many.
        confidence: mean probability; nan without words.
        support: share of the words that are supported; nan without words.
    """

    low: float
    high: float
    words: int
    confidence: float
    support: float


@dataclass(frozen=True)
class Reliability:
    """Bins of equal width, and the expected calibration error.

    Attributes:
        bins: from 0 to 1.
        error: mean of |support - confidence| over the bins, weighed by their words; nan without.
    """

    bins: tuple[Bin, ...]
    error: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values; what is not known is None."""
        bins = [{k: _known(v) for k, v in asdict(one).items()} for one in self.bins]
        return {"bins": bins, "expected_calibration_error": _known(self.error)}


def reliability(
    probabilities: Sequence[float], supported: Sequence[bool], *, bins: int = 10
) -> Reliability:
    """Set how sure a model was of words against whether they are supported.

    Args:
        probabilities: p of each word.
        supported: whether references support it.
        bins: of equal width.
    """
    made: list[Bin] = []
    pairs = list(zip(probabilities, supported, strict=True))
    for b in range(bins):
        inside = [pair for pair in pairs if min(bins - 1, int(pair[0] * bins)) == b]
        count = len(inside)
        confidence = math.fsum(p for p, _ in inside) / count if count else math.nan
        share = sum(ok for _, ok in inside) / count if count else math.nan
        made.append(Bin(b / bins, (b + 1) / bins, count, confidence, share))
    gaps = [one.words * abs(one.support - one.confidence) for one in made if one.words]
    return Reliability(tuple(made), math.fsum(gaps) / len(pairs) if pairs else math.nan)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
