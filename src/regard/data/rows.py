"""What a reader of captions yields, one by one, whatever kind of file it reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One caption as a file of any kind gives it; "" where a picture has none."""

    file: str
    caption: str
    split: str


class LineFault(ValueError):
    """A line (or an entry, by its name) that cannot be used, where the others can."""

    def __init__(self, line: int | str, what: str) -> None:
        super().__init__(f"line {line}: {what}" if isinstance(line, int) else f"{line}: {what}")


Found = Row | LineFault | tuple[str, str, str]
"""A caption, a line that had to be skipped, or (what it is, its id, the picture)."""


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield numbered lines that hold something; a caption may hold U+2028 and its like."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.removesuffix("\r")


def delimiter_of(header: str) -> str:
    """Return what parts the columns of a table: comma, semicolon or tab, by its first line."""
    return max(",;\t", key=header.count)


def texts_in(value: Any, what: str) -> list[str]:
    """Return a list of texts as it is; a bare text would be taken apart into its letters.

    Args:
        value: what a file holds.
        what: it is, for the message.

    Raises:
        TypeError: it is no list, or holds something else.
    """
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise TypeError(f"{what} are {value!r:.200}; a list of texts was wanted")
    return value
