"""Pictures as Pillow decodes them, of every mode, to RGB of 8 bits."""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from regard.errors import MediaError, MediaTooLarge, UnknownMedia
from regard.types.media import NO_PIXELS, Media

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


MAX_PIXELS = 178_956_970
"""Largest picture that is decoded; Pillow's own limit for files, past which it refuses."""
MAX_BYTES = 2**30
"""Most that is read of a file: what is larger is no picture, or an endless device."""

# Pillow knows more; EPS among them would start an interpreter on what a stranger sent.
_FORMATS = frozenset(
    ("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM")
    + ("SGI", "TGA", "TIFF", "WEBP")
)
_WANTED = "Wanted: JPEG, PNG, WebP, GIF, TIFF, BMP and the like; save HEIC as JPEG."

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Resampling overshoots 0..1 by this much at most; normalised pictures go far beyond.
_OVERSHOOT = 0.25


def read_image(
    source: Any,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
    shown: bool = True,
) -> Media:
    """Read one picture: upright, RGB, 8 bits.

    EXIF rotation is applied; transparency is laid over white; 16-bit shades are divided by
    257; of an animation the first frame is taken. What had to be guessed is in the notes.

    Args:
        source: a path, bytes, a PIL image, a numpy array ((H, W), (H, W, 1|3|4); uint8,
            uint16 or float in 0..1), or a torch tensor ((H, W), (1|3|4, H, W), likewise).
        name: what messages and results call it; the path where there is one.
        max_pixels: larger pictures are refused by their header, before decoding. A value above
            the default lifts the limit for what is decoded already, not Pillow's own for files.
        shown: whether somebody looks at its pixels; else a file's may stay with Pillow, in
            `Media.picture`.

    Returns:
        The picture; its digest is that of the file's bytes, or of shape and pixels where
        there was no file.

    Raises:
        MediaError: missing or damaged; `MediaTooLarge`; `UnknownMedia` for no picture.
    """
    if isinstance(source, str | Path):
        return _from_bytes(_bytes_of(Path(source)), name or str(source), max_pixels, shown)
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_bytes(bytes(source), name or "<bytes>", max_pixels, shown)
    if isinstance(source, Image.Image):
        name = name or str(getattr(source, "filename", "")) or "<picture>"
        found, notes = _decode(source, name, max_pixels, shown=True)
        pixels = np.asarray(found)
    else:
        name = name or "<array>"
        pixels, notes = _from_array(source, name, max_pixels), ()
    sha = hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes())
    return Media("image", pixels, name, sha.hexdigest(), notes)


def _bytes_of(path: Path) -> bytes:
    """Read a file or a pipe, but no endless one."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except IsADirectoryError as error:
        raise MediaError(
            f"{path} is a folder; a picture was wanted, or a folder with pictures in it."
        ) from error
    except OSError as error:
        raise MediaError(f"{path} cannot be opened: {error.strerror}.") from error
    except (ValueError, MemoryError) as error:  # a null byte in the name; more than fits
        raise MediaError(f"{str(path)!r} cannot be read: {error or 'out of memory'}.") from error
    if len(content) > MAX_BYTES:
        raise MediaError(f"{path} has more than {MAX_BYTES} bytes: no picture is that large.")
    return content


def _from_bytes(content: bytes, name: str, max_pixels: int, shown: bool) -> Media:
    if not content:
        raise MediaError(f"{name} is empty (0 bytes). Bring the picture again.")
    found, notes = _decode(io.BytesIO(content), name, max_pixels, shown)
    digest = hashlib.sha256(content).hexdigest()
    if isinstance(found, Image.Image):
        return Media("image", NO_PIXELS, name, digest, notes, picture=found)
    return Media("image", found, name, digest, notes)


def _decode(
    source: io.BytesIO | Image.Image, name: str, max_pixels: int, shown: bool
) -> tuple[np.ndarray | Image.Image, tuple[str, ...]]:
    """Return pixels and notes; whatever Pillow raises becomes a MediaError here."""
    try:
        with quiet:
            if isinstance(source, Image.Image):
                return _upright(source, name, max_pixels, shown)
            with Image.open(source) as picture:
                if picture.format not in _FORMATS:
                    raise UnknownMedia(f"{name} is a {picture.format} file. {_WANTED}")
                return _upright(picture, name, max_pixels, shown)
    except MediaError:
        raise
    except UnidentifiedImageError as error:
        raise UnknownMedia(f"{name} is no picture that can be read. {_WANTED}") from error
    except Image.DecompressionBombError as error:
        raise MediaTooLarge(
            f"{name} unpacks to too many pixels: {error} Scale it down before you bring it."
        ) from error
    # Damaged bytes lead decoders into every kind of error (struct.error, zlib.error,
    # KeyError, ...), and a new Pillow into new ones; none of them is ours to let through.
    except Exception as error:
        raise MediaError(
            f"{name} cannot be decoded: {str(error).rstrip('.') or type(error).__name__}. It is "
            "damaged or of a rare kind; bring it again, or save it anew as JPEG or PNG."
        ) from error


def _upright(
    picture: Image.Image, name: str, max_pixels: int, shown: bool
) -> tuple[np.ndarray | Image.Image, tuple[str, ...]]:
    width, height = picture.size
    _refuse_size(height, width, name, max_pixels)
    frames = getattr(picture, "n_frames", 1)
    place = picture.tell() + 1  # a file opens at its first; a user's PIL image may be elsewhere
    which = "first" if place == 1 else f"number {place}"
    notes = (f"{which} of {frames} frames",) if frames > 1 else ()
    picture.load()
    try:
        turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # the pixels are whole; only what the camera wrote about them is not
        turn, notes = None, (*notes, "EXIF data damaged, taken as upright")
    shades = shades_of(picture)
    upright = picture if turn is None else picture.transpose(turn)
    if not shown and upright.mode == "RGB" and not upright.has_transparency_data:
        return upright, notes
    pixels, remark = to_rgb(upright, shades)
    return pixels, notes + remark


def _refuse_size(height: int, width: int, name: str, max_pixels: int) -> None:
    if height * width > max_pixels or not height * width:
        raise MediaTooLarge(
            f"{name} has {width}×{height} pixels; wanted at least 1 and at most {max_pixels}. "
            "Scale it down, or set max_pixels."
        )


def _from_array(source: Any, name: str, max_pixels: int) -> np.ndarray:
    values = _as_numpy(source, name)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4):
        hint = " Give several pictures as a list." if values.ndim == 4 else ""
        raise MediaError(
            f"{name} has shape {tuple(np.shape(source))}; wanted (H, W), (H, W, 1|3|4), or a "
            f"torch tensor (1|3|4, H, W).{hint}"
        )
    height, width, channels = values.shape
    _refuse_size(height, width, name, max_pixels)
    values = _to_uint8(values, name)
    if channels == 4:
        return to_rgb(Image.fromarray(values))[0]
    return np.array(np.broadcast_to(values, (height, width, 3)), order="C")


def _as_numpy(source: Any, name: str) -> np.ndarray:
    """Return an array with channels last."""
    try:
        if not hasattr(source, "detach"):
            values = np.asarray(source)
            if values.ndim == 0:
                raise TypeError("it is one value")
            return values
        tensor = source.detach().cpu()
        values = np.asarray(tensor.float() if tensor.is_floating_point() else tensor)
        return np.moveaxis(values, 0, -1) if values.ndim == 3 else values
    except (TypeError, ValueError) as error:
        raise MediaError(
            f"{name} ({type(source).__name__}) is no array of numbers: {error}. Wanted a path, "
            "bytes, a PIL image, an array or a tensor."
        ) from error


def _to_uint8(values: np.ndarray, name: str) -> np.ndarray:
    """Return 8-bit shades; the type says the scale, never the content."""
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype == np.uint16:
        return from_16_bits(values)
    if values.dtype.kind not in "uif":
        raise MediaError(f"{name} holds {values.dtype}; wanted uint8, uint16 or floats in 0..1.")
    low, high = values.min(), values.max()
    top, slack = (1, _OVERSHOOT) if values.dtype.kind == "f" else (255, 0)
    if not (low >= -slack and high <= top + slack):  # NaN fails this, too
        raise MediaError(
            f"{name} holds {values.dtype} from {low:g} to {high:g}; wanted 0 to {top}. Undo a "
            "normalisation, or convert to uint8 first."
        )
    shades = values.astype(np.float32).clip(0, top) * np.float32(255 / top)
    return shades.round().astype(np.uint8)


_MODULES = r"PIL|pydicom|nibabel|regard\.media"
_LOGGER = "pydicom"
_NOTHING = logging.CRITICAL + 1


class _Quiet:
    """Silences Pillow, nibabel and pydicom while any thread reads.

    Pillow's warning about size is replaced by `max_pixels`, and odd metadata harms nobody.
    pydicom puts the values that it finds odd into its warnings and its log, and a patient's name
    is such a value. `warnings.catch_warnings` is one for the whole process: two readers that enter
    and leave it crosswise would leave the filter behind. So the first reader sets it, the last
    restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._saved = warnings.catch_warnings()
        self._level = logging.NOTSET

    def __enter__(self) -> None:
        with self._lock:
            if self._readers == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=_MODULES)
                logger = logging.getLogger(_LOGGER)  # and those below it, which take its level
                self._level = logger.level
                logger.setLevel(_NOTHING)
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._saved.__exit__(None, None, None)
                logging.getLogger(_LOGGER).setLevel(self._level)


quiet = _Quiet()
