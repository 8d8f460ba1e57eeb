"""Pictures of every common kind to upright RGB."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from regard.errors import MediaError
from regard.types import Media

MAX_PIXELS = 178_956_970
"""Largest picture that is decoded unasked; a file that unpacks to more is refused unread."""

_BAD_BYTES = (OSError, SyntaxError, ValueError, EOFError, MemoryError, OverflowError, TypeError,
              IndexError, KeyError, ZeroDivisionError, AttributeError, RuntimeError)  # fmt: skip
"""What Pillow's decoders are known to raise on damaged files."""


def read_image(source: Any, *, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Media:
    """Read one picture: upright, RGB, 8 bits.

    EXIF rotation is applied; transparency is laid over white; 16-bit and float pictures are
    scaled by their type's range; of an animation the first frame is taken, with a note.

    Args:
        source: a path, bytes, a PIL image, a numpy array ((H, W), (H, W, 1|3|4); uint8,
            uint16 or float in 0..1), or a torch tensor ((1|3|4, H, W), likewise).
        name: what messages and results call it; the path where there is one.
        max_pixels: larger pictures are refused by their header, before decoding.

    Raises:
        MediaError: missing, damaged, too large, or no picture.
    """
    if isinstance(source, str | Path):
        name = name or str(source)
        return _from_bytes(_bytes_of(Path(source)), name, max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_bytes(bytes(source), name or "<bytes>", max_pixels)
    if isinstance(source, Image.Image):
        pixels, notes = _upright(source, name or "<picture>", max_pixels)
    else:
        pixels, notes = _from_array(source, name or "<array>", max_pixels), ()
    name = name or ("<picture>" if isinstance(source, Image.Image) else "<array>")
    sha = hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes())
    return Media("image", pixels, name, sha.hexdigest(), notes)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except IsADirectoryError as error:
        raise MediaError(f"{path} is a folder; a picture was wanted.") from error
    except OSError as error:
        raise MediaError(f"{path} cannot be opened: {error.strerror}.") from error


def _from_bytes(content: bytes, name: str, max_pixels: int) -> Media:
    if not content:
        raise MediaError(f"{name} is empty (0 bytes). Bring the picture again.")
    try:
        with warnings.catch_warnings():
            # Pillow's own size warning is replaced by our limit; metadata faults harm nobody.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as picture:
                pixels, notes = _upright(picture, name, max_pixels)
    except MediaError:
        raise
    except UnidentifiedImageError as error:
        raise MediaError(
            f"{name} is no picture that can be read ({len(content)} bytes of another kind). "
            "Wanted: JPEG, PNG, WebP, GIF, TIFF, BMP and the like."
        ) from error
    except Image.DecompressionBombError as error:
        raise MediaError(f"{name} unpacks to too many pixels: {error}") from error
    except _BAD_BYTES as error:
        raise MediaError(f"{name} is damaged: {error}. Bring the picture again.") from error
    return Media("image", pixels, name, hashlib.sha256(content).hexdigest(), notes)


def _upright(
    picture: Image.Image, name: str, max_pixels: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    width, height = picture.size
    if width * height > max_pixels:
        raise MediaError(
            f"{name} has {width}×{height} pixels; at most {max_pixels} are decoded. Scale it "
            "down, or pass a larger max_pixels."
        )
    frames = getattr(picture, "n_frames", 1)
    notes = (f"first of {frames} frames",) if frames > 1 else ()
    if frames > 1:
        picture.seek(0)
    picture = ImageOps.exif_transpose(picture)
    return np.array(_to_rgb(picture), np.uint8), notes


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        return Image.fromarray(_scale(np.asarray(picture))).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def _scale(values: np.ndarray) -> np.ndarray:
    """Return 16-bit, 32-bit or float pixels as uint8; floats up to 1 mean 0..1."""
    if values.dtype == np.uint8:
        return values
    values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    top = values.max(initial=0.0)
    unit = 1.0 if top <= 1 else 255.0 if top <= 255 else 65535.0
    return (values / max(unit, top) * 255).round().clip(0, 255).astype(np.uint8)


def _from_array(source: Any, name: str, max_pixels: int) -> np.ndarray:
    if hasattr(source, "detach"):  # a torch tensor, channels first
        source = source.detach().cpu().numpy()
        if source.ndim == 3:
            source = np.moveaxis(source, 0, -1)
    values = np.asarray(source)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4) or 0 in values.shape:
        raise MediaError(
            f"{name} has shape {np.asarray(source).shape}; wanted (H, W), (H, W, 1|3|4), or a "
            "tensor (1|3|4, H, W) with at least one pixel."
        )
    if values.shape[0] * values.shape[1] > max_pixels:
        raise MediaError(f"{name} has {values.shape[:2]} pixels; at most {max_pixels} are taken.")
    if values.dtype.kind not in "uif":
        raise MediaError(f"{name} holds {values.dtype}; wanted uint8, uint16 or floats in 0..1.")
    if values.dtype == np.uint16:
        values = (values / 257).round().astype(np.uint8)
    values = _scale(values)
    if values.shape[2] == 4:
        return np.array(_to_rgb(Image.fromarray(values, "RGBA")))
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))
