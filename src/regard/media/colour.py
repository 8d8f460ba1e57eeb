"""Colour: pictures with an ICC profile, or with primaries and gamma of their own, in sRGB.

Little CMS converts them, which comes with Pillow. What a file says without a profile (the chunks
gAMA and cHRM of PNG, Adobe RGB in EXIF data) is written as a profile first.
"""

import io
import struct
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms

_SAME = 2  # levels of 255: nearer to sRGB than this, the pixels are left as they are
_GAMMA = 2.2
_BELIEVED = 0.1, 10.0  # gamma of a file's samples
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_D50 = np.array([0.96420288, 1.0, 0.82490540])
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_UNUSED = "taken as sRGB"


class Primaries(NamedTuple):
    """Chromaticities (x, y) of white and of the three primaries, and the gamma of the samples.

    Attributes:
        white: (x, y); the others likewise.
        gamma: linear light is sample ** gamma; 0: the curve of sRGB.
    """

    white: tuple[float, float] = (0.3127, 0.3290)
    red: tuple[float, float] = (0.64, 0.33)
    green: tuple[float, float] = (0.30, 0.60)
    blue: tuple[float, float] = (0.15, 0.06)
    gamma: float = 0.0


ADOBE_RGB = Primaries(green=(0.21, 0.71), gamma=563 / 256)


def to_srgb(
    picture: Image.Image, eight_bits: Any, said: Primaries | None = None
) -> tuple[Image.Image, tuple[str, ...]]:
    """Return a picture in sRGB, or itself if it is in sRGB already; and notes.

    Args:
        picture: decoded; `info` holds its profile.
        eight_bits: returns it as an RGB picture of 8 bits; called for modes of more bits.
        said: its colour space, if the file says it in another way than by `info`.
    """
    profile = picture.info.get("icc_profile")
    try:
        if not profile:
            said = said or primaries_of(picture.info)
            profile = said and _profile_of(said)
    except (ValueError, TypeError, np.linalg.LinAlgError):
        return picture, (f"gAMA and cHRM that no screen has, {_UNUSED}",)
    if not profile:
        return picture, ()
    space = profile[16:20].decode("latin-1").strip()
    grey = picture.mode[:1] in "1LIF" and not picture.mode.startswith("LAB")
    is_ink = picture.mode == "CMYK"
    if space not in _MODES or (space == "CMYK") != is_ink or (space == "GRAY" and not grey):
        return picture, (f"a colour profile of another kind ({space or 'unnamed'}), {_UNUSED}",)
    mode = _MODES[space]
    try:
        if _is_srgb(profile, mode):
            return picture, ()
        transform = _transform(profile, mode)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return picture, (f"colour profile damaged, {_UNUSED}",)
    alpha = picture.convert("RGBA").getchannel("A") if picture.has_transparency_data else None
    base = eight_bits() if picture.mode[:1] in "IF" else picture
    made = ImageCms.applyTransform(base if base.mode == mode else base.convert(mode), transform)
    assert made is not None
    if alpha is not None:
        made.putalpha(alpha)
    return made, ()


def primaries_of(info: dict[Any, Any]) -> Primaries | None:
    """Return what gAMA and cHRM of a PNG say; None if they say sRGB, or nothing.

    Raises:
        ValueError: the gamma is out of range.
    """
    if "srgb" in info or not {"gamma", "chromaticity"} & info.keys():
        return None
    said, usual = Primaries(), Primaries()
    if gamma := info.get("gamma"):
        if not _BELIEVED[0] <= 1 / gamma <= _BELIEVED[1]:
            raise ValueError("a gamma that no screen has")
        if abs(gamma * _GAMMA - 1) > 0.05:  # else that of sRGB is meant
            said = said._replace(gamma=1 / gamma)
    if places := info.get("chromaticity"):
        four = [tuple(places[i : i + 2]) for i in range(0, 8, 2)]
        if np.abs(np.array(four) - np.array(usual[:4])).max() > 0.005:
            said = said._replace(**dict(zip(Primaries._fields, four, strict=False)))
    return None if said == usual else said


def _profile_of(space: Primaries) -> bytes:
    """Return an ICC profile of primaries and a gamma.

    Raises:
        ValueError: the primaries span no space.
    """
    points = np.array(space[:4])
    if not (points[:, 1] > 0).all():
        raise ValueError("a colour without light")
    # (4, 3): X, Y and Z of each, with Y = 1
    x, y = points.T
    white, *primaries = np.stack((x / y, np.ones(4), (1 - x - y) / y), axis=1)
    columns = np.array(primaries).T
    columns = columns * np.linalg.solve(columns, white)
    if not np.isfinite(columns).all() or np.abs(columns).max() > 100:
        raise ValueError("primaries on one line")
    cones = _BRADFORD @ _D50 / (_BRADFORD @ white)
    columns = np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD @ columns

    def fixed(values: Any) -> bytes:
        return b"".join(struct.pack(">i", round(float(v) * 65536)) for v in values)

    kind, numbers = (0, (space.gamma,)) if space.gamma else (3, _SRGB_CURVE)
    curve = b"para" + bytes(4) + struct.pack(">HH", kind, 0) + fixed(numbers)
    tags = {f"{c}XYZ": b"XYZ " + bytes(4) + fixed(columns[:, i]) for i, c in enumerate("rgb")}
    tags |= {f"{c}TRC": curve for c in "rgb"}
    at, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name.encode() + struct.pack(">II", at + len(body), len(content))
        body += content
    head = struct.pack(">I4s4s4s4s4s12x4s28x", at + len(body), bytes(4), b"\x04\x30\0\0",
                       b"mntr", b"RGB ", b"XYZ ", b"acsp")  # fmt: skip
    return (head + fixed(_D50)).ljust(128, b"\0") + table + body


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), mode, "RGB")


@lru_cache(maxsize=16)
def _is_srgb(profile: bytes, mode: str) -> bool:
    """Return whether a profile changes no colour by more than rounding does.

    Raises:
        PyCMSError: it is damaged, or of another kind.
    """
    steps = np.arange(0, 256, 51, dtype=np.uint8)
    if mode == "CMYK":
        return False
    if mode == "L":
        probe = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    else:
        probe = Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3))
    made = ImageCms.applyTransform(probe, _transform(profile, mode))
    given, shown = (np.asarray(one.convert("RGB"), int) for one in (probe, made))  # type: ignore[union-attr]
    return int(np.abs(given - shown).max()) <= _SAME
