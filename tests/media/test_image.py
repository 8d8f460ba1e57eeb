"""Pictures of every kind, good and bad."""

import contextlib
import hashlib
import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from regard.errors import MediaError
from regard.media import PreprocessingSpec, preprocess, read_image
from tests.helpers import toys


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_path_bytes_and_a_picture_give_the_same_pixels(tmp_path: Path) -> None:
    content = encoded(Image.fromarray(toys.picture()), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(content)
    from_path, from_bytes = read_image(path), read_image(content)
    from_picture = read_image(Image.open(io.BytesIO(content)))
    for media in (from_path, from_bytes, from_picture):
        np.testing.assert_array_equal(media.pixels, toys.picture())
    assert from_path.digest == from_bytes.digest
    assert from_path.name == str(path)


def test_an_endless_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regard.media.image.MAX_BYTES", 2**20)
    with pytest.raises(MediaError, match="more than 1048576 bytes"):
        read_image("/dev/zero")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_arrays_and_tensors(dtype: type) -> None:
    pixels = toys.picture()
    scale = {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[dtype]
    array = (pixels * np.float64(scale)).astype(dtype)
    np.testing.assert_allclose(read_image(array).pixels.astype(int), pixels, atol=1)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    np.testing.assert_allclose(read_image(tensor).pixels.astype(int), pixels, atol=1)
    assert read_image(array[..., 0]).pixels.shape == (40, 60, 3)
    assert read_image(tensor[:1]).pixels.shape == (40, 60, 3)


def test_half_precision_and_gradients_are_no_hindrance() -> None:
    tensor = torch.full((3, 2, 2), 0.5, dtype=torch.bfloat16, requires_grad=True)
    assert np.all(read_image(tensor).pixels == 128)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (np.zeros((2, 3, 5)), "has shape"),
        (torch.zeros(2, 3, 4, 4), "several pictures as a list"),
        (None, "NoneType.* is not an array of numbers"),
        (3, "int.* is not an array of numbers"),
        (np.zeros((0, 4, 3)), "at least 1"),
        (np.array([["a"]]), "expected uint8"),
        (np.array([[True]]), "expected uint8"),
        ([[1, 2], [3]], "not an array of numbers"),
        (np.full((2, 2), 300), "300"),
        (np.full((2, 2), -1), "-1"),
        (np.full((2, 2), 200.0), "normalisation"),
        (np.full((2, 2), -2.0), "normalisation"),
        (np.full((2, 2), np.nan), "nan"),
    ],
)
def test_arrays_that_are_no_pictures(source: object, says: str) -> None:
    with pytest.raises(MediaError, match=says):
        read_image(source)


def test_the_type_says_the_scale_never_the_content() -> None:
    """A dark picture stays dark: stretched, it would differ from itself beside a lamp."""
    assert read_image(np.full((2, 2), 1, np.int64)).pixels.max() == 1
    assert read_image(np.full((2, 2), 200, np.uint16)).pixels.max() == 1
    dark = encoded(Image.fromarray(np.full((2, 2), 200, np.uint16)), "PNG")
    assert read_image(dark).pixels.max() == 1
    assert read_image(np.full((2, 2), 1.1)).pixels.min() == 255  # resampling overshoots


def test_the_picture_is_the_readers_own() -> None:
    array = toys.picture().copy()
    media = read_image(array)
    array[:] = 0
    np.testing.assert_array_equal(media.pixels, toys.picture())


def test_the_digest_is_of_bytes_or_of_shape_and_pixels() -> None:
    content = toys.jpeg()
    assert read_image(content).digest == hashlib.sha256(content).hexdigest()
    flat, tall = np.zeros((2, 8), np.uint8), np.zeros((8, 2), np.uint8)
    assert read_image(flat).digest == read_image(flat.copy()).digest != read_image(tall).digest


def test_names(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(toys.jpeg())
    assert read_image(path).name == read_image(str(path)).name == str(path)
    with Image.open(path) as picture:
        assert read_image(picture).name == str(path)
    assert read_image(path, name="mine").name == "mine"
    assert read_image(toys.picture()).name == "<array>"
    assert read_image(Image.fromarray(toys.picture())).name == "<picture>"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = Image.fromarray(toys.picture())
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(upright, "PNG", exif=exif)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    np.testing.assert_array_equal(read_image(content).pixels, wanted)
    if orientation == 6:  # by hand: a quarter clockwise
        np.testing.assert_array_equal(wanted, np.rot90(toys.picture(), -1))


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0MM\0*\0\0\0\x08\0\xff\x01\x12",  # ends within its table
        b"Exif\0\0no such thing",
    ],
)
def test_damaged_exif_costs_no_picture(exif: bytes) -> None:
    content = encoded(Image.fromarray(toys.picture()), "JPEG", exif=exif)
    assert read_image(content).size == (40, 60)


def test_transparency_lies_over_white() -> None:
    picture = Image.new("RGBA", (3, 1), (255, 0, 0, 0))
    picture.putpixel((1, 0), (255, 0, 0, 255))
    picture.putpixel((2, 0), (0, 0, 0, 51))
    wanted = [[255, 255, 255], [255, 0, 0], [204, 204, 204]]
    for source in (encoded(picture, "PNG"), picture, np.asarray(picture)):
        assert read_image(source).pixels[0].tolist() == wanted


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_one_colour_may_be_the_transparent_one(mode: str) -> None:
    picture = Image.new(mode, (2, 1), 0)
    picture.putpixel((1, 0), (9, 9, 9) if mode == "RGB" else 9)
    transparent = (0, 0, 0) if mode == "RGB" else 0
    pixels = read_image(encoded(picture, "PNG", transparency=transparent)).pixels
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() != [255, 255, 255]


@pytest.mark.parametrize(
    ("mode", "kind", "tolerance"),
    [("P", "PNG", 40), ("CMYK", "TIFF", 1), ("YCbCr", "TIFF", 2), ("L", "PNG", 0)]
    + [("1", "PNG", 0), ("LA", "PNG", 0)],
)
def test_colour_modes_keep_their_colours(mode: str, kind: str, tolerance: int) -> None:
    picture = Image.fromarray(toys.picture()).convert(mode)
    wanted = np.asarray(picture.convert("RGB"))
    media = read_image(encoded(picture, kind))
    np.testing.assert_allclose(media.pixels.astype(int), wanted, atol=tolerance)
    assert media.notes == ()


def test_sixteen_bits_keep_their_shades() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(3, 0)
    pixels = read_image(encoded(Image.fromarray(ramp), "PNG")).pixels
    np.testing.assert_allclose(pixels[0, :, 0].astype(int), np.arange(256), atol=1)


def test_sixteen_bits_of_which_0_is_white_are_no_negative() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(3, 0)
    content = io.BytesIO()
    Image.fromarray(ramp).save(content, "TIFF", tiffinfo={262: 0})
    pixels = read_image(content.getvalue()).pixels
    np.testing.assert_allclose(pixels[0, :, 0].astype(int), np.arange(255, -1, -1), atol=1)


@pytest.mark.parametrize("most", [4095, 65535])
def test_a_dark_pgm_stays_dark(most: int) -> None:
    values = np.array([0, most // 100, most // 4], ">u2")
    content = b"P5 3 1 %d\n" % most + values.tobytes()
    media = read_image(content)
    np.testing.assert_allclose(media.pixels[0, :, 0].astype(int), [0, 2.5, 63.7], atol=1)
    assert media.notes == ()


@pytest.mark.parametrize(("value", "white"), [(0.5, 1), (128, 255), (32768, 65535), (1e6, 1e6)])
def test_what_32_bits_take_as_white_is_noted(value: float, white: float) -> None:
    content = encoded(Image.fromarray(np.full((2, 2), value, np.float32)), "TIFF")
    media = read_image(content)
    assert media.pixels.max() == round(255 * value / white)
    assert media.notes == (f"32-bit shades, {white:g} taken as white",)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken_and_noted(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue", "lime")]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    media = read_image(content)
    assert np.abs(media.pixels[0, 0].astype(int) - (255, 0, 0)).max() < 5  # WebP is lossy
    assert media.notes == ("first of 3 frames",)


def test_a_pil_image_gives_the_frame_that_it_shows() -> None:
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue", "lime")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(content)) as picture:
        picture.seek(1)
        media = read_image(picture)
        assert picture.tell() == 1
    assert media.pixels[0, 0].tolist() == [0, 0, 255]
    assert media.notes == ("number 2 of 3 frames",)


@pytest.mark.parametrize("size", [(1, 1), (10000, 1), (1, 10000)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    media = read_image(encoded(Image.new("RGB", size, "red"), "PNG"))
    assert media.size == size[::-1]


def test_truncated_empty_text_and_missing(tmp_path: Path) -> None:
    whole = toys.jpeg(size=(200, 300))
    for name, content, says in (
        ("truncated.jpg", whole[: len(whole) // 2], "damaged"),
        ("header.jpg", whole[:10], "damaged"),
        ("empty.jpg", b"", "empty"),
        ("text.jpg", b"This is no picture at all.\n" * 9, "not a picture"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(MediaError, match=says) as error:
            read_image(path)
        assert name in str(error.value)
    with pytest.raises(MediaError, match="cannot be opened"):
        read_image(tmp_path / "nowhere.jpg")
    with pytest.raises(MediaError, match="folder"):
        read_image(tmp_path)
    with pytest.raises(MediaError, match="cannot be read"):
        read_image("null\0byte.jpg")


def test_a_damaged_pil_image_is_a_media_error_too() -> None:
    whole = encoded(Image.fromarray(toys.picture()), "PNG")
    with pytest.raises(MediaError, match="damaged"):
        read_image(Image.open(io.BytesIO(whole[: len(whole) // 2])))


def test_a_kind_that_runs_programs_is_refused() -> None:
    """Pillow hands PostScript to an interpreter; whatever a file is called, it is not started."""
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(MediaError, match="is not a picture"):
        read_image(script)


def huge_png(width: int, height: int) -> bytes:
    """A PNG whose header promises a size and whose pixels are not there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(MediaError, match="too many pixels"):
        read_image(huge_png(60_000, 60_000))
    with pytest.raises(MediaError, match="has 10000×10000 pixels"):  # Pillow would only warn
        read_image(huge_png(10_000, 10_000), max_pixels=99_999_999)


def test_the_limit_can_be_set_and_holds_for_every_source() -> None:
    picture = toys.picture(size=(10, 20))
    for source in (toys.jpeg(size=(10, 20)), picture, Image.fromarray(picture)):
        assert read_image(source, max_pixels=200).size == (10, 20)
        with pytest.raises(MediaError, match="has 20×10 pixels"):
            read_image(source, max_pixels=199)


def test_warnings_are_neither_leaked_nor_silenced_for_others() -> None:
    """Readers in many threads must leave the process's filters as they found them."""
    before, content = list(warnings.filters), huge_png(10_000, 10_000)  # Pillow warns of it
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(read_image, content) for _ in range(40)]:
            assert isinstance(future.exception(), MediaError)
    assert list(warnings.filters) == before


def test_damaged_bytes_never_raise_anything_else() -> None:
    generator = np.random.default_rng(0)
    picture = Image.fromarray(toys.picture())
    read = 0
    for kind in ("PNG", "GIF", "TIFF", "WEBP", "BMP", "JPEG", "JPEG2000", "PPM"):
        whole = np.frombuffer(encoded(picture, kind), np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            where = generator.integers(0, len(damaged) if generator.random() < 0.5 else 64, 6)
            damaged[where] = generator.integers(0, 256, 6)
            with contextlib.suppress(MediaError):
                assert read_image(damaged.tobytes(), max_pixels=10**6).pixels.dtype == np.uint8
                read += 1
    assert 0 < read < 320


@pytest.mark.parametrize("mode", ["RGB", "LA", "P", "I;16", "I", "F", "CMYK", "1"])
def test_a_picture_converted_some_rows_at_a_time_is_the_same(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shades = np.random.default_rng(0).integers(0, 60000, (23, 7))
    if mode in ("I", "F", "I;16"):
        kind = {"I": np.int32, "F": np.float32, "I;16": np.uint16}[mode]
        shades = shades.astype(kind)
        if mode == "F":
            shades[3, 4], shades[5, 6] = np.nan, np.inf
        picture = Image.fromarray(shades)
    else:
        picture = Image.fromarray(toys.picture(0, (23, 7))).convert(mode.replace("LA", "RGB"))
        if mode == "LA":
            picture.putalpha(Image.linear_gradient("L").resize((7, 23)))
            picture = picture.convert("LA")
    whole = read_image(picture)
    monkeypatch.setattr("regard.media.image._AT_ONCE", 21)  # three rows
    bands = read_image(picture)
    assert (whole.pixels == bands.pixels).all()
    assert whole.notes == bands.notes


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_a_picture_that_nobody_looks_at_stays_with_pillow(
    kind: str, orientation: int, resize: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(toys.picture()), kind, exif=exif)
    spec = PreprocessingSpec(16, resize, "bilinear", (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
    shown, unshown = read_image(content), read_image(content, shown=False)
    assert shown.picture is None
    assert unshown.picture is not None
    assert not unshown.pixels.size
    assert unshown.size == shown.size
    assert (unshown.digest, unshown.notes) == (shown.digest, shown.notes)
    np.testing.assert_array_equal(preprocess(unshown, spec), preprocess(shown, spec))
    assert unshown.without_pixels().picture is None


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "I;16", "CMYK", "transparent"])
def test_what_pillow_does_not_hold_as_rgb_is_converted_for_the_network_too(mode: str) -> None:
    picture = Image.fromarray(toys.picture())
    options: dict[str, object] = {}
    if mode == "transparent":
        options["transparency"] = picture.getpixel((0, 0))
    elif mode == "I;16":
        picture = Image.fromarray(toys.picture()[..., 0].astype(np.uint16) * 257)
    else:
        picture = picture.convert(mode)
    content = encoded(picture, "TIFF" if mode == "CMYK" else "PNG", **options)
    unshown = read_image(content, shown=False)
    assert unshown.picture is None
    np.testing.assert_array_equal(unshown.pixels, read_image(content).pixels)


def test_a_picture_in_memory_is_copied_whoever_looks_at_it() -> None:
    """Its digest is that of its pixels, and its owner may change it."""
    given = Image.fromarray(toys.picture())
    media = read_image(given, shown=False)
    given.paste((0, 0, 0), (0, 0, *given.size))
    np.testing.assert_array_equal(media.pixels, toys.picture())
