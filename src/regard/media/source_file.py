"""Source files: opening, limits of size and cost, and silencing of the libraries' logs.

A few bytes can ask for minutes of work or gigabytes of memory while the picture itself is small:
scans of a progressive JPEG, pages, extensions, tags that all point at the same bytes, deflated
headers. `refuse_costly_picture` and the like read lengths only, and stop at their limit, before a
library decodes the file.
"""

import io
import logging
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from regard.errors import MediaError, MediaTooLarge

MAX_SCANS = 32
"""Scans of a progressive JPEG; encoders write 10, or 26 for CMYK."""
MAX_PARTS = 10_000
"""Markers, chunks, extensions and pages beside the pixels."""
_FREE_SCANS, _MAX_SCANNED = 10, 2**29  # scans of any size; pixels of all scans where there are more
_MAX_TEXT = 2**20  # bytes of comments
_MAX_TAGS = 2**26  # bytes that the tags of a TIFF or of EXIF hold together
_SLOW = 2**22  # values that a decoder in Python may read
_RAW_TEXT = 2**24  # bytes of a picture written as digits
_MAX_COPIES = 2**30  # bytes that JPEG 2000 holds beside the picture
_DENSE = 2**24  # pixels of a JPEG 2000 of any size; a larger one has a byte for every 1,000
_INFLATED, _DEFLATION, _MAX_INFLATED = 2**24, 100, 2**30  # bytes of DICOM: at least, per byte, most
_HEAD = 4096  # bytes that hold the beginning of a DICOM file

_SCAN_END = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")
_NO_LENGTH = {0x01, *range(0xD0, 0xDA)} - {0xD9}
_TAG_SIZES = dict(zip(range(1, 19), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8),
                      strict=True))  # fmt: skip
_DEFLATED = b"1.2.840.10008.1.2.1.99"


def is_dicom(head: bytes) -> bool:
    """Return whether the first 132 bytes of a file are those of DICOM."""
    return head[128:132] == b"DICM"


def read_start(path: str | Path, name: str, count: int) -> bytes:
    """Return the first bytes of a file; all bytes of a shorter one.

    Args:
        path: a file or a pipe.
        name: used in error messages.
        count: bytes to read at most.

    Raises:
        MediaError: the file cannot be opened or read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError as error:
        raise MediaError(f"{name} cannot be opened: {error.strerror}.") from error
    except (ValueError, MemoryError) as error:  # a null byte in the path; not enough memory
        raise MediaError(f"{name!r} cannot be read: {error or 'out of memory'}.") from error


def refuse_empty(size: int, name: str) -> None:
    """Raise `MediaError` if a file has no bytes."""
    if not size:
        raise MediaError(f"{name} is empty (0 bytes). Copy or download the file again.")


def refuse_size(
    height: int, width: int, name: str, max_pixels: int, *, least: int = 0, what: str = ""
) -> None:
    """Raise `MediaTooLarge` unless a picture has from `least` to `max_pixels` pixels."""
    if not least <= height * width <= max_pixels:
        raise MediaTooLarge(
            f"{name} has {what}{width}×{height} pixels; expected at least {max(1, least)} and at "
            f"most {max_pixels} pixels. Scale it down, or set max_pixels."
        )


class _QuietLibraries:
    """Silences Pillow, nibabel and pydicom while any thread reads.

    Pillow's warning about large pictures is replaced by `max_pixels`, and unusual metadata does
    not matter here. pydicom logs unusual values, which may include a patient's name.
    `warnings.catch_warnings` acts on the whole process: two threads with overlapping blocks would
    leave the filter behind. Therefore the first reader sets the filter, and the last one restores
    it.
    """

    _MODULES = r"PIL|pydicom|nibabel|regard\.media"
    _OFF = logging.CRITICAL + 1

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._saved = warnings.catch_warnings()
        # The loggers below pydicom's take its level; nibabel's has a handler of its own.
        self._loggers = [logging.getLogger(name) for name in ("pydicom", "nibabel.global")]
        self._levels: list[int] = []

    def __enter__(self) -> None:
        with self._lock:
            if self._readers == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=self._MODULES)
                self._levels = [logger.level for logger in self._loggers]
                for logger in self._loggers:
                    logger.setLevel(self._OFF)
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._saved.__exit__(None, None, None)
                for logger, level in zip(self._loggers, self._levels, strict=True):
                    logger.setLevel(level)


quiet_libraries = _QuietLibraries()
"""Context in which Pillow, nibabel and pydicom neither warn nor log; any thread may enter it."""


@cache
def silence_libtiff() -> None:
    """Stop Pillow's copy of libtiff from writing to standard error.

    It writes from C, where no filter of Python's reaches it; Pillow raises its own errors. On a
    system that does not list a process's libraries nothing changes.
    """
    import ctypes

    with suppress(OSError, AttributeError, UnicodeDecodeError):
        mapped = Path("/proc/self/maps").read_text("utf-8").splitlines()
        paths = {line.split(maxsplit=5)[-1] for line in mapped if "libtiff" in line}
        for library in map(ctypes.CDLL, sorted(paths)):
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)


# Cost


def refuse_costly_picture(content: bytes, name: str, max_pixels: int) -> None:
    """Check the structure of a picture that Pillow would decode.

    Args:
        content: the file.
        name: used in messages.
        max_pixels: largest number of pixels of any picture in it.

    Raises:
        MediaTooLarge: it would cost more than a picture of its size may.
    """
    try:
        head, box = content[:8], content[4:12]
        for start, check in _CHECKS:
            if head.startswith(start) or box.startswith(start):
                check(content, name, max_pixels)
                return
    except (struct.error, IndexError):
        return  # cut short or malformed: the decoder says how


def refuse_costly_tags(content: bytes, name: str) -> None:
    """Check the tags of a TIFF, or of EXIF data: together they hold no more than a photograph's.

    Raises:
        MediaTooLarge: they hold more, or there are too many pages.
    """
    try:
        _check_tiff(content.removeprefix(b"Exif\0\0"), name, 0)
    except (struct.error, IndexError):
        return


def refuse_costly_dicom(source: str | bytes, name: str) -> None:
    """Inflate a deflated DICOM file piece by piece, and count.

    Raises:
        MediaTooLarge: it inflates to more than a scan of its size may.
        MediaError: it cannot be read.
    """
    head = source[:_HEAD] if isinstance(source, bytes) else read_start(source, name, _HEAD)
    if _DEFLATED not in head or len(head) < 144:
        return
    (length,) = struct.unpack_from("<I", head, 140)
    inflater, count = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        most = min(_MAX_INFLATED, _INFLATED + _DEFLATION * file.seek(0, io.SEEK_END))
        file.seek(144 + length)
        try:
            while not inflater.eof and (packed := inflater.unconsumed_tail or file.read(2**16)):
                count += len(inflater.decompress(packed, 2**22))
                if count > most:
                    raise _too_much(name, f"more than {most:,} bytes when it is inflated")
        except zlib.error:
            return  # damaged: the reader says how


def _too_much(name: str, what: str) -> MediaTooLarge:
    return MediaTooLarge(f"{name} holds {what}. Save the picture again with another program.")


def _check_jpeg(content: bytes, name: str, _: int) -> None:
    at, parts, scans, pixels = 2, 0, 0, 0
    few = content.count(b"\xff\xda") <= _FREE_SCANS
    while at + 4 <= len(content):
        parts += 1
        if parts - scans > MAX_PARTS:
            raise _too_much(name, f"more than {MAX_PARTS:,} markers")
        if content[at] != 0xFF:
            return
        marker = content[at + 1]
        if marker == 0xFF:
            at += 1
            parts -= 1
            continue
        if marker == 0xD9:
            return
        if marker in _NO_LENGTH:
            at += 2
            continue
        (length,) = struct.unpack_from(">H", content, at + 2)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", content, at + 5)
            pixels = height * width
        at += 2 + max(2, length)
        if marker == 0xDA:
            scans += 1
            if few:
                return
            if scans > MAX_SCANS or (scans > _FREE_SCANS and scans * pixels > _MAX_SCANNED):
                raise _too_much(name, f"{scans} scans or more of {pixels:,} pixels")
            found = _SCAN_END.search(content, at)
            if found is None:
                return
            at = found.end() - 2


def _check_png(content: bytes, name: str, _: int) -> None:
    at, parts, most = 8, 0, MAX_PARTS + len(content) // 1024
    while at + 8 <= len(content):
        parts += 1
        if parts > most:
            raise _too_much(name, f"more than {most:,} chunks")
        (length,) = struct.unpack_from(">I", content, at)
        at += 12 + length


def _check_gif(content: bytes, name: str, _: int) -> None:
    flags = content[10]
    at, parts, text = 13 + (3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0), 0, 0
    while at < len(content) and content[at] in (0x21, 0x2C, 0):
        kind = content[at]
        parts += 1
        if parts > MAX_PARTS or text > _MAX_TEXT:
            raise _too_much(name, f"more than {MAX_PARTS:,} frames and extensions, or {text:,} "
                                  "bytes of comments")  # fmt: skip
        comment = kind == 0x21 and content[at + 1] == 0xFE
        if kind == 0x2C:
            flags = content[at + 9]
            at += 11 + (3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0)
        else:
            at += 2 if kind == 0x21 else 1
        while kind and content[at]:
            text += content[at] if comment else 0
            at += 1 + content[at]
        at += bool(kind)


def _check_tiff(content: bytes, name: str, _: int) -> None:
    order = "<" if content[:2] == b"II" else ">"
    big = content[2:4] in (b"+\0", b"\0+")
    offset, count, entry, step = ("Q", "Q", "HHQ", 20) if big else ("I", "H", "HHI", 12)
    (at,) = struct.unpack_from(order + offset, content, 8 if big else 4)
    held, seen = 0, set[int]()
    while at and at not in seen:
        seen.add(at)
        if len(seen) > MAX_PARTS:
            raise _too_much(name, f"more than {MAX_PARTS:,} pages")
        (tags,) = struct.unpack_from(order + count, content, at)
        at += struct.calcsize(order + count)
        for number in range(min(tags, (len(content) - at) // step)):
            _, kind, values = struct.unpack_from(order + entry, content, at + number * step)
            held += min(values * _TAG_SIZES.get(kind, 0), len(content))
            if held > max(_MAX_TAGS, 2 * len(content)):
                raise _too_much(name, f"tags of more than {held - 1:,} bytes in all")
        (at,) = struct.unpack_from(order + offset, content, at + tags * step)


def _check_ico(content: bytes, name: str, max_pixels: int) -> None:
    # Pillow decodes the largest picture while it opens the file.
    (count,) = struct.unpack_from("<H", content, 4)
    for number in range(count):
        (at,) = struct.unpack_from("<I", content, 6 + 16 * number + 12)
        if content[at : at + 4] == b"\x89PNG":
            width, height = struct.unpack_from(">II", content, at + 16)
        elif at + 12 <= len(content):
            width, height = map(abs, struct.unpack_from("<ii", content, at + 4))
        else:
            continue
        refuse_size(height, width, name, max_pixels)


def _check_jpeg2000(content: bytes, name: str, _: int) -> None:
    at = content.find(b"\xff\x4f\xff\x51", 0, 2**20)
    if at < 0:
        return
    right, bottom, left, top = struct.unpack_from(">4I", content, at + 8)
    (components,) = struct.unpack_from(">H", content, at + 40)
    pixels = max(0, right - left) * max(0, bottom - top)
    if 4 * pixels * components > _MAX_COPIES:
        raise _too_much(name, f"{components} components of {pixels:,} pixels of JPEG 2000")
    if pixels > _DENSE and 1000 * len(content) < pixels:
        raise _too_much(name, f"{pixels:,} pixels in {len(content):,} bytes of JPEG 2000")


def _check_bmp(content: bytes, name: str, _: int) -> None:
    width, height = struct.unpack_from("<ii", content, 18)
    (compression,) = struct.unpack_from("<I", content, 30)
    if compression in (1, 2) and width * abs(height) > 4 * _SLOW:
        raise _too_much(name, f"{width * abs(height):,} pixels of run-length BMP")


def _check_pnm(content: bytes, name: str, _: int) -> None:
    digits = content[1:2] in b"123"
    numbers = [int(n[:12]) for n in _numbers(content[2:65536], 3)]
    width, height, *white = numbers if len(numbers) > 1 else (0, 0)
    slow = digits or (content[1:2] in b"56" and white[:1] not in ([255], [65535]))
    values = width * height * (3 if content[1:2] in b"36" else 1)
    if (slow and values > _SLOW) or (digits and len(content) > _RAW_TEXT):
        raise _too_much(name, f"{values:,} values in a form of PNM that is slow to read; at most "
                              f"{_SLOW:,} are read")  # fmt: skip


def _numbers(text: bytes, most: int) -> Iterator[bytes]:
    """Yield the numbers of a header without its comments."""
    for line in text.split(b"\n"):
        for word in line.partition(b"#")[0].split():
            if most and word.isdigit():
                most -= 1
                yield word


_CHECKS: tuple[tuple[bytes, Callable[[bytes, str, int], None]], ...] = (
    (b"\xff\xd8\xff", _check_jpeg),
    (b"\x89PNG\r\n", _check_png),
    (b"GIF8", _check_gif),
    (b"II*\0", _check_tiff),
    (b"MM\0*", _check_tiff),
    (b"II+\0", _check_tiff),
    (b"MM\0+", _check_tiff),
    (b"\0\0\1\0", _check_ico),
    (b"\xff\x4f\xff\x51", _check_jpeg2000),
    (b"jP  \r\n", _check_jpeg2000),
    (b"BM", _check_bmp),
    *((b"P%d" % n, _check_pnm) for n in range(1, 7)),
)
"""The first bytes of a file, or those after the first four, and what is checked."""
