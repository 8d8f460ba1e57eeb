"""Pictures of every kind, good and bad."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import toys
from regard.errors import MediaError
from regard.media import read_image


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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_arrays_and_tensors(dtype: type) -> None:
    pixels = toys.picture()
    scale = {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[dtype]
    array = (pixels * np.float64(scale)).astype(dtype)
    np.testing.assert_allclose(read_image(array).pixels.astype(int), pixels, atol=1)
    if dtype is not np.uint16:
        tensor = torch.from_numpy(array).permute(2, 0, 1)
        np.testing.assert_allclose(read_image(tensor).pixels.astype(int), pixels, atol=1)
    assert read_image(array[..., 0]).pixels.shape == (40, 60, 3)


@pytest.mark.parametrize("array", [np.zeros((2, 3, 5)), np.zeros((0, 4, 3)), np.array([["a"]])])
def test_arrays_that_are_no_pictures(array: np.ndarray) -> None:
    with pytest.raises(MediaError, match="wanted"):
        read_image(array)


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    content = encoded(Image.fromarray(toys.picture()), "PNG", exif=exif)
    np.testing.assert_array_equal(read_image(content).pixels, np.rot90(toys.picture(), -1))


def test_transparency_lies_over_white() -> None:
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    picture.putpixel((1, 0), (255, 0, 0, 255))
    for mode in ("RGBA", "P"):
        pixels = read_image(encoded(picture.convert(mode), "PNG")).pixels
        assert pixels[0, 1].tolist() == [255, 0, 0]
        if mode == "RGBA":
            assert pixels[0, 0].tolist() == [255, 255, 255]


def test_palette_cmyk_grey_and_one_bit() -> None:
    picture = Image.fromarray(toys.picture())
    for mode, kind in (("P", "PNG"), ("CMYK", "JPEG"), ("L", "PNG"), ("1", "PNG"), ("LA", "PNG")):
        assert read_image(encoded(picture.convert(mode), kind)).pixels.shape == (40, 60, 3)


def test_sixteen_bits_keep_their_shades() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(3, 0)
    pixels = read_image(encoded(Image.fromarray(ramp), "PNG")).pixels
    np.testing.assert_allclose(pixels[0, :, 0].astype(int), np.arange(256), atol=1)


def test_the_first_frame_of_an_animation_is_taken_and_noted() -> None:
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue", "lime")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    media = read_image(content)
    assert media.pixels[0, 0].tolist() == [255, 0, 0]
    assert media.notes == ("first of 3 frames",)


@pytest.mark.parametrize("size", [(1, 1), (10000, 1), (1, 10000)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    media = read_image(encoded(Image.new("RGB", size, "red"), "PNG"))
    assert media.size == size[::-1]


def test_truncated_empty_text_and_missing(tmp_path: Path) -> None:
    whole = toys.jpeg(size=(200, 300))
    for name, content, says in (
        ("truncated.jpg", whole[: len(whole) // 2], "damaged"),
        ("empty.jpg", b"", "empty"),
        ("text.jpg", b"This is no picture at all.\n" * 9, "no picture"),
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


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(MediaError, match="pixels"):
        read_image(bomb)
    with pytest.raises(MediaError, match="max_pixels"):
        read_image(toys.jpeg(), max_pixels=100)


def test_damaged_bytes_never_raise_anything_else() -> None:
    generator = np.random.default_rng(0)
    picture = Image.fromarray(toys.picture())
    for kind in ("PNG", "GIF", "TIFF", "WEBP", "BMP", "JPEG"):
        whole = np.frombuffer(encoded(picture, kind), np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            damaged[generator.integers(0, len(damaged), 12)] = generator.integers(0, 256, 12)
            try:
                media = read_image(damaged.tobytes(), max_pixels=10**6)
            except MediaError:
                continue
            assert media.pixels.dtype == np.uint8
