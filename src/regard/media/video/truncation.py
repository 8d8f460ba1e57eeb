"""Clips that are cut off: the sizes that a container states against the bytes that are there.

FFmpeg reads a shorter file without a complaint, and estimates its duration anew. Raw streams
(H.264, MPEG-1 video) state no size, and a cut between two packets of a stream of packets (MPEG-TS,
MPEG-PS, fragments of MP4) leaves no trace.
"""

import os
import re
import struct
from collections.abc import Callable
from typing import BinaryIO

_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # the object with the file's size
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_TAIL = 2**17  # bytes; a page of Ogg has at most 65,307
_FLV_TAGS = (8, 9, 18)
_BOXES = (b"ftyp", b"moov", b"mdat", b"styp", b"free", b"skip", b"wide", b"pnot", b"sidx", b"moof")
_TS = 0x47  # the first byte of each packet of a transport stream
_COARSER = {"420": (2, 2), "411": (4, 1), "422": (2, 1), "444": (1, 1)}  # colours of Y4M


def is_cut_off(file: BinaryIO) -> bool:
    """Return whether a clip's file ends before its container says that it does.

    Args:
        file: opened for reading bytes; its position changes.
    """
    size = file.seek(0, os.SEEK_END)
    head = _at(file, 0, 4096)
    checks: list[tuple[bool, Callable[[BinaryIO, bytes, int], bool]]] = [
        (head[4:8] in _BOXES, _boxes_pass),
        (head[:4] == b"RIFF", _riff_passes),
        (head[:4] == _EBML, _segment_passes),
        (head[:4] == b"OggS", _ogg_has_no_end),
        (head[:3] == b"FLV", _flv_tail_is_torn),
        (head[:16] == _ASF, _asf_is_shorter),
        (head[:4] == b"DKIF", _ivf_passes),
        (head[:10] == b"YUV4MPEG2 ", _y4m_has_a_part),
        (head[:3] == b"GIF", _gif_has_no_end),
        (head[:4] == b"\0\0\1\xba", _packs_pass),
        (True, _packets_are_torn),
    ]
    try:
        return next(check for fits, check in checks if fits)(file, head, size)
    except (struct.error, IndexError, ValueError):  # a header is cut, or holds nonsense
        return True


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _boxes_pass(file: BinaryIO, head: bytes, size: int) -> bool:
    """Boxes of MP4 and MOV, at the top level."""
    at = 0
    while at < size:
        start = _at(file, at, 16)
        length = struct.unpack_from(">I", start)[0]
        if length == 1:
            length = struct.unpack_from(">Q", start, 8)[0]
        if length < 8:  # 0: to the end; else bytes of another program after the clip
            return False
        at += length
    return at > size


def _riff_passes(file: BinaryIO, head: bytes, size: int) -> bool:
    """RIFF chunks of AVI; a large one has several."""
    at = 0
    while at + 12 <= size:
        kind, length = struct.unpack("<4sI", _at(file, at, 8))
        if kind != b"RIFF" or length in (0, 2**32 - 1):  # unknown: it was recorded live
            return False
        at += 8 + length + length % 2
    return at > size + 1


def _segment_passes(file: BinaryIO, head: bytes, size: int) -> bool:
    """The segment of Matroska and WebM; of unknown size the elements in it."""
    at, depth = 0, 0
    while at < size and depth < 2**20:
        start = _at(file, at, 12)
        width = 9 - start[0].bit_length()  # of the id
        bits = 9 - start[width].bit_length()  # bytes of the size
        stored = int.from_bytes(start[width : width + bits], "big")
        length = stored - (1 << 7 * bits)
        at, depth = at + width + bits, depth + 1
        if length == (1 << 7 * bits) - 1:  # unknown: go into it
            continue
        if bits > 8 or width > 4:
            return False
        at += length
    return at > size


def _ogg_has_no_end(file: BinaryIO, head: bytes, size: int) -> bool:
    """The last page of Ogg is whole, and marked as the end of its stream."""
    tail = _at(file, max(0, size - _TAIL), _TAIL)
    at = tail.rfind(b"OggS")
    flags, segments = tail[at + 5], tail[at + 26]
    lengths = tail[at + 27 : at + 27 + segments]
    is_whole = len(lengths) == segments and at + 27 + segments + sum(lengths) <= len(tail)
    return not (is_whole and flags & 4)


def _flv_tail_is_torn(file: BinaryIO, head: bytes, size: int) -> bool:
    """The file ends with the size of its last tag."""
    length = struct.unpack(">I", _at(file, size - 4, 4))[0]
    tag = _at(file, max(0, size - 4 - length), 11)
    return length < 11 or tag[0] & 31 not in _FLV_TAGS or int.from_bytes(tag[1:4]) != length - 11


def _asf_is_shorter(file: BinaryIO, head: bytes, size: int) -> bool:
    at = head.find(_ASF_FILE)
    if at < 0:
        return False
    stated = struct.unpack_from("<Q", head, at + 40)[0]
    is_live = struct.unpack_from("<I", head, at + 88)[0] & 1
    return not is_live and stated > size


def _ivf_passes(file: BinaryIO, head: bytes, size: int) -> bool:
    at = struct.unpack_from("<H", head, 6)[0]
    while at < size:
        at += 12 + struct.unpack("<I", _at(file, at, 4))[0]
    return at > size


def _y4m_has_a_part(file: BinaryIO, head: bytes, size: int) -> bool:
    line = head.partition(b"\n")[0].decode("ascii", "replace")
    said = {word[0]: word[1:] for word in line.split()[1:]}
    kind = said.get("C", "420")
    if kind[:3] not in (*_COARSER, "mon") or "alpha" in kind:
        return False
    width, height = int(said["W"]), int(said["H"])
    planes = width * height
    if kind[:3] in _COARSER:
        across, down = _COARSER[kind[:3]]
        planes += 2 * -(-width // across) * -(-height // down)
    deep = 2 if re.search(r"p1[0-6]$|mono1[0-6]$|p9$|mono9$", kind) else 1
    return (size - len(line) - 1) % (len(b"FRAME\n") + planes * deep) != 0


def _gif_has_no_end(file: BinaryIO, head: bytes, size: int) -> bool:
    return not _at(file, max(0, size - 64), 64).rstrip(b"\0").endswith(b";")


def _packs_pass(file: BinaryIO, head: bytes, size: int) -> bool:
    """Packets of MPEG-PS from the last pack on."""
    start = max(0, size - _TAIL)
    tail = _at(file, start, _TAIL)
    at = tail.rfind(b"\0\0\1\xba")
    while 0 <= at < len(tail):
        if at + 4 > len(tail):
            return True
        code = tail[at + 3] if tail[at : at + 3] == b"\0\0\1" else -1
        if code == 0xBA:  # a pack: of MPEG-2, or of MPEG-1
            at += 14 + (tail[at + 13] & 7) if tail[at + 4] >> 6 == 1 else 12
        elif code == 0xB9:
            return False
        elif code >= 0xBB:
            at += 6 + struct.unpack_from(">H", tail, at + 4)[0]
        else:
            return False  # filling after the end
    return at > len(tail)


def _packets_are_torn(file: BinaryIO, head: bytes, size: int) -> bool:
    """Packets of MPEG-TS, which have 188 bytes, or 4 more before or 16 more after them."""
    for length, first in ((188, 0), (192, 4), (204, 0)):
        places = range(first, min(len(head), 20 * length), length)
        if len(places) > 1 and all(head[at] == _TS for at in places):
            return size % length != 0
    return False
