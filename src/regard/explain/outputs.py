"""Everything that is made to explain one caption, each as a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regard.captioner import Captioner
from regard.explain.draw import draw
from regard.explain.image.animation import save_animation
from regard.explain.image.compare import compare_sheet
from regard.explain.image.sheet import save_figure
from regard.explain.page import Explained, explanation_page
from regard.explain.scan.nifti_maps import save_attention
from regard.explain.tiles import as_picture
from regard.faithfulness.occlusion import occlude
from regard.types import Caption
from regard.util.atomic import whole_file

MOST_COVERED = 1000
"""Cells of a scan that are covered one after another; a scan of more is not measured."""


@dataclass(frozen=True)
class Wanted:
    """What shall be made besides drawing, page and numbers.

    Attributes:
        occlusion: cover each cell, or each frame of a clip, and measure what mattered.
        animation: "webp", "gif" or "none".
        smooth: smooth the maps.
        grids: also the raw weights as .npy.
    """

    occlusion: bool = True
    animation: str = "webp"
    smooth: bool = True
    grids: bool = False

    def suffixes(self, medium: str) -> tuple[str, ...]:
        """Return what the names of a caption's files end in; those of its medium included."""
        animated = () if self.animation == "none" else (f".{self.animation}",)
        image = (".attention.nii.gz",) if medium == "volume" else ()
        return (".png", *animated, ".html", ".json", *image, *((".npy",) if self.grids else ()))


def write_explanation(
    captioner: Captioner,
    caption: Caption,
    stem: Path,
    wanted: Wanted,
    *,
    rival: tuple[Captioner, Caption] | None = None,
) -> None:
    """Write all that is wanted of one caption to files that begin with `stem`.

    Args:
        captioner: that said it.
        caption: with its source.
        stem: path of the files, without a suffix.
        wanted: which of them.
        rival: a second model and its caption of the same source, to stand beside the first.

    Raises:
        OSError: a file cannot be written.
    """
    pairs = [(captioner, caption)]
    if rival is not None:
        pairs.append(rival)
    explained = [_explained(model, said, wanted) for model, said in pairs]
    sheet = (
        draw(caption, smooth=wanted.smooth)
        if rival is None
        # Smoothing would carry attention from a slice or frame into the one beside it.
        else compare_sheet(
            [as_picture(said) for _, said in pairs],
            smooth=wanted.smooth and caption.medium == "image",
        )
    )
    save_figure(sheet, with_suffix(stem, ".png"))
    if wanted.animation != "none":
        path = with_suffix(stem, f".{wanted.animation}")
        save_animation(caption, path, smooth=wanted.smooth)
    with whole_file(with_suffix(stem, ".html")) as new:
        # A file name that is no UTF-8 cannot be written as it is.
        page = explanation_page(explained, smooth=wanted.smooth)
        new.write_text(page, "utf-8", errors="backslashreplace")
    records = [one.to_json() for one in explained]
    record = records[0] if rival is None else records[0] | {"compared": records[1]}
    with whole_file(with_suffix(stem, ".json")) as new:
        text = json.dumps(record, ensure_ascii=False) + "\n"
        new.write_text(text, "utf-8", errors="backslashreplace")
    if caption.medium == "volume" and caption.words:
        save_attention(caption, with_suffix(stem, ".attention.nii.gz"), smooth=wanted.smooth)
    if wanted.grids:
        with whole_file(with_suffix(stem, ".npy")) as new:
            np.save(new, caption.trace.alpha.reshape(len(caption.words), *caption.grid.shape))


def _explained(captioner: Captioner, caption: Caption, wanted: Wanted) -> Explained:
    if not wanted.occlusion:
        return Explained(caption)
    if caption.grid.cells > MOST_COVERED and caption.medium == "volume":
        why = f"covering {caption.grid.cells} cells would mean reading the scan as often"
        return Explained(caption, unmeasured=f"What mattered was not measured: {why}.")
    return Explained(caption, occlude(captioner, caption))


def with_suffix(stem: Path, suffix: str) -> Path:
    """Return a stem with a suffix; Path.with_suffix would cut a name at its last dot."""
    return stem.with_name(stem.name + suffix)
