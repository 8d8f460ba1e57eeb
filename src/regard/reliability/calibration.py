"""Calibration: how reliable word probabilities are, and a fit that makes them reliable.

Reliability and the expected calibration error are those of Guo et al. 2017, the fit is Platt's of
1999 (`regard.reliability.confidence`).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from regard.errors import DatasetError
from regard.reliability.confidence import Confidence, logit

_FOLDS = 5
_FEWEST = 50  # judged words, and _FEWEST_KIND of them with support and as many without
_FEWEST_KIND = 10
_STEPS, _NEAR = 100, 1e-10  # of Newton's method, and where it is done

Judged = Sequence[tuple[float, bool]]
"""For each judged word of a caption, its natural log-probability and whether references
support it."""


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
        """Return plain values; unknown ones are None."""
        bins = [{k: _known(v) for k, v in asdict(one).items()} for one in self.bins]
        return {"bins": bins, "expected_calibration_error": _known(self.error)}


def reliability(
    probabilities: Sequence[float], supported: Sequence[bool], *, bins: int = 10
) -> Reliability:
    """Compare the probabilities of words with the share that references support.

    Args:
        probabilities: p of each word.
        supported: whether references support it.
        bins: bins of equal width.
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


@dataclass(frozen=True)
class Calibration:
    """A fit, and its quality on captions that it was not fitted to.

    Attributes:
        confidence: the fit to all words.
        errors: expected calibration error of "probability" (the bare one), "temperature" (a scale
            alone) and "confidence" (scale and shift).
        losses: likewise the log loss: the mean of -log of the chance of the outcome, in nats.
    """

    confidence: Confidence
    errors: dict[str, float]
    losses: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "confidence": self.confidence.to_json(),
            "expected_calibration_error": self.errors,
            "log_loss": self.losses,
        }


def calibrate(captions: Sequence[Judged], *, split: str, beam: int) -> Calibration:
    """Fit the confidence of words, and test the fit by cross-validation over captions.

    Args:
        captions: the judged words of each.
        split: the split of the captions; kept with the fit.
        beam: the beam width that they were decoded with; kept with the fit.

    Raises:
        DatasetError: the words are too few, or the improbable ones have more support.
    """
    words = [word for caption in captions for word in caption]
    x = np.array([logit(p) for p, _ in words])
    y = np.array([ok for _, ok in words], bool)
    if len(y) < _FEWEST or min(y.sum(), (~y).sum()) < _FEWEST_KIND:
        raise DatasetError(
            f"{int(y.sum())} words with support and {int((~y).sum())} without are too few to "
            f"calibrate a model; at least {_FEWEST} are needed, and {_FEWEST_KIND} of each kind. "
            "Caption more pictures that have references."
        )
    fold = np.repeat(np.arange(len(captions)) % _FOLDS, [len(caption) for caption in captions])
    # The chance of each word by the fit to the other folds.
    chances = {"probability": _sigmoid(x), "temperature": np.empty(len(x)),
               "confidence": np.empty(len(x))}  # fmt: skip
    for k in range(_FOLDS):
        seen, new = fold != k, fold == k
        for name, shifted in (("temperature", False), ("confidence", True)):
            scale, shift = platt(x[seen], y[seen], shifted=shifted)
            chances[name][new] = _sigmoid(scale * x[new] + shift)
    errors = {k: reliability(p.tolist(), y.tolist()).error for k, p in chances.items()}
    losses = {k: float(-np.log(np.where(y, p, 1 - p)).mean()) for k, p in chances.items()}
    scale, shift = platt(x, y)
    if scale <= 0:
        raise DatasetError(
            f"the less probable the model's {len(y)} judged words of {split!r} are, the more "
            "support they have, so it cannot be calibrated. Check that the model is trained and "
            "that the references belong to these pictures."
        )
    found = Confidence(
        scale, shift, split, beam, len(captions), len(y),
        errors["probability"], errors["confidence"],
    )  # fmt: skip
    return Calibration(found, errors, losses)


def platt(
    logits: np.ndarray, supported: np.ndarray, *, shifted: bool = True
) -> tuple[float, float]:
    """Fit (scale, shift) of P(supported) = sigmoid(scale · logit + shift) by maximum likelihood.

    The targets are Platt's, (n + 1) / (n + 2) and 1 / (m + 2) of n words with and m without
    support: the fit stays finite where the two are perfectly separable.

    Args:
        logits: (n,) of the words' probabilities.
        supported: (n,) bool.
        shifted: False keeps the shift at 0, which leaves the temperature 1 / scale.
    """
    n = int(supported.sum())
    target = np.where(supported, (n + 1) / (n + 2), 1 / (len(supported) - n + 2))
    features = np.stack([logits, np.ones_like(logits)], 1)[:, : 1 + shifted]
    # The loss is convex, and its curvature least where all chances are near 0 or 1: begin at 1/2.
    weights = np.zeros(features.shape[1])
    for _ in range(_STEPS):
        chance = _sigmoid(features @ weights)
        curvature = (features * (chance * (1 - chance))[:, None]).T @ features
        curvature += _NEAR * np.eye(len(weights))  # logits may all be one number
        step = np.linalg.solve(curvature, features.T @ (chance - target))
        weights = weights - step
        if np.abs(step).max() < _NEAR:
            break
    return float(weights[0]), float(weights[1]) if shifted else 0.0


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
