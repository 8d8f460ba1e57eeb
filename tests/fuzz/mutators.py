"""Mutators: ways to damage a file, with or without knowledge of its format."""

from __future__ import annotations

import gzip
import random
import struct
import zlib
from collections.abc import Callable

SIZES = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
"""Extreme values."""
_LONGEST = 64
_PNG = 8  # bytes of its signature
_NESTING = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"moof", b"traf"}
_LONG_VRS = {b"OB", b"OW", b"OF", b"OD", b"SQ", b"UT", b"UN", b"OL", b"UC", b"UR"}
_REPRESENTATIONS = (b"US", b"UL", b"DS", b"IS", b"SQ", b"OB", b"OW", b"UI", b"LO", b"FD", b"AT")
_EXTREMES = (0.0, -0.0, 1e-45, -1.0, 3.4e38, float("inf"), float("-inf"), float("nan"))
_TEXTS = (b"0", b"-1", b"1e400", b"NaN", b"inf", b"99999999999999", b"\\", b"1\\2\\3\\4", b"")


def damaged(content: bytes, other: bytes, draw: random.Random) -> bytes:
    """Return a damaged copy.

    Args:
        content: an intact file.
        other: another file, for splices.
        draw: random generator.
    """
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        content = draw.choice(_WAYS)(content, other, draw)
    return content


def _flip(content: bytes, _: bytes, draw: random.Random) -> bytes:
    made = bytearray(content)
    for _i in range(draw.choice((1, 1, 2, 8, 32))):
        if made:
            made[draw.randrange(len(made))] ^= 1 << draw.randrange(8)
    return bytes(made)


def _run(content: bytes, _: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content) + 1)
    length = draw.randint(1, _LONGEST)
    return content[:at] + _bytes(length, draw) + content[at + length :]


def _bytes(length: int, draw: random.Random) -> bytes:
    return draw.choice((b"\0" * length, b"\xff" * length, draw.randbytes(length)))


def _cut(content: bytes, _: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def _insert(content: bytes, _: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content) + 1)
    return content[:at] + _bytes(draw.randint(1, _LONGEST), draw) + content[at:]


def _take_out(content: bytes, _: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content) + 1)
    return content[:at] + content[at + draw.randint(1, _LONGEST) :]


def _repeat(content: bytes, _: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content) + 1)
    stop = start + draw.randint(1, _LONGEST)
    return content[:stop] + content[start:stop] * draw.choice((1, 2, 50)) + content[stop:]


def _splice(content: bytes, other: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)] + other[draw.randrange(len(other) + 1) :]


def _field(content: bytes, _: bytes, draw: random.Random) -> bytes:
    """Set a number, mostly in the header, to an extreme value."""
    reach = len(content) if draw.random() < 0.4 else min(len(content), 64)
    return with_number(content, draw.randrange(reach + 1), draw)


def with_number(content: bytes, at: int, draw: random.Random, width: int = 0) -> bytes:
    """Return a copy with a number from `SIZES` at a place, in either order of bytes."""
    width = width or draw.choice((1, 2, 4, 8))
    order = draw.choice(("little", "big"))
    value = (draw.choice(SIZES) % 2 ** (8 * width)).to_bytes(width, order)
    return content[:at] + value + content[at + width :]


_WAYS: tuple[Callable[[bytes, bytes, random.Random], bytes], ...] = (
    _flip, _flip, _run, _cut, _insert, _take_out, _repeat, _splice, _field, _field
)  # fmt: skip


def damaged_of_kind(kind: str, content: bytes, other: bytes, draw: random.Random) -> bytes:
    """Return a damaged copy of a file of a kind, such as "png"."""
    return _KINDS[kind](content, other, draw)


def _png(content: bytes, other: bytes, draw: random.Random) -> bytes:
    chunks: list[tuple[bytes, bytes]] = []
    at = _PNG
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    which = draw.randrange(len(chunks))
    name, body = chunks[which]
    way = draw.randrange(6)
    if way == 0 and body:
        chunks[which] = name, damaged(body, other, draw)
    elif way == 1:
        body = chunks[0][1]
        chunks[0] = chunks[0][0], with_number(body, draw.randrange(len(body)), draw)
    elif way == 2:
        chunks.insert(draw.randrange(len(chunks)), chunks[which])
    elif way == 3:
        chunks.pop(which)
    elif way == 4:  # pixels that unpack to more, or to less, or to others
        pixels = b"".join(b for n, b in chunks if n == b"IDAT")
        unpacked = damaged(zlib.decompress(pixels), other, draw)
        packed = zlib.compress(unpacked * draw.choice((1, 1, 200)))
        chunks = [c for c in chunks if c[0] not in (b"IDAT", b"IEND")]
        chunks += [(b"IDAT", packed), (b"IEND", b"")]
    else:  # a text that unpacks to 16 MiB
        bomb = b"words\0\0" + zlib.compress(bytes(draw.choice((10, 2**24))))
        chunks.insert(1, (draw.choice((b"zTXt", b"iCCP", b"iTXt")), bomb))
    made = content[:_PNG]
    for name, body in chunks:
        mended = struct.pack(">I", zlib.crc32(name + body))
        made += struct.pack(">I", len(body)) + name + body + mended
    return made


def _jpeg(content: bytes, other: bytes, draw: random.Random) -> bytes:
    places: list[tuple[int, int]] = []  # of a segment's length, and the length
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        (length,) = struct.unpack_from(">H", content, at + 2)
        places.append((at + 2, length))
        if content[at + 1] == 0xDA:  # the pixels follow
            break
        at += 2 + length
    place, length = draw.choice(places)
    way = draw.randrange(4)
    if way == 0:
        return with_number(content, place, draw, 2)
    if way == 1:
        return content[: place - 2] + content[place + length :]
    if way == 2:
        segment = content[place - 2 : place + length]
        return content[:place] + segment * draw.choice((1, 100)) + content[place + length :]
    body = damaged(content[place + 2 : place + length], other, draw)[:65000]
    return content[:place] + struct.pack(">H", len(body) + 2) + body + content[place + length :]


def _riff(content: bytes, other: bytes, draw: random.Random) -> bytes:
    """WebP and AVI: sizes or contents of chunks."""
    places: list[int] = []

    def walk(at: int, stop: int) -> None:
        while at + 8 <= stop:
            places.append(at)
            (size,) = struct.unpack_from("<I", content, at + 4)
            if content[at : at + 4] in (b"RIFF", b"LIST"):
                walk(at + 12, min(stop, at + 8 + size))
            at += 8 + size + size % 2

    walk(0, len(content))
    at = draw.choice(places)
    (size,) = struct.unpack_from("<I", content, at + 4)
    way = draw.randrange(3)
    if way == 0:
        return with_number(content, at + 4, draw, 4)
    if way == 1:  # a field of its header
        return with_number(content, at + 8 + draw.randrange(max(1, min(size, 64))), draw)
    body = damaged(content[at + 8 : at + 8 + size], other, draw)
    mended = struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    return content[: at + 4] + mended + content[at + 8 + size + size % 2 :]


def _gif(content: bytes, other: bytes, draw: random.Random) -> bytes:
    way = draw.randrange(3)
    if way == 0:  # the size of the screen
        return with_number(content, draw.choice((6, 8)), draw, 2)
    frames = [i for i in range(13, len(content) - 9) if content[i] == 0x2C]
    at = draw.choice(frames)
    if way == 1:  # the place and size of a frame, or its flags
        return with_number(content, at + draw.randint(1, 10), draw)
    extensions = [i for i in range(13, len(content) - 3) if content[i] == 0x21]
    return with_number(content, draw.choice(extensions) + draw.randint(1, 8), draw, 1)


def _tiff(content: bytes, other: bytes, draw: random.Random) -> bytes:
    order = "<" if content[:2] == b"II" else ">"
    entries: list[int] = []
    (at,) = struct.unpack_from(f"{order}I", content, 4)
    while 0 < at < len(content) - 2 and len(entries) < 200:
        (count,) = struct.unpack_from(f"{order}H", content, at)
        entries += [at + 2 + 12 * i for i in range(count)]
        at = at + 2 + 12 * count
        (at,) = struct.unpack_from(f"{order}I", content, at) if at + 4 <= len(content) else (0,)
    entry = draw.choice(entries)
    way = draw.randrange(4)
    if way == 0:
        return (
            content[: entry + 8]
            + struct.pack(f"{order}I", draw.choice(SIZES))
            + (content[entry + 12 :])
        )
    if way == 1:
        kind = struct.pack(f"{order}H", draw.randrange(20))
        return content[: entry + 2] + kind + content[entry + 4 :]
    if way == 2:
        count = struct.pack(f"{order}I", draw.choice(SIZES))
        return content[: entry + 4] + count + content[entry + 8 :]
    tag = struct.pack(f"{order}H", draw.choice((256, 257, 258, 259, 262, 273, 277, 279, 317, 338)))
    return content[:entry] + tag + content[entry + 2 :]


def _mp4(content: bytes, other: bytes, draw: random.Random) -> bytes:
    atoms: list[tuple[int, int]] = []

    def walk(at: int, stop: int) -> None:
        while at + 8 <= stop:
            (size,) = struct.unpack_from(">I", content, at)
            if size < 8:
                return
            atoms.append((at, size))
            if content[at + 4 : at + 8] in _NESTING:
                walk(at + 8, at + size)
            at += size

    walk(0, len(content))
    headers = [a for a in atoms if content[a[0] + 4 : a[0] + 8] != b"mdat"]
    at, size = draw.choice(headers)
    way = draw.randrange(5)
    if way == 0:
        return with_number(content, at, draw, 4)
    if way == 1:  # a number in it, such as how many samples there are
        return with_number(content, at + 8 + 4 * draw.randrange(max(1, (size - 8) // 4)), draw, 4)
    if way == 2:
        return content[:at] + content[at + size :]
    if way == 3:
        return content[: at + size] + content[at : at + size] + content[at + size :]
    names = [content[a + 4 : a + 8] for a, _ in atoms]
    return content[: at + 4] + draw.choice(names) + content[at + 8 :]


def _nifti(content: bytes, other: bytes, draw: random.Random) -> bytes:
    if content[:2] == b"\x1f\x8b":
        return gzip.compress(_nifti(gzip.decompress(content), other, draw), mtime=0)
    if content[:4] != struct.pack("<i", 348):  # the second version has other places
        return with_number(content, draw.randrange(540), draw)
    way = draw.randrange(5)
    if way == 0:  # dim
        value = draw.choice((-32768, -1, 0, 1, 2, 7, 8, 1000, 32767))
        at = 40 + 2 * draw.randrange(8)
        return content[:at] + struct.pack("<h", value) + content[at + 2 :]
    if way == 1:  # datatype, bitpix
        value = draw.choice((0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 511, 512, 1024, 1536, 2048, 2304))
        at = draw.choice((70, 72))
        return content[:at] + struct.pack("<h", value) + content[at + 2 :]
    if way == 2:  # pixdim, vox_offset, scl_slope, scl_inter, quatern, qoffset, srow
        at = draw.choice((76, 80, 84, 88, 108, 112, 116, *range(256, 328, 4)))
        return content[:at] + struct.pack("<f", draw.choice(_EXTREMES)) + content[at + 4 :]
    if way == 3:  # codes of forms, units, magic, extension
        return with_number(content, draw.choice((123, 252, 254, 344, 348)), draw, 2)
    voxels = draw.choice((b"\xff\xff\xff\x7f", b"\0\0\xc0\x7f", b"\0\0\x80\xff"))  # no numbers
    at = 352 + 4 * draw.randrange(max(1, (len(content) - 352) // 4))
    return content[:at] + voxels * draw.choice((1, 200)) + content[at + 4 :]


def _dicom(content: bytes, other: bytes, draw: random.Random) -> bytes:
    elements: list[tuple[int, int, int]] = []  # place, head and length of those at the top
    at = 132
    while at + 8 <= len(content):
        if content[at + 4 : at + 6] in _LONG_VRS:
            head, (length,) = 12, struct.unpack_from("<I", content, at + 8)
        else:
            head, (length,) = 8, struct.unpack_from("<H", content, at + 6)
        elements.append((at, head, length))
        at += head + min(length, len(content))
    at, head, length = draw.choice(elements)
    way = draw.randrange(6)
    if way == 0:
        return with_number(content, at + (8 if head == 12 else 6), draw, 4 if head == 12 else 2)
    if way == 1:
        return content[: at + 4] + draw.choice(_REPRESENTATIONS) + content[at + 6 :]
    if way == 2:
        return content[:at] + content[at + head + length :]
    if way == 3:
        return content[:at] + content[at : at + head + length] * 2 + content[at + head + length :]
    if way == 4 and head == 8 and length:
        return with_number(content, at + head + draw.randrange(length), draw, min(2, length))
    text = draw.choice(_TEXTS)
    text += b" " * (len(text) % 2)
    if head == 12:
        return content[: at + 12] + damaged(content[at + 12 :], other, draw)
    mended = struct.pack("<H", len(text)) + text
    return content[: at + 6] + mended + content[at + 8 + length :]


_KINDS: dict[str, Callable[[bytes, bytes, random.Random], bytes]] = {
    "jpeg": _jpeg,
    "png": _png,
    "webp": _riff,
    "gif": _gif,
    "tiff": _tiff,
    "mp4": _mp4,
    "avi": _riff,
    "nifti": _nifti,
    "dicom": _dicom,
}
KINDS = tuple(_KINDS)
"""The kinds of damaged files."""
