"""An animation: the picture, then its map for one word after another; of a scan three planes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from regard.errors import ConfigError
from regard.explain.fonts import choose_fonts
from regard.explain.maps import absolute_scale, paint, upsample
from regard.explain.montage import notices
from regard.explain.sweep import swept
from regard.media import cell_bounds
from regard.types import Caption, Scan, Word

_SIDE = 448  # pixels of the longer side
_STRIP = 44  # pixels below the picture, for the word
_WORD_SIZE, _NOTICE_SIZE = 22, 15
_WORD_MS, _PICTURE_MS = 900, 1500
_INK, _PAPER, _CHOSEN = "#1d2433", "#ffffff", "#ff4d4d"
_WARNING = "#b42318"


def save_animation(caption: Caption, path: str | Path, *, smooth: bool = True) -> None:
    """Write an animated WebP or GIF, as the suffix says; it repeats for ever.

    All maps share the caption's one absolute scale.

    Args:
        caption: with its picture or scan.
        path: ends in .webp or .gif; its folder is made.
        smooth: see `regard.explain.upsample`.

    Raises:
        ConfigError: the caption holds no source, its grid is no picture's, or the suffix is
            another.
    """
    path = Path(path)
    if path.suffix.lower() not in (".webp", ".gif"):
        raise ConfigError(f"{path} shall be an animation; its name must end in .webp or .gif.")
    frames = _frames(caption, smooth=smooth)
    path.parent.mkdir(parents=True, exist_ok=True)
    durations = [_PICTURE_MS] + [_WORD_MS] * (len(frames) - 1)
    options: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "loop": 0}
    if path.suffix.lower() == ".webp":
        options["quality"] = 80
    frames[0].save(path, duration=durations, **options)


def _frames(caption: Caption, *, smooth: bool) -> list[Image.Image]:
    if caption.pixels is None:
        raise ConfigError("this caption holds no picture to draw on; caption the file again.")
    if isinstance(caption.media, Scan):
        drawn = swept(caption, caption.media, smooth=smooth)
        notice = " ".join(notices(caption))
        return [_captioned(pixels, text, notice) for pixels, text in drawn]
    picture = Image.fromarray(caption.pixels)
    factor = _SIDE / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
    top = absolute_scale(caption.trace.alpha, caption.grid, smooth=smooth)
    frames = [_captioned(pixels, caption.text)]
    for word in caption.words:
        relative = upsample(word.alpha, caption.grid, (size[1], size[0]), smooth=smooth)
        painted = _framed(paint(pixels, relative, top), caption, word)
        frames.append(_captioned(painted, word.text))
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
