"""Explanation: where the decoder looked, drawn on one absolute scale."""

from regard.explain.clip.strip import film_strip, words_by_seconds
from regard.explain.drawing import save_figure
from regard.explain.html import caption_html
from regard.explain.image.animation import save_animation
from regard.explain.image.sheet import compare_sheet, contact_sheet
from regard.explain.maps import upsample
from regard.explain.outputs import draw

__all__ = [
    "caption_html",
    "compare_sheet",
    "contact_sheet",
    "draw",
    "film_strip",
    "save_animation",
    "save_figure",
    "upsample",
    "words_by_seconds",
]
