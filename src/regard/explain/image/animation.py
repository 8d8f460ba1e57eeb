"""Animations: the picture, then its map for one word after another.

A clip plays at each word; of a scan three planes are shown.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from regard.errors import ConfigError
from regard.explain import drawing
from regard.explain.clip.clip_maps import ClipMaps, shown_frames
from regard.explain.maps import absolute_scale, as_picture, drawing_of, paint, size_of, upsample
from regard.explain.scan.montage import scan_frames, scan_notices
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

_Timed = list[tuple[Image.Image, int]]
"""Frames, each with its milliseconds."""


def save_animation(caption: Caption, path: str | Path, *, smooth: bool = True) -> None:
    """Write an animated WebP or GIF, depending on the suffix; it loops forever.

    All maps share the caption's one absolute scale. A clip is played once for each word, at most
    twelve of its frames, the word's peak among them.

    Args:
        caption: with its source.
        path: ends in .webp or .gif; its folder is created.
        smooth: see `regard.explain.upsample`.

    Raises:
        ConfigError: the caption does not hold its source, its grid is not a picture's, or the
            suffix is another.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".webp", ".gif"):
        raise ConfigError(f"Cannot write an animation to {path}: it must end in .webp or .gif.")
    if caption.medium == "video":
        shown = _clip_frames(caption, smooth=smooth)
    elif isinstance(caption.media, Scan):
        shown = _scan_frames(caption, caption.media, smooth=smooth)
    else:
        shown = _picture_frames(as_picture(caption), smooth=smooth)
    frames, durations = zip(*shown, strict=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"save_all": True, "append_images": list(frames[1:]), "loop": 0}
    options |= drawing.provenance_mark(suffix) | ({"quality": 80} if suffix == ".webp" else {})
    with whole_file(path) as new:
        frames[0].save(new, duration=list(durations), **options)


def _picture_frames(caption: Caption, *, smooth: bool) -> _Timed:
    pixels = drawing_of(drawing.picture_of(caption), _SIDE)
    top = absolute_scale(caption.trace.alpha, caption.grid, smooth=smooth)
    frames = [(_captioned(pixels, caption.text), _PICTURE_MS)]
    for word in caption.words:
        relative = upsample(word.alpha, caption.grid, size_of(pixels), smooth=smooth)
        painted = _framed(paint(pixels, relative, top), caption, word)
        frames.append((_captioned(painted, word.text), _WORD_MS))
    return frames


def _scan_frames(caption: Caption, scan: Scan, *, smooth: bool) -> _Timed:
    """Return a scan's three planes at each word's peak."""
    notice = " ".join(scan_notices(caption))
    drawn = [
        _captioned(pixels, text, notice)
        for pixels, text in scan_frames(caption, scan, smooth=smooth)
    ]
    return list(zip(drawn, [_PICTURE_MS] + [_WORD_MS] * (len(drawn) - 1), strict=True))


def _clip_frames(caption: Caption, *, smooth: bool) -> _Timed:
    """Return a clip's frames under each word's map."""
    maps = ClipMaps(caption)
    top = maps.scale(smooth=smooth)
    pictures = [drawing_of(frame, _CLIP_SIDE) for frame in maps.clip.pixels]
    frames = [
        (_captioned(pictures[frame], caption.text), _FRAME_MS)
        for frame in shown_frames(len(pictures), _PLAYED, None)
    ]
    for t, (word, peak) in enumerate(zip(caption.words, maps.peaks, strict=True)):
        for frame in shown_frames(len(pictures), _PLAYED, peak):
            painted = maps.painted(t, frame, pictures[frame], top, smooth=smooth)
            weight = maps.weights[t, frame]
            text = f"{word.text} · {maps.clip.times[frame]:.1f} s · {weight:.1f}×"
            frames.append((_captioned(painted, text), _PEAK_MS if frame == peak else _FRAME_MS))
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
    ImageDraw.Draw(image).rectangle(box, outline=drawing.CHOSEN, width=3)
    return np.asarray(image)


def _captioned(pixels: np.ndarray, text: str, notice: str = "") -> Image.Image:
    """Return the picture with a text below it, as large as fits, and a notice below that."""
    height, width = pixels.shape[:2]
    frame = Image.new("RGB", (width, height + _STRIP * (2 if notice else 1)), "white")
    frame.paste(Image.fromarray(pixels), (0, 0))
    _write(frame, text, _WORD_SIZE, drawing.INK, height + _STRIP / 2)
    if notice:
        _write(frame, notice, _NOTICE_SIZE, drawing.WARNING, height + 1.4 * _STRIP)
    return frame


def _write(frame: Image.Image, text: str, size: int, colour: str, down: float) -> None:
    fonts = drawing.choose_fonts(text)
    # Pillow draws with one font: the last that was chosen has what the first lacks.
    path = font_manager.findfont(fonts.families[-1])
    drawn = fonts.drawable(text)
    font = ImageFont.truetype(path, size)
    while font.getlength(drawn) > frame.width - 12 and size > 8:
        size -= 1
        font = ImageFont.truetype(path, size)
    ImageDraw.Draw(frame).text((frame.width / 2, down), drawn, fill=colour, font=font, anchor="mm")
