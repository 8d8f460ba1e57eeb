"""Ways to damage a file that know nothing of its format."""

from __future__ import annotations

import random
from collections.abc import Callable

SIZES = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
"""Values at which programs go wrong."""
_LONGEST = 64


def damaged(content: bytes, other: bytes, draw: random.Random) -> bytes:
    """Return a damaged copy.

    Args:
        content: a whole file.
        other: another one, for splices.
        draw: decides how.
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
    """Set a number to one at which programs go wrong, mostly in the header."""
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
