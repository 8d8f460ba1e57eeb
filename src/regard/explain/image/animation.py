"""An animation: the picture, then its map for one word after another.

A clip plays at each word; of a scan three planes are shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from regard.errors import ConfigError
from regard.explain.clip.clip_maps import (
    clip_of,
    frame_grid,
    frame_map,
    frame_scale,
    frame_weights,
    map_scale,
    peak_frame,
    shown_frames,
)
from regard.explain.fonts import choose_fonts
from regard.explain.image.sheet import drawing_of, size_of
from regard.explain.maps import absolute_scale, paint, upsample
from regard.explain.provenance import marked
from regard.explain.scan.montage import notices
from regard.explain.scan.slice_animation import swept
from regard.explain.tiles import as_picture
from regard.media import cell_bounds
from regard.types import Caption, Scan, Word
from regard.util.atomic import whole_file

_SIDE = 448  # pixels of the longer side
_STRIP = 44  # pixels below the picture, for the word
_WORD_SIZE, _NOTICE_SIZE = 22, 15
_WORD_MS, _PICTURE_MS = 900, 1500
_PLAYED = 12  # frames of a clip at each word
_FRAME_MS, _PEAK_MS = 120, 500  # of a clip
_CLIP_SIDE = 320  # pixels of the longer side of a clip's frames, which are many
_INK, _PAPER, _CHOSEN = "#1d2433", "#ffffff", "#ff4d4d"
_WARNING = "#b42318"


def save_animation(caption: Caption, path: str | Path, *, smooth: bool = True) -> None:
    """Write an animated WebP or GIF, as the suffix says; it repeats for ever.

    All maps share the caption's one absolute scale. Of a clip its frames are played once for
    each word, at most twelve, the word's peak among them.

    Args:
        caption: with its source.
        path: ends in .webp or .gif; its folder is made.
        smooth: see `regard.explain.upsample`.

    Raises:
        ConfigError: the caption holds no source, its grid is no picture's, or the suffix is
            another.
    """
    path = Path(path)
    if path.suffix.lower() not in (".webp", ".gif"):
        raise ConfigError(f"{path} shall be an animation; its name must end in .webp or .gif.")
    if caption.medium == "video":
        shown = _playing(caption, smooth=smooth)
    elif isinstance(caption.media, Scan):
        shown = _planes(caption, caption.media, smooth=smooth)
    else:
        shown = _frames(as_picture(caption), smooth=smooth)
    frames, durations = zip(*shown, strict=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"save_all": True, "append_images": list(frames[1:]), "loop": 0}
    options |= marked(path.suffix.lower())
    if path.suffix.lower() == ".webp":
        options["quality"] = 80
    with whole_file(path) as new:
        frames[0].save(new, duration=list(durations), **options)


def _frames(caption: Caption, *, smooth: bool) -> list[tuple[Image.Image, int]]:
    """Return a picture's frames, each with its milliseconds."""
    if caption.pixels is None:
        raise ConfigError("this caption holds no picture to draw on; caption the file again.")
    pixels = drawing_of(caption.pixels, _SIDE)
    top = absolute_scale(caption.trace.alpha, caption.grid, smooth=smooth)
    frames = [(_captioned(pixels, caption.text), _PICTURE_MS)]
    for word in caption.words:
        relative = upsample(word.alpha, caption.grid, size_of(pixels), smooth=smooth)
        painted = _framed(paint(pixels, relative, top), caption, word)
        frames.append((_captioned(painted, word.text), _WORD_MS))
    return frames


def _planes(caption: Caption, scan: Scan, *, smooth: bool) -> list[tuple[Image.Image, int]]:
    """Return a scan's three planes at each word's peak, each with its milliseconds."""
    notice = " ".join(notices(caption))
    drawn = [
        _captioned(pixels, text, notice) for pixels, text in swept(caption, scan, smooth=smooth)
    ]
    return list(zip(drawn, [_PICTURE_MS] + [_WORD_MS] * (len(drawn) - 1), strict=True))


def _playing(caption: Caption, *, smooth: bool) -> list[tuple[Image.Image, int]]:
    """Return a clip's frames under each word's map, each with its milliseconds."""
    clip, grid, still = clip_of(caption), caption.grid, frame_grid(caption.grid)
    weights = frame_weights(caption)
    top = frame_scale(weights) if still is None else map_scale(caption, smooth=smooth)
    pictures = [drawing_of(frame, _CLIP_SIDE) for frame in clip.pixels]
    frames = [
        (_captioned(pictures[frame], caption.text), _FRAME_MS)
        for frame in shown_frames(len(pictures), _PLAYED, None)
    ]
    for word, row in zip(caption.words, weights, strict=True):
        peak = peak_frame(row)
        for frame in shown_frames(len(pictures), _PLAYED, peak):
            if still is None:
                relative = np.full(size_of(pictures[frame]), row[frame])
            else:
                alpha = frame_map(word, grid, frame)
                relative = upsample(alpha, still, size_of(pictures[frame]), smooth=smooth)
            painted = paint(pictures[frame], relative, top)
            told = f"{word.text} · {clip.times[frame]:.1f} s · {row[frame]:.1f}×"
            longer = _PEAK_MS if frame == peak else _FRAME_MS
            frames.append((_captioned(painted, told), longer))
    return frames


def _framed(pixels: np.ndarray, caption: Caption, word: Word) -> np.ndarray:
    """Frame the one cell that hard attention looked at."""
    if word.location is None:
        return pixels
    image = Image.fromarray(pixels)
    (top, bottom), (left, right) = cell_bounds(caption.grid, word.location)
    height, width = caption.grid.source_size
    x, y = image.width / width, image.height / height
    box = (left * x, top * y, right * x - 1, bottom * y - 1)
    ImageDraw.Draw(image).rectangle(box, outline=_CHOSEN, width=3)
    return np.asarray(image)


def _captioned(pixels: np.ndarray, text: str, notice: str = "") -> Image.Image:
    """Return the picture with a text below it, as large as fits, and a notice below that."""
    height, width = pixels.shape[:2]
    frame = Image.new("RGB", (width, height + _STRIP * (2 if notice else 1)), _PAPER)
    frame.paste(Image.fromarray(pixels), (0, 0))
    _write(frame, text, _WORD_SIZE, _INK, height + _STRIP / 2)
    if notice:
        _write(frame, notice, _NOTICE_SIZE, _WARNING, height + 1.4 * _STRIP)
    return frame


def _write(frame: Image.Image, text: str, size: int, colour: str, down: float) -> None:
    fonts = choose_fonts(text)
    # Pillow draws with one font: the last that was chosen has what the first lacks.
    path = font_manager.findfont(fonts.families[-1])
    drawn = fonts.drawable(text)
    font = ImageFont.truetype(path, size)
    while font.getlength(drawn) > frame.width - 12 and size > 8:
        size -= 1
        font = ImageFont.truetype(path, size)
    ImageDraw.Draw(frame).text((frame.width / 2, down), drawn, fill=colour, font=font, anchor="mm")
