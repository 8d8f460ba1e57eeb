"""A scan's caption as an HTML fragment: scan and maps in a viewer controlled by its words.

The scan is embedded with a limited number of voxels, in its intensity window, with its affine and
nothing else of its file's header. Without WebGL2 the montage is shown instead.
"""

from __future__ import annotations

import base64
import gzip
import io
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from regard.explain import html
from regard.explain.drawing import SCALE_NOTE, attention_label, coverage_label, grid_label
from regard.explain.maps import OPACITY, grey_slice
from regard.explain.scan.montage import montage, scan_notices
from regard.explain.scan.volume_maps import (
    orientation_notes,
    peak_label,
    peak_of,
    scan_of,
    scan_scale,
    smoothed_top,
    smoothing_along,
)
from regard.media.scan import import_nibabel
from regard.types import Caption, Grid, Scan

if TYPE_CHECKING:
    from regard.faithfulness.occlusion import Occlusion

MOST_VOXELS = 2_000_000
"""Voxels that a page embeds of a scan; a larger one is averaged over blocks of voxels."""
_MOST_POINTS = 400_000  # of a map
_ENLARGE = 8  # points per cell along an axis, where there are few cells
_STOPS = 65  # samples of the colour map in a page
_STILL_DPI, _STILL_WORDS = 90, 12
_FRAGMENTS = html.Fragments("scan.html")
_RGBA = np.dtype([(channel, np.uint8) for channel in "RGBA"])


def scan_html(caption: Caption, occlusion: Occlusion | None = None, *, smooth: bool = True) -> str:
    """Return a scan's caption as an HTML fragment; `scan_assets` must be on its page.

    Args:
        caption: with its scan.
        occlusion: occlusion of the caption.
        smooth: whether maps are smoothed until the reader chooses, and in the montage.

    Raises:
        ConfigError: the caption does not hold its scan.
        MissingExtra: nibabel is not installed.
    """
    scan, grid, alpha = scan_of(caption), caption.grid, caption.trace.alpha
    tops = {"map": tuple(scan_scale(alpha, grid, smooth=way) for way in (False, True))}
    if occlusion is not None:
        falls = occlusion.falls
        tops["mattered"] = (max(html.FALL_LEAST, float(falls.max(initial=0.0))),
                            max(html.FALL_LEAST, smoothed_top(falls, grid, 5, 1)))  # fmt: skip
    words = [
        html.page_word(word, occlusion, t, after=peak_label(word, grid), real_cells=grid.real_cells)
        for t, word in enumerate(caption.words)
    ]
    small, factors = reduced(scan)
    thinned = f"shown: means over {' × '.join(map(str, factors[::-1]))} voxels"
    foot = [attention_label(caption.trace), grid_label(grid),
            coverage_label(grid, "beyond the maps"), SCALE_NOTE, *orientation_notes(grid, scan),
            "" if set(factors) == {1} else thinned, *scan.notes, caption.model]  # fmt: skip
    return _FRAGMENTS.fill(
        "scan", text=caption.text, data=_data(caption), notices=" ".join(scan_notices(caption)),
        proportions=_proportions(grid), still=_still(caption, smooth=smooth),
        words=html.words_html(words, tops), output=html.output_html(),
        controls=html.controls_html(occluded=occlusion is not None),
        scale=html.scale_html(tops["map"][smooth], grid, smooth=True, checked=smooth),
        foot=html.footer_html(foot), voxels=small, blank=_blank(grid),
    )  # fmt: skip


def scan_assets() -> str:
    """Return the viewer's style and scripts; once on a page is enough."""
    return (
        f"<!-- Of the first script:\n{html.asset('vendor/NOTICE')}-->\n"
        f"<style>{html.asset('scan.css')}</style><script>{html.asset('vendor/niivue.umd.js')}</script>"
        f"<script>{html.asset('scan.js')}</script>"
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


def _nifti(values: np.ndarray, affine: np.ndarray) -> str:
    """Return (slices, rows, cols) as the base64 of a NIfTI image without personal data."""
    nibabel = import_nibabel("NIfTI")
    image = nibabel.Nifti1Image(values.transpose(2, 1, 0), affine[:, [2, 1, 0, 3]])
    return base64.b64encode(gzip.compress(image.to_bytes(), 6, mtime=0)).decode()


def _enlarge(grid: Grid) -> int:
    return max(1, min(_ENLARGE, int((_MOST_POINTS / grid.cells) ** (1 / 3))))


def _blank(grid: Grid) -> str:
    """Return an empty map on the grid's extent for the viewer to fill.

    A border of one point stays empty, because the viewer repeats the outermost points of an
    image beyond it.
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
    """Return the script's settings for drawing maps, as the value of `data-scan`."""
    grid = caption.grid
    enlarge = _enlarge(grid)
    peaks = (peak_of(word, grid) for word in caption.words)
    return html.attribute({
        "grid": grid.shape,
        "enlarge": enlarge,
        "opacity": OPACITY,
        "longest": max(grid.source_size),
        "kernels": [
            np.round(smoothing_along(grid, axis, enlarge), 4).tolist() for axis in range(3)
        ],
        "peaks": [None if peak is None else np.round(peak.world, 3).tolist() for peak in peaks],
        "colours": html.colour_stops(_STOPS),
    })  # fmt: skip


def _still(caption: Caption, *, smooth: bool) -> str:
    """Return the montage as a picture, for browsers without WebGL2 or without scripts."""
    figure = montage(caption, width=10, most=_STILL_WORDS, smooth=smooth)
    FigureCanvasAgg(figure)
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_STILL_DPI)
    Image.open(drawn).convert("RGB").save(packed, "WEBP", quality=80)
    return _FRAGMENTS.fill("still", picture=html.data_uri(packed.getvalue(), "image/webp"))
