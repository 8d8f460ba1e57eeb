"""Pictures as Pillow decodes them, of every mode, to RGB of 8 bits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

_AT_ONCE = 2**22  # pixels that are converted together
_PHOTOMETRIC = 262  # of a TIFF: 0 where 0 is white


class Shades(NamedTuple):
    """What a file says of its shades of more than 8 bits; Pillow forgets it with the first copy.

    Attributes:
        white: the value that is white; 0 where nothing says it.
        negative: whether 0 is white and the largest value black.
    """

    white: float
    negative: bool


_UNSAID = Shades(0.0, negative=False)


def shades_of(picture: Image.Image) -> Shades:
    """Return what a picture that was just opened says of its shades."""
    tags = getattr(picture, "tag_v2", {})
    negative = picture.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0
    # Pillow has brought a PGM of more than 8 bits to 16.
    return Shades(65535.0 if picture.format == "PPM" else 0.0, negative)


def to_rgb(picture: Image.Image, shades: Shades = _UNSAID) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return (height, width, 3) uint8, and what had to be guessed.

    Some rows at a time: a picture of the largest size that is read must not be in memory several
    times over.
    """
    width, height = picture.size
    rows = max(1, _AT_ONCE // width)
    bands = [(top, min(height, top + rows)) for top in range(0, height, rows)]
    notes: tuple[str, ...] = ()
    white = shades.white if picture.mode == "I" else 0.0
    if picture.mode in ("I", "F") and not white:  # no other format says which value is white
        most = max(float(_shades(picture, band).max()) for band in bands)
        white = next((w for w in (1.0, 255.0, 65535.0) if most <= w), most)
        notes = (f"32-bit shades, {white:g} taken as white",)
    pixels = np.empty((height, width, 3), np.uint8)
    for top, stop in bands:
        if white:
            values = _shades(picture, (top, stop)).clip(0)
            pixels[top:stop] = (values * (255 / white)).round().astype(np.uint8)[..., None]
        else:
            whole = len(bands) == 1
            pixels[top:stop] = _band(picture if whole else picture.crop((0, top, width, stop)))
    if shades.negative:
        np.subtract(255, pixels, out=pixels)
    return pixels, notes


def _shades(picture: Image.Image, band: tuple[int, int]) -> np.ndarray:
    """Return some rows of a picture of 32-bit shades; what is no number is black."""
    values = np.asarray(picture.crop((0, band[0], picture.width, band[1])))
    if values.dtype.kind != "f":
        return values.astype(np.float64)
    return np.where(np.isfinite(values), values, np.float32(0))


def _band(picture: Image.Image) -> np.ndarray:
    """Return (height, width, 3) uint8 of a picture or some rows of one."""
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray(from_16_bits(np.asarray(picture)))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white_sheet = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white_sheet, picture)
    if picture.mode != "RGB":  # convert copies what is RGB already
        picture = picture.convert("RGB")
    return np.asarray(picture, np.uint8)


def from_16_bits(values: np.ndarray) -> np.ndarray:
    """Return values of 0 to 65535 as uint8 of the same shape."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 / 257 = 255
