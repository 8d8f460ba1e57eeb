"""Reader of pictures: every mode that Pillow decodes, converted to upright 8-bit RGB."""

import contextlib
import hashlib
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from regard.errors import MediaError, MediaTooLarge, UnknownMedia
from regard.media.source_file import (
    quiet_libraries,
    read_start,
    refuse_costly_picture,
    refuse_costly_tags,
    refuse_empty,
    refuse_size,
    silence_libtiff,
)
from regard.types.media import NO_PIXELS, Media

MAX_PIXELS = 178_956_970
"""Largest picture that is decoded; also Pillow's own limit for files."""
MAX_BYTES = 2**30
"""Largest file that is read; larger ones are not pictures, or are endless devices."""

# No other format is even opened; for EPS Pillow would run an interpreter on untrusted bytes. MPO,
# several JPEGs in one file, is opened as JPEG.
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM") + (
    "SGI",
    "TGA",
    "TIFF",
    "WEBP",
)
_SUPPORTED = "Use JPEG, PNG, WebP, GIF, TIFF, BMP or a similar format; save HEIC as JPEG."

_ORIENTATION = 0x0112
_INTEROP = 0xA005  # a folder of EXIF data, in which "R03" means Adobe RGB
_COLOUR = {"icc_profile", "gamma", "chromaticity"}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_OVERSHOOT = 0.25  # resampling leaves 0..1 by at most this; normalised pictures leave it by more

_PNG = b"\x89PNG\r\n\x1a\n"
_KEPT_CHUNKS = {b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"}
_KEPT_SIZES = {(b"gAMA", 4), (b"cHRM", 32), (b"sRGB", 1)}
_MAX_PROFILE = 2**23  # bytes of a colour profile; those of printers have some millions
_NO_METADATA = "metadata of the PNG left out: damaged, or too large"
_AT_ONCE = 2**22  # pixels that are converted together
_PHOTOMETRIC = 262  # TIFF tag; 0 means that 0 is white
_BITS, _MOST = 258, 281  # TIFF tags: bits of a sample, its largest value
_DEPTHS = {2**bits - 1 for bits in range(9, 16)}  # largest values of shades stored in 16 bits


def read_image(
    source: Any, *, name: str | None = None, max_pixels: int = MAX_PIXELS, shown: bool = True
) -> Media:
    """Read one picture: upright, RGB, 8 bits.

    EXIF rotation is applied; transparency is laid over white; 16-bit shades are divided by 257;
    the first frame of an animation is taken. The notes list guesses.

    Args:
        source: a path, bytes, a PIL image, a numpy array ((H, W), (H, W, 1|3|4); uint8,
            uint16 or float in 0..1), or a torch tensor ((H, W), (1|3|4, H, W), likewise).
        name: used in messages and results; the path by default.
        max_pixels: larger pictures are rejected based on their header, before decoding. A value
            above the default lifts the limit for decoded sources, but not Pillow's own for files.
        shown: whether the pixels will be drawn; if not, the pixels of a file may stay with
            Pillow, in `Media.picture`.

    Returns:
        The picture; its digest is that of the file's bytes, or of shape and pixels where
        there was no file.

    Raises:
        MediaError: missing or damaged; `MediaTooLarge`; `UnknownMedia` if it is not a picture.
    """
    if isinstance(source, str | Path):
        return _from_bytes(_read_file(Path(source)), name or str(source), max_pixels, shown)
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_bytes(bytes(source), name or "<bytes>", max_pixels, shown)
    if isinstance(source, Image.Image):
        name = name or str(getattr(source, "filename", "")) or "<picture>"
        found = _decode(source, name, max_pixels, shown=True)
    else:
        name = name or "<array>"
        found = _from_array(source, name, max_pixels)
    pixels = np.asarray(found.pixels)
    sha = hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes())
    return _media(found._replace(pixels=pixels), name, sha.hexdigest())


def _read_file(path: Path) -> bytes:
    """Return the bytes of a file or a pipe, up to the size limit."""
    if os.path.isdir(path):
        raise MediaError(f"{path} is a folder; expected a picture, or a folder with pictures.")
    content = read_start(path, str(path), MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise MediaError(f"{path} has more than {MAX_BYTES} bytes, too many for a picture.")
    return content


def _from_bytes(content: bytes, name: str, max_pixels: int, shown: bool) -> Media:
    refuse_empty(len(content), name)
    refuse_costly_picture(content, name, max_pixels)
    if content.startswith((b"II", b"MM")):
        silence_libtiff()
    try:
        found = _decode(io.BytesIO(content), name, max_pixels, shown)
    except MediaTooLarge:
        raise
    except MediaError:  # perhaps metadata alone is damaged, or larger than Pillow reads
        bare, profile = _without_metadata(content)
        if len(bare) == len(content):
            raise
        found = _decode(io.BytesIO(bare), name, max_pixels, shown, profile)
        found = found._replace(warnings=(*found.warnings, _NO_METADATA))
    return _media(found, name, hashlib.sha256(content).hexdigest())


def _without_metadata(content: bytes) -> tuple[bytes, bytes]:
    """Return a PNG without the chunks that do not matter to its pixels, and its colour profile."""
    kept, at, profile = [content[: len(_PNG)]], len(_PNG), b""
    while content.startswith(_PNG) and at + 12 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        chunk = content[at : at + 12 + size]
        if kind[:1].isupper() or kind in _KEPT_CHUNKS or (kind, size) in _KEPT_SIZES:
            kept.append(chunk)
        elif kind == b"iCCP":
            with contextlib.suppress(zlib.error):
                packed = chunk[8:-4].partition(b"\0")[2][1:]
                profile = zlib.decompressobj().decompress(packed, _MAX_PROFILE)
        at += 12 + size
    return (b"".join(kept), profile) if len(kept) > 1 else (content, b"")


def _exif_of(picture: Image.Image) -> bytes:
    """Return the EXIF data that Pillow would read."""
    if "exif" in picture.info:
        return picture.info["exif"]
    raw = str(picture.info.get("Raw profile type exif", ""))
    return bytes.fromhex("".join(raw.split("\n")[3:]))


class Shades(NamedTuple):
    """The scale of shades of more than 8 bits; Pillow loses it when it copies a picture.

    Attributes:
        white: the value that is white; 0 if unknown.
        negative: whether 0 is white and the largest value black.
    """

    white: float
    negative: bool


_UNKNOWN_SHADES = Shades(0.0, negative=False)


class _Decoded(NamedTuple):
    """A decoded picture, its note on frames, and its other notes."""

    pixels: np.ndarray | Image.Image
    frames: tuple[str, ...]
    warnings: tuple[str, ...]


def _media(found: _Decoded, name: str, digest: str) -> Media:
    kept = found.pixels if isinstance(found.pixels, Image.Image) else None
    pixels = found.pixels if isinstance(found.pixels, np.ndarray) else NO_PIXELS
    notes, warnings = found.frames + found.warnings, found.warnings
    return Media("image", pixels, name, digest, notes, warnings=warnings, picture=kept)


def _decode(
    source: io.BytesIO | Image.Image, name: str, max_pixels: int, shown: bool, profile: bytes = b""
) -> _Decoded:
    """Return pixels and notes; every error of Pillow becomes a MediaError.

    Args:
        source: a file's bytes, or a picture.
        name: for messages.
        max_pixels: see `read_image`; `shown` likewise.
        shown: see there.
        profile: the colour profile, if the bytes lack it.
    """
    try:
        with quiet_libraries:
            if isinstance(source, Image.Image):
                return _upright(source, name, max_pixels, shown)
            with Image.open(source, formats=_FORMATS) as picture:
                if profile:
                    picture.info["icc_profile"] = profile
                return _upright(picture, name, max_pixels, shown)
    except MediaError:
        raise
    except UnidentifiedImageError as error:
        raise UnknownMedia(f"{name} is not a picture that can be read. {_SUPPORTED}") from error
    except Image.DecompressionBombError as error:
        raise MediaTooLarge(f"{name} has too many pixels: {error} Scale it down first.") from error
    # Damaged bytes lead decoders into every kind of error (struct.error, zlib.error, KeyError,
    # ...), and a new Pillow may add others.
    except Exception as error:
        raise MediaError(
            f"{name} cannot be decoded: {str(error).rstrip('.') or type(error).__name__}. It is "
            "damaged or of a rare kind; copy the file again, or save it again as JPEG or PNG."
        ) from error


def _upright(picture: Image.Image, name: str, max_pixels: int, shown: bool) -> _Decoded:
    width, height = picture.size
    refuse_size(height, width, name, max_pixels, least=1)
    count = getattr(picture, "n_frames", 1)
    place = picture.tell() + 1  # 1 for a file; a user's PIL image may be at another frame
    which = "first" if place == 1 else f"number {place}"
    frames = (f"{which} of {count} frames",) if count > 1 else ()
    is_deep = picture.mode.startswith("RGB") and ";16" in str(getattr(picture, "tile", ""))
    picture.load()
    turn, notes = None, ()
    try:
        refuse_costly_tags(_exif_of(picture), name)
        turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # the pixels are whole; only the camera's metadata is damaged
        notes = ("EXIF data damaged, taken as upright",)
    if is_deep:  # Pillow keeps the upper 8 of 16 bits
        notes += _depth_note(
            max(int(most) << 8 | 255 for _, most in cast("Any", picture.getextrema())[:3])
        )
    shades = shades_of(picture)
    picture, remark = _in_srgb(picture, shades)
    notes += remark
    upright = picture if turn is None else picture.transpose(turn)
    if not shown and upright.mode == "RGB" and not upright.has_transparency_data:
        return _Decoded(upright, frames, notes)
    pixels, remark = to_rgb(upright, shades)
    return _Decoded(pixels, frames, notes + remark)


def _in_srgb(picture: Image.Image, shades: Shades) -> tuple[Image.Image, tuple[str, ...]]:
    """Return a picture without a colour space of its own unchanged, else in sRGB; and notes."""
    is_adobe = False
    if "icc_profile" not in picture.info:
        with contextlib.suppress(Exception):  # damaged EXIF data
            is_adobe = picture.getexif().get_ifd(_INTEROP).get(1) == "R03"
    if not is_adobe and not _COLOUR & picture.info.keys():
        return picture, ()
    from regard.media import colour

    remarks: tuple[str, ...] = ()

    def eight_bits() -> Image.Image:
        nonlocal remarks
        pixels, remarks = to_rgb(picture, shades)
        return Image.fromarray(pixels)

    made, notes = colour.to_srgb(picture, eight_bits, colour.ADOBE_RGB if is_adobe else None)
    return made, notes + remarks


def shades_of(picture: Image.Image) -> Shades:
    """Return the scale of shades of a picture that was just opened."""
    # Pillow scales a PGM of more than 8 bits to 16.
    white = 65535.0 if picture.format == "PPM" else 0.0
    if not picture.mode.startswith("I;16"):
        return Shades(white, negative=False)
    tags = getattr(picture, "tag_v2", {})
    bits, most = (int(np.max(tags.get(tag) or 0)) for tag in (_BITS, _MOST))
    said = [w for w in (2**bits - 1, most) if w in _DEPTHS]
    return Shades(float(min(said, default=0)), tags.get(_PHOTOMETRIC) == 0)


def to_rgb(
    picture: Image.Image, shades: Shades = _UNKNOWN_SHADES
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return (height, width, 3) uint8, and notes on guesses.

    Converts a few rows at a time to limit memory.
    """
    width, height = picture.size
    rows = max(1, _AT_ONCE // width)
    bands = [(top, min(height, top + rows)) for top in range(0, height, rows)]
    notes: tuple[str, ...] = ()
    white = shades.white if picture.mode.startswith("I") else 0.0
    if picture.mode.startswith("I;16") and not white and not shades.negative:
        notes = _depth_note(max(int(np.max(_shades(picture, band))) for band in bands))
    if picture.mode in ("I", "F") and not white:  # other formats do not define which value is white
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


def _depth_note(most: int) -> tuple[str, ...]:
    """Return a note if the largest of 16-bit shades suggests that they have fewer bits."""
    bits = next((bits for bits in (8, 10, 12, 14) if 0 < most < 2**bits), 0)
    if not bits:
        return ()
    return (
        f"dark: 16-bit shades, none above {most}. If they have {bits} bits, multiply them by "
        f"{2 ** (16 - bits)}",
    )


def _shades(picture: Image.Image, band: tuple[int, int]) -> np.ndarray:
    """Return some rows of a picture of 32-bit shades; NaN and infinity become black."""
    values = np.asarray(picture.crop((0, band[0], picture.width, band[1])))
    if values.dtype.kind != "f":
        return values.astype(np.float64)
    return np.where(np.isfinite(values), values, np.float32(0))


def _band(picture: Image.Image) -> np.ndarray:
    """Return (height, width, 3) uint8 of a picture or of some of its rows."""
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray(from_16_bits(np.asarray(picture)))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white_sheet = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white_sheet, picture)
    if picture.mode != "RGB":  # convert would copy an RGB picture
        picture = picture.convert("RGB")
    return np.asarray(picture, np.uint8)


def from_16_bits(values: np.ndarray) -> np.ndarray:
    """Return values of 0 to 65535 as uint8 of the same shape."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 / 257 = 255


def _from_array(source: Any, name: str, max_pixels: int) -> _Decoded:
    values = _as_numpy(source, name)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4):
        hint = " Give several pictures as a list." if values.ndim == 4 else ""
        raise MediaError(
            f"{name} has shape {tuple(np.shape(source))}; expected (H, W), (H, W, 1|3|4), or a "
            f"torch tensor (1|3|4, H, W).{hint}"
        )
    height, width, channels = values.shape
    refuse_size(height, width, name, max_pixels, least=1)
    notes = _depth_note(int(values[..., :3].max())) if values.dtype == np.uint16 else ()
    values = _to_uint8(values, name)
    if channels == 4:
        return _Decoded(to_rgb(Image.fromarray(values))[0], (), notes)
    return _Decoded(np.array(np.broadcast_to(values, (height, width, 3)), order="C"), (), notes)


def _as_numpy(source: Any, name: str) -> np.ndarray:
    """Return an array with channels last."""
    try:
        if not hasattr(source, "detach"):
            values = np.asarray(source)
            if values.ndim == 0:
                raise TypeError("expected an array, not a scalar")
            return values
        tensor = source.detach().cpu()
        values = np.asarray(tensor.float() if tensor.is_floating_point() else tensor)
        return np.moveaxis(values, 0, -1) if values.ndim == 3 else values
    except (TypeError, ValueError) as error:
        raise MediaError(
            f"{name} ({type(source).__name__}) is not an array of numbers: {error}. Expected a "
            "path, bytes, a PIL image, an array or a tensor."
        ) from error


def _to_uint8(values: np.ndarray, name: str) -> np.ndarray:
    """Return 8-bit shades; the data type decides the scale, never the content."""
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype == np.uint16:
        return from_16_bits(values)
    if values.dtype.kind not in "uif":
        raise MediaError(f"{name} holds {values.dtype}; expected uint8, uint16 or floats in 0..1.")
    low, high = values.min(), values.max()
    top, slack = (1, _OVERSHOOT) if values.dtype.kind == "f" else (255, 0)
    if not (low >= -slack and high <= top + slack):  # this refuses NaN, too
        raise MediaError(
            f"{name} holds {values.dtype} from {low:g} to {high:g}; expected 0 to {top}. Undo a "
            "normalisation, or convert to uint8 first."
        )
    shades = values.astype(np.float32).clip(0, top) * np.float32(255 / top)
    return shades.round().astype(np.uint8)
