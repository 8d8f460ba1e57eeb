"""What figures and pages say of themselves: where the decoder looked, and how it is drawn."""

from __future__ import annotations

from regard.explain.maps import ENLARGE, sigma_cells
from regard.explain.scan.volume_maps import Peak, cell_size
from regard.text.vocabulary import END, SPECIALS, UNKNOWN
from regard.types import AttentionTrace, Grid

SCALE = "One absolute scale for the whole caption, in multiples of uniform attention 1/L"
CLIP_SCALE = (
    "One absolute scale for the whole caption, in multiples of uniform attention over the clip's "
    "frames; dashed: 1 = uniform"
)
EVEN = "all frames alike"
FRAMED = "framed: the chosen cell"
_TURNED = 0.5  # degrees; less is rounding
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


def frames(grid: Grid) -> str:
    """Name a clip's grid by its real frames, such as "12 frames of 7×7 cells"."""
    count = len(grid.spans)
    named = f"{count} frame{'' if count == 1 else 's'}"
    return named + (f" of {'×'.join(map(str, grid.shape[1:]))} cells" if grid.shape[1:] else "")


def unread(grid: Grid) -> str:
    """Say which seconds of a clip no frame stands for; "" where there are none."""
    (start, stop), duration = grid.extent[0], grid.source_size[0]
    notes = [f"before {start:.1f} s"] if start > 0.05 else []
    notes += [f"after {stop:.1f} s"] if stop < duration - 0.05 else []
    return f"not read: {' and '.join(notes)}" if notes else ""


def smoothed(grid: Grid) -> str:
    """Name the smoothing, such as "enlarged ×16, Gaussian σ 0.62 cells"."""
    counts = [sum(grid.real_along(axis)) for axis in range(3)] if grid.affine else grid.shape
    sigmas = dict.fromkeys(f"{sigma_cells(count):.2f}" for count in counts)
    return f"enlarged ×{ENLARGE}, Gaussian σ {' × '.join(sigmas)} cells"


def covered(grid: Grid, look: str = "faded") -> str:
    """Say what of the source or of the grid has no map; "" where they coincide.

    Args:
        grid: the grid.
        look: how that part of the source is drawn.
    """
    spans = list(zip(grid.extent, grid.source_size, strict=True))
    notes: list[str] = []
    if any(start > 0 or stop < size for (start, stop), size in spans):
        notes.append(f"{look}: not seen by the encoder")
    if any(start < 0 or stop > size for (start, stop), size in spans):
        notes.append("cells on the padding not drawn")
    return ", ".join(notes)


def candidate(text: str) -> str:
    """Return an alternative as a reader shall see it."""
    return _CANDIDATES.get(text, text)


def scan_notes(grid: Grid, oblique: float) -> list[str]:
    """Say how a scan's planes and positions are to be read.

    Args:
        grid: of the scan's cells.
        oblique: degrees between the scan's axes and the world's.
    """
    turned = f" (turned by up to {oblique:.0f}° from the world's)" if oblique >= _TURNED else ""
    cell = " × ".join(f"{mm:.3g}" for mm in cell_size(grid))
    return [
        "Radiological convention: the patient's right (R) is on the viewer's left; planes along "
        f"the scan's own axes{turned}",
        "Positions: world mm, RAS (x to the patient's right, y to the front, z to the head); ± "
        f"half a cell, which is {cell} mm",
    ]


def peak(found: Peak | None, grid: Grid) -> str:
    """Say where in a scan a word looked most, such as "(−12, 34, 5) mm ± 3 × 3 × 3"."""
    if found is None:
        return "flat: no cell stands out"
    halves = " × ".join(f"{mm / 2:.2g}" for mm in cell_size(grid))
    beyond = "" if found.inside else ", on padding"
    return f"most at {position(found.world)} ± {halves}{beyond}"


def position(world: tuple[float, float, float]) -> str:
    """Return a position in world millimetres, such as "(−12, 34, 5) mm"."""
    return f"({', '.join(f'{round(x):d}'.replace('-', '−') for x in world)}) mm"
