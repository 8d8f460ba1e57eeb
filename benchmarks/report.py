"""What a benchmark found, as one record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Report:
    """The figures of one benchmark; None where a figure makes no sense for it.

    Attributes:
        benchmark: its name.
        captions_per_s: median of the rounds.
        share_of_gemm_peak: useful floating-point operations per second, as a fraction of those
            of the best square matrix product of the same run.
        peak_rss_mb: most memory of a process that does only this, in MB of 10^6 bytes, less what
            it held after `import torch`; of `start` the whole process.
        ratio_to_textbook: captions per second over the textbook implementation's.
        ratio_to_plain: the same over plain PyTorch's.
        seconds: of one unit of work (`unit`), median of the rounds.
        settings: what was measured.
        details: spreads and everything else that was measured.
    """

    benchmark: str
    captions_per_s: float | None = None
    share_of_gemm_peak: float | None = None
    peak_rss_mb: float | None = None
    ratio_to_textbook: float | None = None
    ratio_to_plain: float | None = None
    seconds: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the record that `regard bench --json` writes; keys are only ever added."""
        names = ("captions_per_s", "share_of_gemm_peak", "peak_rss_mb", "ratio_to_textbook",
                 "ratio_to_plain", "seconds")  # fmt: skip
        figures = {name: _rounded(getattr(self, name)) for name in names}
        details = {name: _rounded(value) for name, value in self.details.items()}
        return {"benchmark": self.benchmark} | figures | {"settings": self.settings} | details


def _rounded(value: Any) -> Any:
    """Return numbers with five significant digits; what lies below them is noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return value
