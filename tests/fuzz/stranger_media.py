"""Pictures and scans that cost far more than their size says: refused quickly, in little memory."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from regard.errors import MediaTooLarge, RegardError
from regard.media.image import read_image
from regard.media.scan.dicom_series import read_header
from regard.media.source_file import refuse_costly_picture
from tests.helpers import toys

_SECONDS, _MEMORY = 2.0, 2**27


def _jpeg(size: tuple[int, int], scans: int, *, between: bytes = b"") -> bytes:
    """A progressive JPEG with the last scan repeated, as a refinement that changes nothing."""
    buffer = io.BytesIO()
    Image.new("L", size).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:-2] + (between + content[last:-2]) * scans + content[-2:]


def _png(size: tuple[int, int], *chunks: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0))
    rows = zlib.compress((b"\0" + b"\0" * size[0]) * size[1])
    more = b"".join(chunk(one[:4], one[4:]) for one in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _tiff(tags: int, values: int, pages: int = 1) -> bytes:
    """A TIFF whose tags all point at the same bytes, and many pages that are one page."""
    content = b"II*\0" + struct.pack("<I", 8)
    for page in range(pages):
        entries = b"".join(struct.pack("<HHII", 50000 + n, 1, values, 8) for n in range(tags))
        after = len(content) + 2 + len(entries) + 4
        content += struct.pack("<H", tags) + entries
        content += struct.pack("<I", 0 if page == pages - 1 else after)
    return content + bytes(values)


def _gif(between: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.new("P", (4, 4)).save(buffer, "GIF")
    content = buffer.getvalue()
    at = content.index(b"\x2c\0\0\0\0")
    return content[:at] + between + content[at:]


def _ico(inner: bytes) -> bytes:
    return (
        struct.pack("<HHH", 0, 1, 1)
        + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(inner), 22)
        + inner
    )


def _costly() -> Iterator[tuple[str, bytes]]:
    yield "scans", _jpeg((2000, 2000), 100)
    yield "more scans of few pixels", _jpeg((16, 16), 40)
    yield "scans with markers between", _jpeg((2000, 2000), 100, between=b"\xff\xfe\0\4ab\xff\xff")
    yield "markers", b"\xff\xd8" + b"\xff\xfe\0\2" * 20_000 + toys.jpeg()[2:]
    yield "chunks", _png((4, 4), *[b"tEXta\0b"] * 60_000)
    yield "tags", _tiff(2000, 2**17)
    yield "pages", _tiff(1, 1, 11_000)
    yield "extensions", _gif(b"\x21\xf9\4\0\0\0\0\0" * 20_000)
    yield "comments", _gif(b"\x21\xfe" + (b"\xff" + b"c" * 255) * 5_000 + b"\0")
    yield "icon", _ico(_png((20_000, 20_000))[:60])
    yield "jpeg 2000", _jpeg2000((13_000, 13_000))
    yield "jpeg 2000 of many components", _jpeg2000((1000, 1000), 16_000)
    yield "digits", b"P3 3000 3000 255\n" + b"0 " * 1000
    yield "digits with a comment", b"P2\n# 1 1\n 3000 #\n3000\n255\n" + b"0 " * 1000
    yield "odd white", b"P5 3000 3000 254\n" + bytes(1000)
    yield (
        "run-length BMP",
        b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 9000, 9000, 1, 8, 1) + bytes(90),
    )


def _jpeg2000(size: tuple[int, int], components: int = 3) -> bytes:
    siz = struct.pack(">H8IH", 0, *size, 0, 0, *size, 0, 0, components)
    siz += b"\7\1\1" * components
    return b"\xff\x4f\xff\x51" + struct.pack(">H", len(siz) + 2) + siz + bytes(2000)


def pictures_that_cost_too_much(folder: Path) -> None:
    """Scans, markers, chunks, tags, pages, extensions, comments, icons, digits."""
    for name, content in _costly():
        began = time.thread_time()
        error, peak = _refused(partial(read_image, content, name="x", max_pixels=300_000_000))
        assert isinstance(error, MediaTooLarge), (name, error)
        assert time.thread_time() - began < _SECONDS, name
        assert peak < _MEMORY, (name, peak)


def pictures_that_cost_what_they_should(folder: Path) -> None:
    """Ordinary files of every format are still read."""
    rgb, shades = toys.picture(), toys.picture()[..., 0]
    for form, options in (
        ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("TIFF", {}), ("ICO", {}),
        ("BMP", {}), ("PPM", {}), ("WEBP", {}), ("JPEG2000", {}), ("SGI", {}), ("TGA", {}),
        ("TIFF", {"compression": "tiff_lzw"}), ("PCX", {}), ("DIB", {}), ("AVIF", {}),
    ):  # fmt: skip
        for pixels in (rgb, shades):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, form, **options)
            assert read_image(buffer.getvalue()).pixels.size, form
    frames = [Image.new("L", (8, 8), n) for n in range(200)]
    for form in ("GIF", "TIFF", "WEBP"):
        buffer = io.BytesIO()
        frames[0].save(buffer, form, save_all=True, append_images=frames[1:])
        assert "first of" in read_image(buffer.getvalue()).notes[0], form
    refuse_costly_picture(_jpeg((16, 16), 15), "x", 10**9)
    for start in (
        b"GIF89a",
        b"II*\0",
        b"\0\0\1\0",
        b"\xff\xd8\xff",
        b"BM",
        b"P3",
        b"\xff\x4f\xff\x51",
    ):
        refuse_costly_picture(start, "x", 10**9)  # cut short: left to the decoder
        refuse_costly_picture(start + bytes(40), "x", 10**9)


def formats_that_run_programs(folder: Path) -> None:
    """Pillow is asked for 15 formats only; it does not open EPS, nor look into others."""
    for content in (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n" + b"%" * 10**6,
        b"\xc5\xd0\xd3\xc6" + struct.pack("<I", 32) + bytes(40), b"%PDF-1.7\n",
        b"\xd7\xcd\xc6\x9a" + bytes(80), b"SIMPLE  = T" + b" " * 80, b"8BPS\0\1" + bytes(40),
    ):  # fmt: skip
        error, _ = _refused(partial(read_image, content))
        assert "is not a picture" in str(error), (content[:4], error)


def _refused(read: Callable[[], object]) -> tuple[RegardError | None, int]:
    """Return the error of a reader, and the most memory that it had."""
    tracemalloc.start()
    try:
        read()
    except RegardError as error:
        return error, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return None, 0


def tags_of_exif(folder: Path) -> None:
    """EXIF whose tags together hold gigabytes: the picture is read, and taken as upright."""
    tags = _tiff(3000, 2**17)
    profile = b"exif\n\n%d\n%s" % (len(tags), tags.hex().encode())
    text = b"zTXtRaw profile type exif\0\0" + zlib.compress(profile)
    for content in (_png((8, 8), b"eXIf" + tags), _png((8, 8), text)):
        tracemalloc.start()
        found = read_image(content)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < _MEMORY, peak
        assert any("EXIF" in note for note in found.notes), found.notes


def scans_that_inflate(folder: Path) -> None:
    """A deflated DICOM file of a megabyte that is gigabytes; in memory and as a file."""
    packer = zlib.compressobj(9, wbits=-15)
    data = b"".join(packer.compress(bytes(2**20)) for _ in range(200)) + packer.flush()
    syntax = b"1.2.840.10008.1.2.1.99\0\0"[:22]
    element = struct.pack("<HH2sH", 2, 0x10, b"UI", len(syntax)) + syntax
    head = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(element)) + element
    content = bytes(128) + b"DICM" + head + data
    path = folder / "a.dcm"
    path.write_bytes(content)
    for source in (content, str(path)):
        error, peak = _refused(partial(read_header, source, "a.dcm"))
        assert isinstance(error, MediaTooLarge), error
        assert peak < _MEMORY, peak


CASES = [
    pictures_that_cost_too_much,
    pictures_that_cost_what_they_should,
    formats_that_run_programs,
    tags_of_exif,
    scans_that_inflate,
]
