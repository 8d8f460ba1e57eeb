"""What figures and pages say of themselves: where the decoder looked, and how it is drawn."""

from __future__ import annotations

from regard.explain.maps import ENLARGE, sigma_cells
from regard.types import AttentionTrace, Grid
from regard.vocabulary import END, SPECIALS, UNKNOWN

SCALE = "One absolute scale for the whole caption, in multiples of uniform attention 1/L"
FRAMED = "framed: the chosen cell"
_CANDIDATES = {SPECIALS[END]: "(end)", SPECIALS[UNKNOWN]: "(unknown word)"}


def looked(trace: AttentionTrace) -> str:
    """Say whose maps these are: the decoder's, and by which attention."""
    kind = f"{trace.attention} attention"
    if trace.attention == "hard":
        kind += f", {trace.context} location"
    return f"Where the decoder looked ({kind})"


def cells(grid: Grid) -> str:
    """Name the grid, such as "7×7 cells"."""
    return f"{'×'.join(map(str, grid.shape))} cells"


def smoothed(grid: Grid) -> str:
    """Name the smoothing, such as "enlarged ×16, Gaussian σ 0.62 cells"."""
    sigmas = dict.fromkeys(f"{sigma_cells(count):.2f}" for count in grid.shape)
    return f"enlarged ×{ENLARGE}, Gaussian σ {' × '.join(sigmas)} cells"


def covered(grid: Grid) -> str:
    """Say what of the picture or of the grid has no map; "" where they coincide."""
    spans = list(zip(grid.extent, grid.source_size, strict=True))
    notes: list[str] = []
    if any(start > 0 or stop < size for (start, stop), size in spans):
        notes.append("faded: not seen by the encoder")
    if any(start < 0 or stop > size for (start, stop), size in spans):
        notes.append("cells on the padding not drawn")
    return ", ".join(notes)


def candidate(text: str) -> str:
    """Return an alternative as a reader shall see it."""
    return _CANDIDATES.get(text, text)
