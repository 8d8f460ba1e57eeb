"""Colour spaces, depths and metadata of pictures."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regard.errors import MediaError
from regard.media import read_image
from regard.media.colour import ADOBE_RGB, Primaries, _profile_of

COLOURS = np.array([[[180, 60, 40], [128, 128, 128], [255, 255, 255], [10, 20, 200]]], np.uint8)
SRGB = Primaries()
P3 = Primaries(red=(0.68, 0.32), green=(0.265, 0.69))
PROPHOTO = Primaries(
    (0.3457, 0.3585), (0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001), gamma=1.8
)
SWAPPED = Primaries(red=(0.30, 0.60), green=(0.64, 0.33))
LINEAR = Primaries(gamma=1.0)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def xyz_of(space: Primaries) -> np.ndarray:
    """Return the textbook matrix from linear light to XYZ."""
    three = np.array([(x / y, 1, (1 - x - y) / y) for x, y in space[1:4]]).T
    x, y = space.white
    return three * np.linalg.solve(three, (x / y, 1, (1 - x - y) / y))


def in_srgb(pixels: np.ndarray, space: Primaries) -> np.ndarray:
    """Return the pixels of a space with the white of sRGB in sRGB, by its formulas."""
    value = pixels / 255
    curve = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    light = value**space.gamma if space.gamma else curve
    light = (light @ xyz_of(space).T @ np.linalg.inv(xyz_of(SRGB)).T).clip(0, 1)
    return 255 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def with_chunk(png: bytes, kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    """Return a PNG with another chunk after its header."""
    crc = zlib.crc32(kind + content) if crc is None else crc
    return png[:33] + struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc) + (
        png[33:]
    )  # fmt: skip


@pytest.mark.parametrize("space", [P3, ADOBE_RGB, SWAPPED, LINEAR, Primaries(gamma=1.8)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_a_profile_is_turned_into_srgb(space: Primaries, kind: str) -> None:
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    large = Image.fromarray(np.repeat(np.repeat(COLOURS, 16, 0), 16, 1))
    media = read_image(encoded(large, kind, icc_profile=_profile_of(space), **options))
    found = media.pixels[8, 8::16].astype(float)
    near = 4 if kind == "JPEG" else 2
    np.testing.assert_allclose(found, in_srgb(COLOURS, space)[0], atol=near)
    assert media.notes == ()


def test_white_of_another_temperature_stays_white() -> None:
    content = encoded(Image.fromarray(COLOURS), icc_profile=_profile_of(PROPHOTO))
    pixels = read_image(content).pixels[0].astype(int)
    assert np.ptp(pixels[1]) <= 1
    assert pixels[2].min() >= 254
    assert pixels[0, 0] > 230  # what is a dull red in a wide space is a strong one


def test_a_picture_in_srgb_keeps_its_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    png = encoded(Image.fromarray(pixels))
    for content in (
        png,
        encoded(Image.fromarray(pixels), icc_profile=_profile_of(SRGB)),
        with_chunk(png, b"gAMA", struct.pack(">I", 45455)),
        with_chunk(with_chunk(png, b"gAMA", struct.pack(">I", 100000)), b"sRGB", b"\0"),
    ):
        media = read_image(content)
        np.testing.assert_array_equal(media.pixels, pixels)
        assert media.notes == ()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "I;16"])
def test_every_mode_is_turned(mode: str) -> None:
    """Grey stays grey, transparent lies over white, and 16 bits are made 8 first."""
    base = Image.fromarray(np.full((2, 2), 64, np.uint8))
    if mode == "I;16":
        picture = Image.fromarray(np.full((2, 2), 64 * 257, np.uint16))
    else:
        picture = base.convert(mode)
    if mode == "RGBA":
        picture.putpixel((0, 0), (64, 64, 64, 0))
    media = read_image(encoded(picture, icc_profile=_profile_of(LINEAR)))
    expected = in_srgb(np.full((1, 1, 3), 64), LINEAR)[0, 0, 0]
    assert abs(int(media.pixels[1, 1, 0]) - expected) <= 2
    assert np.ptp(media.pixels[1, 1]) == 0
    assert media.pixels[0, 0, 0] == (255 if mode == "RGBA" else media.pixels[1, 1, 0])


def grey_profile(gamma: float) -> bytes:
    """Return a profile of grey shades."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    head = bytearray(_profile_of(SRGB)[:128])
    head[16:20] = b"GRAY"
    table = struct.pack(">I4sII", 1, b"kTRC", 144, len(curve))
    head[:4] = struct.pack(">I", 144 + len(curve))
    return bytes(head) + table + curve


def ink_profile() -> bytes:
    """Return a profile of inks in which cyan and magenta change places."""
    nodes = np.stack(np.meshgrid(*[[0.0, 1.0]] * 4, indexing="ij"), -1).reshape(-1, 4)
    light = (1 - nodes[:, [1, 0, 2]]) * (1 - nodes[:, 3:])  # magenta takes red away
    white = np.array([0.9642, 1.0, 0.8249])
    m = np.array(
        [[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]]
    )  # of sRGB, under D50
    t = (light @ m.T / white).clip(1e-9)
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    lab = np.stack((116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])), -1)
    coded = np.stack((lab[:, 0] * 2.55, lab[:, 1] + 128, lab[:, 2] + 128), -1)
    body = b"mft1" + bytes(4) + struct.pack(">BBBB", 4, 3, 2, 0)
    body += b"".join(struct.pack(">i", 65536 * (i in (0, 4, 8))) for i in range(9))
    body += bytes(range(256)) * 4 + coded.round().clip(0, 255).astype(np.uint8).tobytes()
    body += bytes(range(256)) * 3
    head = bytearray(_profile_of(SRGB)[:128])
    head[12:24] = b"prtrCMYKLab "
    head[:4] = struct.pack(">I", 144 + len(body))
    return bytes(head) + struct.pack(">I4sII", 1, b"A2B0", 144, len(body)) + body


def test_inks_and_greys_have_profiles_of_their_own() -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for kind in ("JPEG", "TIFF"):
        red, green, blue = read_image(encoded(cyan, kind, icc_profile=ink_profile())).pixels[8, 8]
        assert red > 240
        assert green < 20
        assert blue > 240
    grey = encoded(Image.new("L", (2, 2), 64), icc_profile=grey_profile(1.0))
    assert abs(int(read_image(grey).pixels[0, 0, 0]) - in_srgb(np.full(3, 64), LINEAR)[0]) <= 2


@pytest.mark.parametrize(
    ("picture", "profile", "says"),
    [
        (Image.new("RGB", (2, 2), 9), ink_profile(), "of another kind .CMYK"),
        (Image.new("RGB", (2, 2), 9), grey_profile(1.0), "of another kind .GRAY"),
        (Image.new("CMYK", (2, 2), 9), _profile_of(P3), "of another kind .RGB"),
        (Image.new("RGB", (2, 2), 9), _profile_of(P3)[:200], "damaged"),
        (Image.new("RGB", (2, 2), 9), b"no profile", "of another kind .unnamed"),
    ],
)
def test_a_profile_that_does_not_fit_is_left_out_and_said(
    picture: Image.Image, profile: bytes, says: str
) -> None:
    plain = read_image(encoded(picture, "TIFF"))
    media = read_image(encoded(picture, "TIFF", icc_profile=profile))
    np.testing.assert_array_equal(media.pixels, plain.pixels)
    (note,) = media.warnings
    assert says.split(" .")[0] in note


def test_gamma_and_primaries_of_a_png() -> None:
    png = encoded(Image.fromarray(COLOURS))
    linear = with_chunk(png, b"gAMA", struct.pack(">I", 100000))
    found = read_image(linear).pixels[0]
    np.testing.assert_allclose(found, in_srgb(COLOURS, LINEAR)[0], atol=2)
    places = [round(v * 100000) for point in SWAPPED[:4] for v in point]
    swapped = with_chunk(png, b"cHRM", struct.pack(">8I", *places))
    np.testing.assert_allclose(read_image(swapped).pixels, COLOURS[..., [1, 0, 2]], atol=2)
    both = with_chunk(swapped, b"gAMA", struct.pack(">I", 100000))
    expected = in_srgb(COLOURS[..., [1, 0, 2]], LINEAR)
    np.testing.assert_allclose(read_image(both).pixels, expected, atol=2)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"gAMA", struct.pack(">I", 1)),
        (b"cHRM", struct.pack(">8I", *[0] * 8)),
        (b"cHRM", struct.pack(">8I", *[33333] * 8)),
    ],
)
def test_what_no_screen_has_is_said(kind: bytes, content: bytes) -> None:
    media = read_image(with_chunk(encoded(Image.fromarray(COLOURS)), kind, content))
    np.testing.assert_array_equal(media.pixels, COLOURS)
    assert "no screen has" in media.warnings[0]


def test_adobe_rgb_that_only_the_camera_says() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    large = Image.fromarray(np.repeat(np.repeat(COLOURS, 16, 0), 16, 1))
    content = encoded(large, "JPEG", quality=100, subsampling=0, exif=exif.tobytes())
    found = read_image(content).pixels[8, 8::16]
    np.testing.assert_allclose(found, in_srgb(COLOURS, ADOBE_RGB)[0], atol=4)


def deep_tiff(bits: int, tag: bool) -> bytes:
    """Return a grey TIFF whose whitest shade is 2**bits - 1."""
    shades = np.array([[0, 2**bits - 1]], np.uint16)
    return encoded(Image.fromarray(shades), "TIFF", tiffinfo={281: 2**bits - 1} if tag else {})


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_fewer_bits_than_16(bits: int) -> None:
    assert read_image(deep_tiff(bits, tag=True)).pixels[0, 1, 0] == 255
    unsaid = read_image(deep_tiff(bits, tag=False))
    assert f"If they have {bits} bits, multiply them by {2 ** (16 - bits)}" in unsaid.warnings[0]
    pixels = np.full((2, 2, 3), 2**bits - 1, np.uint16)
    assert f"have {bits} bits" in read_image(pixels).warnings[0]
    assert read_image(deep_tiff(16, tag=False)).warnings == ()
    assert read_image(np.full((2, 2), 65535, np.uint16)).warnings == ()


def test_a_tiff_of_12_bits_is_not_dark() -> None:
    data = bytes.fromhex("000fff")  # 0 and 4095
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1)]
    body = b"II*\0" + struct.pack("<I", 12) + data + b"\0" + struct.pack("<H", len(tags) + 1)
    for tag, value in [*tags, (279, 3)]:
        body += struct.pack("<HHII", tag, 3, 1, value)
    assert read_image(body + bytes(4)).pixels[..., 0].tolist() == [[0, 255]]


LONG = b"x" * (2**20 + 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda png: with_chunk(png, b"zTXt", b"a\0\0" + zlib.compress(LONG)),
        lambda png: with_chunk(png, b"iTXt", b"a\0\1\0\0\0" + zlib.compress(LONG)),
        lambda png: with_chunk(png, b"iCCP", b"a\0\0" + zlib.compress(LONG)),
        lambda png: with_chunk(png, b"iCCP", b"a\0\7" + zlib.compress(b"x")),
        lambda png: with_chunk(png, b"tEXt", b"a\0b", crc=0),
        lambda png: png[:-12] + with_chunk(b"", b"zTXt", b"a\0\0" + zlib.compress(LONG)),
        lambda png: with_chunk(png, b"gAMA", b"\0"),
    ],
)  # fmt: skip
def test_metadata_does_not_condemn_a_png(damage: Callable[[bytes], bytes]) -> None:
    media = read_image(damage(encoded(Image.fromarray(COLOURS))))
    np.testing.assert_array_equal(media.pixels, COLOURS)
    assert len(media.warnings) <= 2


def test_a_large_profile_is_applied() -> None:
    profile = _profile_of(SWAPPED).ljust(2**20 + 99, b"\0")
    profile = struct.pack(">I", len(profile)) + profile[4:]
    packed = b"a\0\0" + zlib.compress(profile)
    content = with_chunk(encoded(Image.fromarray(COLOURS)), b"iCCP", packed)
    np.testing.assert_allclose(read_image(content).pixels, COLOURS[..., [1, 0, 2]], atol=2)


def test_damaged_pixels_are_still_an_error() -> None:
    png = with_chunk(encoded(Image.fromarray(COLOURS)), b"zTXt", b"a\0\0" + zlib.compress(LONG))
    with pytest.raises(MediaError):
        read_image(png[:-30])


def test_libtiff_writes_nothing_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    shades = np.arange(3072, dtype=np.uint32).astype(np.uint8).reshape(32, 32, 3)
    whole = encoded(Image.fromarray(shades), "TIFF", compression="tiff_lzw")
    draw = np.random.default_rng(0)
    failed = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for place in draw.integers(0, len(whole), 3):
            damaged[place] = int(draw.integers(256))
        try:
            read_image(bytes(damaged))
        except MediaError:
            failed += 1
    assert failed
    assert capfd.readouterr().err == ""
