"""One drawing per medium: what `Caption.figure` and `regard explain` show of a caption."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from regard.explain.clip.strip import film_strip
from regard.explain.image.sheet import contact_sheet
from regard.explain.scan.montage import montage
from regard.explain.tiles import as_picture
from regard.types import Caption


def draw(caption: Caption, **options: Any) -> Figure:
    """Draw where the decoder looked for each word.

    Args:
        caption: with its source.
        **options: of the drawing: `contact_sheet` of a picture, `film_strip` of a clip,
            `montage` of a scan.

    Raises:
        ConfigError: the caption does not hold its source.
    """
    if caption.medium == "volume":
        return montage(caption, **options)
    if caption.medium == "video":
        return film_strip(caption, **options)
    return contact_sheet(as_picture(caption), **options)
