"""A scan's caption as a piece of HTML: scan and maps in a viewer, moved by the words.

The scan is embedded with no more voxels than a page can hold, in its window, with its place in the
world and nothing else of its file's header. Where a browser has no WebGL2 the montage stands in.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from regard.errors import ConfigError
from regard.explain import labels
from regard.explain.html import (
    MATTERED_LEAST,
    controls_html,
    escaped,
    output_html,
    scale_html,
    shown_word,
    words_html,
)
from regard.explain.maps import OPACITY, colours
from regard.explain.scan.montage import montage, notices
from regard.explain.scan.volume_maps import (
    mixed,
    oblique_degrees,
    peak_of,
    scan_scale,
    smoothing_along,
)
from regard.explain.tiles import grey_slice
from regard.media.scan import import_nibabel
from regard.types import Caption, Grid, Scan

if TYPE_CHECKING:
    from regard.faithfulness.occlusion import Occlusion

MOST_VOXELS = 2_000_000
"""Voxels that a page holds of a scan; a larger one is averaged over blocks of voxels."""
_MOST_POINTS = 400_000  # of a map
_ENLARGE = 8  # points per cell along an axis, where there are few cells
_STOPS = 65  # colours that the page holds of the map's colours
_STILL_DPI, _STILL_WORDS = 90, 12
_RGBA = np.dtype([(channel, np.uint8) for channel in "RGBA"])


def scan_html(caption: Caption, occlusion: Occlusion | None = None, *, smooth: bool = True) -> str:
    """Return a scan's caption as an HTML fragment; `scan_assets` must be on its page.

    Args:
        caption: with its scan.
        occlusion: what covering each cell did to each word.
        smooth: whether maps are smoothed until the reader chooses, and in the montage.

    Raises:
        ConfigError: the caption does not hold its scan.
        MissingExtra: nibabel is not installed.
    """
    scan, grid = caption.media, caption.grid
    if not isinstance(scan, Scan):
        raise ConfigError("this caption holds no scan to draw on; caption the file again.")
    alpha = caption.trace.alpha
    tops = {"map": tuple(scan_scale(alpha, grid, smooth=way) for way in (False, True))}
    if occlusion is not None:
        tops["mattered"] = _mattered_scale(occlusion.falls, grid)
    shown = [shown_word(word, occlusion, t, _told(caption, t), real_cells=grid.real_cells)
             for t, word in enumerate(caption.words)]  # fmt: skip
    small, factors = reduced(scan)
    foot = [labels.looked(caption.trace), labels.cells(grid),
            labels.covered(grid, "beyond the maps"), labels.SCALE,
            *labels.scan_notes(grid, oblique_degrees(scan)), _thinned(factors),
            *scan.notes, caption.model]  # fmt: skip
    return (
        f"<div class='regard scan' data-medium='scan' role='group' "
        f"aria-label='{escaped(caption.text)}' data-scan='{_data(caption)}'>"
        f"<p class='warning'>{escaped(' '.join(notices(caption)))}</p>"
        f"<figure class='stage live-only' style='{_proportions(grid)}'><canvas "
        f"tabindex='0' aria-label='the scan in three planes'></canvas></figure>"
        f"<p class='place live-only'></p>{_still(caption, smooth=smooth)}"
        f"{words_html(shown, tops)}{controls_html(mattered=occlusion is not None)}"
        f"{scale_html(tops['map'][smooth], grid, smooth=True, checked=smooth)}{output_html()}"
        f"<footer>{escaped(' · '.join(filter(None, foot)))}</footer>"
        f"<script type='text/plain' class='voxels'>{small}</script>"
        f"<script type='text/plain' class='blank'>{_blank(grid)}</script></div>"
    )


def scan_assets() -> str:
    """Return the viewer's style and scripts; once on a page is enough."""
    here = files("regard.explain")
    style, script = ((here / f"scan.{kind}").read_text("utf-8") for kind in ("css", "js"))
    notice, niivue = (
        (here / "vendor" / name).read_text("utf-8") for name in ("NOTICE", "niivue.umd.js")
    )
    return (
        f"<!-- Of the first script:\n{notice}-->\n"
        f"<style>{style}</style><script>{niivue}</script><script>{script}</script>"
    )


def reduced(scan: Scan) -> tuple[str, tuple[int, ...]]:
    """Return a scan for a page: gzipped NIfTI of 8 bits in base64, and the blocks averaged."""
    factors = [1, 1, 1]
    shape = scan.pixels.shape
    while np.prod([-(-n // f) for n, f in zip(shape, factors, strict=True)]) > MOST_VOXELS:
        # The axis of the smallest voxels loses least.
        axis = int(np.argmin([f * mm for f, mm in zip(factors, scan.spacing, strict=True)]))
        factors[axis] += 1
    pad = [(0, -n % f) for n, f in zip(shape, factors, strict=True)]
    padded = np.pad(grey_slice(scan, scan.pixels), pad, "edge")
    blocks = padded.reshape([x for n, f in zip(padded.shape, factors, strict=True)
                             for x in (n // f, f)])  # fmt: skip
    shades = np.rint(blocks.mean((1, 3, 5))).astype(np.uint8)
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ ((np.array(factors) - 1) / 2)
    affine[:3, :3] *= factors
    return _nifti(shades, affine), tuple(factors)


def _proportions(grid: Grid) -> str:
    """Return width to height of the three planes in one row, and in two rows."""
    slices, rows, cols = grid.source_size
    row = (2 * cols + rows) / max(slices, rows)
    return f"--row:{row:.3f};--square:{(cols + rows) / (slices + rows):.3f}"


def _thinned(factors: tuple[int, ...]) -> str:
    if set(factors) == {1}:
        return ""
    return f"shown: means over {' × '.join(map(str, factors[::-1]))} voxels"


def _nifti(values: np.ndarray, affine: np.ndarray) -> str:
    """Return (slices, rows, cols) as the base64 of a NIfTI image that names nobody."""
    nibabel = import_nibabel("NIfTI")
    image = nibabel.Nifti1Image(values.transpose(2, 1, 0), affine[:, [2, 1, 0, 3]])
    return base64.b64encode(gzip.compress(image.to_bytes(), 6, mtime=0)).decode()


def _enlarge(grid: Grid) -> int:
    return max(1, min(_ENLARGE, int((_MOST_POINTS / grid.cells) ** (1 / 3))))


def _blank(grid: Grid) -> str:
    """Return an empty map on the grid's extent, for the viewer to fill.

    A border of one point stays empty: beyond an image the viewer repeats the outermost points.
    """
    points = np.array(grid.shape) * _enlarge(grid)
    extent = np.array(grid.extent)
    steps = (extent[:, 1] - extent[:, 0]) / points
    first = extent[:, 0] - steps / 2
    affine = np.array(grid.affine)
    affine[:3, 3] += affine[:3, :3] @ first
    affine[:3, :3] *= steps
    return _nifti(np.zeros(points + 2, _RGBA), affine)


def _data(caption: Caption) -> str:
    """Return what the script must know to draw maps, as the value of `data-scan`."""
    grid = caption.grid
    enlarge = _enlarge(grid)
    peaks = (peak_of(word, grid) for word in caption.words)
    data: dict[str, Any] = {
        "grid": grid.shape,
        "enlarge": enlarge,
        "opacity": OPACITY,
        "longest": max(grid.source_size),
        "kernels": [
            np.round(smoothing_along(grid, axis, enlarge), 4).tolist() for axis in range(3)
        ],
        "peaks": [None if peak is None else np.round(peak.world, 3).tolist() for peak in peaks],
        "colours": np.rint(255 * colours(np.linspace(0, 1, _STOPS))[0]).astype(int).tolist(),
    }
    return escaped(json.dumps(data, separators=(",", ":")))


def _told(caption: Caption, t: int) -> str:
    return labels.peak(peak_of(caption.words[t], caption.grid), caption.grid)


def _mattered_scale(falls: np.ndarray, grid: Grid) -> tuple[float, float]:
    slices, rows, cols = (smoothing_along(grid, axis, 5) for axis in range(3))
    raw = float(falls.max(initial=0.0))
    smooth = [
        float(mixed(fall.reshape(grid.shape), (slices, rows, cols), 1).max()) for fall in falls
    ]
    return max(MATTERED_LEAST, raw), max(MATTERED_LEAST, *smooth, 0.0)


def _still(caption: Caption, *, smooth: bool) -> str:
    """Return the montage as a picture, for browsers without WebGL2 or without scripts."""
    figure = montage(caption, width=10, most=_STILL_WORDS, smooth=smooth)
    FigureCanvasAgg(figure)
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_STILL_DPI)
    Image.open(drawn).convert("RGB").save(packed, "WEBP", quality=80)
    data = base64.b64encode(packed.getvalue()).decode()
    return (
        "<figure class='still'><img alt='three planes of the scan for every word' "
        f"src='data:image/webp;base64,{data}'><figcaption>The scan cannot be turned through here: "
        "this browser has no WebGL2 or runs no scripts. The picture shows the planes through each "
        "word's peak.</figcaption></figure>"
    )
