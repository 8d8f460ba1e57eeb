"""One HTML file that explains one caption, or two models' captions side by side.

It holds everything and loads nothing: it can be mailed, archived and opened without a network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regard.errors import ConfigError
from regard.explain import labels
from regard.explain.clip.player import clip_html, weights_table
from regard.explain.html import assets_html, caption_html, escaped
from regard.explain.scan.scan_html import scan_assets, scan_html
from regard.explain.scan.volume_maps import cell_size, peak_of
from regard.faithfulness.occlusion import Occlusion
from regard.types import MEDIA, Caption, Scan


@dataclass(frozen=True)
class Explained:
    """A caption and what is known of what mattered.

    Attributes:
        caption: with its picture.
        occlusion: None where no cell was covered.
        unmeasured: why not, where it was wanted.
    """

    caption: Caption
    occlusion: Occlusion | None = None
    unmeasured: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the caption's JSON with `occlusion`: cover, what was covered at a time (cell or
        frame), falls [words][cells or frames] in nats, and the rank correlation of each word's
        falls with its attention (null where there is none); of a scan with `peaks_mm`, where each
        word looked most in world millimetres (RAS; null where its map is flat), and `cell_mm`, how
        large a cell is along the scan's own x, y and z."""
        record = self.caption.to_json() | self._places()
        if self.occlusion is None:
            return record
        falls = self.occlusion.falls  # flat cells; a caption may have no word
        falls = falls.reshape(len(falls), math.prod(falls.shape[1:]))
        correlation = [
            round(float(r), 4) if np.isfinite(r) else None for r in self.occlusion.correlation
        ]
        return record | {
            "occlusion": {
                "cover": self.occlusion.cover,
                "covered": self.occlusion.covered,
                "falls": np.round(falls, 6).tolist(),
                "correlation": correlation,
            }
        }

    def _places(self) -> dict[str, Any]:
        if self.caption.medium != "volume":
            return {}
        grid = self.caption.grid
        peaks = (peak_of(word, grid) for word in self.caption.words)
        return {
            "peaks_mm": [None if p is None else np.round(p.world, 3).tolist() for p in peaks],
            "cell_mm": np.round(cell_size(grid), 3).tolist(),
        }


def explanation_page(explained: Sequence[Explained], *, smooth: bool = True) -> str:
    """Return a whole HTML page.

    Args:
        explained: one caption, or several models' captions of one picture.
        smooth: whether maps are smoothed until the reader chooses.

    Raises:
        ConfigError: there is none, or a caption does not hold its picture.
    """
    if not explained:
        raise ConfigError("there is no caption to make a page of.")
    first = explained[0].caption
    scans = any(isinstance(one.caption.media, Scan) for one in explained)
    # Scans are often named after patients.
    title = first.text if scans else f"{Path(first.file).name}: {first.text}"
    panels = "".join(
        f"<section><h2>{escaped(one.caption.model)}</h2>{_viewer(one, again=at > 0, smooth=smooth)}"
        f"{_table(one)}</section>"
        for at, one in enumerate(explained)
    )
    wide = " one" if first.medium == "video" and len(explained) == 1 else ""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escaped(title)}</title><style>{_STYLE}</style>"
        f"{assets_html() + scan_assets() if scans else ''}</head>"
        f"<body><main><h1>{escaped(first.text)}</h1><div class='panels{wide}'>{panels}</div>"
        f"{_notes(explained)}</main></body></html>"
    )


def _viewer(one: Explained, *, again: bool, smooth: bool) -> str:
    if one.caption.medium == "video":
        player = clip_html(one.caption, one.occlusion, again=again, smooth=smooth)
        return player + weights_table(one.caption)
    if one.caption.medium == "volume":
        return scan_html(one.caption, one.occlusion, smooth=smooth)
    return caption_html(one.caption, one.occlusion, smooth=smooth)


def _notes(explained: Sequence[Explained]) -> str:
    notes = [
        "Maps show where the decoder looked for each word, on one scale for the whole caption "
        "in multiples of uniform attention: a flat map looks flat."
    ]
    source = MEDIA[explained[0].caption.medium].noun
    if source == "clip":
        notes.append(
            "Of the clip the frames in the strip were read, each for the seconds around it. What "
            "happens between them was not seen."
        )
    notes += dict.fromkeys(one.unmeasured for one in explained if one.unmeasured)
    sure = [one.caption.confidence for one in explained if one.caption.confidence is not None]
    if sure:
        shares = " and ".join(f"{share:.0%}" for share in sure)
        notes.append(
            "Confidence is the chance that what people say of such a "
            f"{source} supports a word, by how often the model was "
            f"right on others; of the caption's content words {shares} can be expected to be."
        )
    covers = {(o.occlusion.cover, o.occlusion.covered) for o in explained if o.occlusion}
    for cover, part in sorted(covers):
        hidden = f"the {source}'s mean colour" if cover == "mean" else f"the blurred {source}"
        notes.append(
            f"What mattered was measured: each {part} was covered in turn with "
            f"{hidden}, the caption before the word was kept, and the fall of the word's "
            "log-probability is what its map shows, in nats. Covering changes more than it hides; "
            f"a {part} that shows nothing here may still be one of several that say the same."
        )
    return "".join(f"<p class='note'>{escaped(note)}</p>" for note in notes)


def _table(one: Explained) -> str:
    """Return all words' numbers as a table, for readers of numbers and of Braille."""
    head = ["word", "p", "entropy", "peak", "β", "alternatives"]
    if one.occlusion is not None:
        head.insert(5, "agreement with what mattered")
    calibrated = one.caption.confidence is not None
    if calibrated:
        head.insert(2, "confidence")
    scan = isinstance(one.caption.media, Scan)
    if scan:
        head.append("most at")
    rows: list[str] = []
    for t, word in enumerate(one.caption.words):
        cells = [
            word.text,
            f"{np.exp(word.logprob):.2f}",
            f"{word.entropy:.2f}",
            f"{word.peak:.1%}",
            "–" if word.beta is None else f"{word.beta:.2f}",
            ", ".join(f"{text} {np.exp(value):.2f}" for text, value in word.alternatives[:5]),
        ]
        if one.occlusion is not None:
            agreement = one.occlusion.correlation[t]
            cells.insert(5, f"{agreement:+.2f}" if np.isfinite(agreement) else "–")
        if calibrated:
            cells.insert(2, "–" if word.confidence is None else f"{word.confidence:.0%}")
        if scan:
            grid = one.caption.grid
            cells.append(labels.peak(peak_of(word, grid), grid).removeprefix("most at "))
        rows.append("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in cells) + "</tr>")
    names = "".join(f"<th scope='col'>{escaped(name)}</th>" for name in head)
    return (
        "<details><summary>All numbers</summary><div class='wide'><table><thead><tr>"
        f"{names}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )


_STYLE = """
body { margin: 0; font: 1rem/1.5 system-ui, sans-serif; color: #1d2433; background: #f6f7f9; }
main { max-width: 78rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1rem; margin: 0 0 .5rem; }
.panels { display: flex; flex-wrap: wrap; gap: 1.5rem; }
.panels section { flex: 1 1 22rem; min-width: 0; max-width: 40rem; }
.panels section:has(.scan) { flex-basis: 34rem; max-width: 60rem; }
.panels.one section { max-width: none; }
.note { max-width: 44rem; font-size: .9rem; color: #4b5565; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .15rem .6rem; text-align: left; border-bottom: 1px solid #d5dae2; }
summary { margin: .5rem 0; cursor: pointer; }
@media (prefers-color-scheme: dark) {
  body { color: #eef1f6; background: #0b0e13; }
  .note { color: #a3acba; } th, td { border-color: #3d4757; }
}
"""
