"""One HTML file that explains one caption, or several models' captions side by side.

It loads no other files, so it can be mailed, archived and opened offline.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regard.errors import ConfigError
from regard.explain.clip.player import clip_html, weights_table
from regard.explain.drawing import named_label
from regard.explain.html import (
    VIEWER,
    asset,
    assets_html,
    caption_html,
    escaped,
    page_html,
    table_html,
)
from regard.explain.scan.scan_html import scan_assets, scan_html
from regard.explain.scan.volume_maps import cell_size, peak_label, peak_of
from regard.faithfulness.occlusion import Occlusion
from regard.types import MEDIA, Caption, Scan


@dataclass(frozen=True)
class Explanation:
    """A caption and its occlusion.

    Attributes:
        caption: with its source.
        occlusion: None where it was not measured.
        unmeasured: the reason, where it was requested.
    """

    caption: Caption
    occlusion: Occlusion | None = None
    unmeasured: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the caption's JSON with `occlusion`: cover, what was covered at a time (cell or
        frame), falls [words][cells or frames] in nats, and the rank correlation of each word's
        falls with its attention (null where there is none). A scan's also has `peaks_mm`, where
        each word looked most in world millimetres (RAS; null where its map is flat), and
        `cell_mm`, the size of a cell along the scan's own x, y and z."""
        record = self.caption.to_json() | self._places()
        if self.occlusion is None:
            return record
        falls = self.occlusion.falls  # flat cells; a caption may have no word
        falls = falls.reshape(len(falls), math.prod(falls.shape[1:]))
        correlation = self.occlusion.correlation
        found: dict[str, Any] = {"cover": self.occlusion.cover, "covered": self.occlusion.covered}
        found["falls"] = np.round(falls, 6).tolist()
        found["correlation"] = [round(float(r), 4) if np.isfinite(r) else None for r in correlation]
        return record | {"occlusion": found}

    def _places(self) -> dict[str, Any]:
        if self.caption.medium != "volume":
            return {}
        grid = self.caption.grid
        peaks = (peak_of(word, grid) for word in self.caption.words)
        return {
            "peaks_mm": [None if p is None else np.round(p.world, 3).tolist() for p in peaks],
            "cell_mm": np.round(cell_size(grid), 3).tolist(),
        }


def explanation_page(explained: Sequence[Explanation], *, smooth: bool = True) -> str:
    """Return a whole HTML page.

    Args:
        explained: one caption, or several models' captions of one file.
        smooth: whether maps are smoothed until the reader chooses.

    Raises:
        ConfigError: no caption is given, or one does not hold its source.
    """
    if not explained:
        raise ConfigError("No caption to explain; a page needs one or more.")
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
    head = f"<style>\n{asset('page.css')}</style>"
    return page_html(
        title,
        head + (assets_html() + scan_assets() if scans else ""),
        f"<h1>{escaped(first.text)}</h1><div class='panels{wide}'>{panels}</div>"
        f"{_notes(explained)}",
    )


def _viewer(one: Explanation, *, again: bool, smooth: bool) -> str:
    if one.caption.medium == "video":
        player = clip_html(one.caption, one.occlusion, again=again, smooth=smooth)
        return player + weights_table(one.caption)
    if one.caption.medium == "volume":
        return scan_html(one.caption, one.occlusion, smooth=smooth)
    return caption_html(one.caption, one.occlusion, smooth=smooth)


def _notes(explained: Sequence[Explanation]) -> str:
    medium = explained[0].caption.medium
    noun = MEDIA[medium].noun
    notes = [VIEWER.fill("scales")] + ([VIEWER.fill("frames")] if medium == "video" else [])
    reasons = dict.fromkeys(one.unmeasured for one in explained if one.unmeasured)
    notes += [f"<p class='note'>{escaped(reason)}</p>" for reason in reasons]
    sure = [one.caption.confidence for one in explained if one.caption.confidence is not None]
    if sure:
        shares = " and ".join(f"{share:.0%}" for share in sure)
        notes.append(VIEWER.fill("confidence", noun=noun, shares=shares))
    covers = {(o.occlusion.cover, o.occlusion.covered) for o in explained if o.occlusion}
    for cover, part in sorted(covers):
        hidden = f"the {noun}'s mean colour" if cover == "mean" else f"the blurred {noun}"
        notes.append(VIEWER.fill("occlusion", part=part, hidden=hidden))
    return "".join(notes)


def _table(one: Explanation) -> str:
    """Return all words' numbers as a table, also for screen readers."""
    caption, occlusion, words = one.caption, one.occlusion, one.caption.words
    columns = {
        "word": [word.text for word in words],
        "p": [f"{np.exp(word.logprob):.2f}" for word in words],
    }
    if caption.confidence is not None:
        shares = [word.confidence for word in words]
        columns["confidence"] = ["–" if share is None else f"{share:.0%}" for share in shares]
    columns["entropy"] = [f"{word.entropy:.2f}" for word in words]
    columns["peak"] = [f"{word.peak:.1%}" for word in words]
    if any(word.source for word in words):
        columns["source"] = [named_label(word) or str(word.source) for word in words]
    columns["β"] = ["–" if word.beta is None else f"{word.beta:.2f}" for word in words]
    if occlusion is not None:
        columns["agreement with what mattered"] = [
            f"{r:+.2f}" if np.isfinite(r) else "–" for r in occlusion.correlation
        ]
    columns["alternatives"] = [
        ", ".join(f"{text} {np.exp(value):.2f}" for text, value in word.alternatives[:5])
        for word in words
    ]
    if isinstance(caption.media, Scan):
        peaks = [peak_label(word, caption.grid) for word in words]
        columns["most at"] = [peak.removeprefix("most at ") for peak in peaks]
    table = table_html(list(columns), zip(*columns.values(), strict=True))
    return f"<details><summary>All numbers</summary>{table}</details>"
