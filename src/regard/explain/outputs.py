"""The files that explain one caption, and the drawing of each medium."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from regard.explain.clip.strip import film_strip
from regard.explain.drawing import save_figure
from regard.explain.image.animation import save_animation
from regard.explain.image.sheet import compare_sheet, contact_sheet
from regard.explain.maps import as_picture
from regard.explain.page import Explanation, explanation_page
from regard.explain.scan.montage import montage
from regard.explain.scan.nifti_maps import save_attention
from regard.faithfulness.occlusion import occlude
from regard.types import Caption
from regard.util.atomic import whole_file, write_whole

if TYPE_CHECKING:
    from regard.captioner import Captioner

MOST_COVERED = 1000
"""Cells of a scan that are covered one after another; a scan with more is not measured."""


@dataclass(frozen=True)
class OutputOptions:
    """Options for the outputs besides drawing, page and numbers.

    Attributes:
        occlusion: cover each cell, or each frame of a clip, and measure the words.
        animation: "webp", "gif" or "none".
        smooth: smooth the maps.
        grids: also write the raw weights as .npy.
    """

    occlusion: bool = True
    animation: str = "webp"
    smooth: bool = True
    grids: bool = False

    def suffixes(self, medium: str) -> tuple[str, ...]:
        """Return the endings of a caption's files, those of its medium included."""
        animated = () if self.animation == "none" else (f".{self.animation}",)
        image = (".attention.nii.gz",) if medium == "volume" else ()
        return (".png", *animated, ".html", ".json", *image, *((".npy",) if self.grids else ()))


def draw(caption: Caption, **options: Any) -> Figure:
    """Draw where the decoder looked for each word: the drawing of the caption's medium.

    Args:
        caption: with its source.
        **options: options of the drawing: `contact_sheet` of a picture, `film_strip` of a clip,
            `montage` of a scan.

    Raises:
        ConfigError: the caption does not hold its source.
    """
    if caption.medium == "volume":
        return montage(caption, **options)
    if caption.medium == "video":
        return film_strip(caption, **options)
    return contact_sheet(as_picture(caption), **options)


def write_explanation(
    captioner: Captioner,
    caption: Caption,
    stem: Path,
    options: OutputOptions,
    *,
    rival: tuple[Captioner, Caption] | None = None,
) -> None:
    """Write the files of one caption, whose names begin with `stem`.

    Args:
        captioner: the model of the caption.
        caption: with its source.
        stem: path of the files, without a suffix.
        options: which files are written.
        rival: a second model and its caption of the same source, shown beside the first.

    Raises:
        OSError: a file cannot be written.
    """
    pairs = [(captioner, caption), *([rival] if rival else [])]
    explained = [_explained(model, one, options) for model, one in pairs]
    smooth = options.smooth
    if rival is None:
        figure = draw(caption, smooth=smooth)
    else:
        # Smoothing would carry attention from a slice or frame into the one beside it.
        pictures = [as_picture(one) for _, one in pairs]
        figure = compare_sheet(pictures, smooth=smooth and caption.medium == "image")
    save_figure(figure, with_suffix(stem, ".png"))
    if options.animation != "none":
        save_animation(caption, with_suffix(stem, f".{options.animation}"), smooth=smooth)
    records = [one.to_json() for one in explained]
    record = records[0] if rival is None else records[0] | {"compared": records[1]}
    texts = {".html": explanation_page(explained, smooth=smooth),
             ".json": json.dumps(record, ensure_ascii=False) + "\n"}  # fmt: skip
    for suffix, text in texts.items():
        # A file name that is not UTF-8 cannot be written as it is.
        write_whole(with_suffix(stem, suffix), text, errors="backslashreplace")
    if caption.medium == "volume" and caption.words:
        save_attention(caption, with_suffix(stem, ".attention.nii.gz"), smooth=smooth)
    if options.grids:
        with whole_file(with_suffix(stem, ".npy")) as new:
            np.save(new, caption.trace.alpha.reshape(len(caption.words), *caption.grid.shape))


def _explained(captioner: Captioner, caption: Caption, options: OutputOptions) -> Explanation:
    if not options.occlusion:
        return Explanation(caption)
    if caption.grid.cells > MOST_COVERED and caption.medium == "volume":
        why = f"covering {caption.grid.cells} cells would mean reading the scan as often"
        return Explanation(caption, unmeasured=f"What mattered was not measured: {why}.")
    return Explanation(caption, occlude(captioner, caption))


def with_suffix(stem: Path, suffix: str) -> Path:
    """Return a stem with a suffix; Path.with_suffix would cut a name at its last dot."""
    return stem.with_name(stem.name + suffix)
