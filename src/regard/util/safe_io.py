"""Safe reading of untrusted text, JSON and CSV: bounded in size, from regular files only."""

import csv
import io
import json
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

MAX_BYTES = 2**28
"""Size of the largest text that is read: ten times the captions of COCO."""


class Unreadable(ValueError):
    """Raised when a text cannot be read or is not JSON; the message gives the reason."""


def text_of(path: Path) -> str:
    """Read a text file.

    Raises:
        Unreadable: it cannot be opened, is not a regular file (a pipe may never end), is too
            large, or is not UTF-8.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("it is not a regular file")
        if status.st_size > MAX_BYTES:
            raise Unreadable(f"it has {status.st_size} bytes; at most {MAX_BYTES} are read")
        return path.read_text("utf-8")
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise Unreadable(f"it is not UTF-8: {error}") from error
    except MemoryError as error:
        raise Unreadable("it does not fit into memory") from error


def json_of(text: str) -> Any:
    """Parse JSON.

    Raises:
        Unreadable: it is not JSON, nested too deeply, or an object has a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise Unreadable("it is nested too deeply") from error
    except ValueError as error:
        raise Unreadable(str(error)) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"{_twice(key for key, _ in pairs)}; keep one of them")
    return found


def _twice(names: Iterable[str]) -> str:
    """Return which name occurs twice; "" if none does."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return f"the key {name!r} occurs twice in one object"
        seen.add(name)
    return ""


def check_columns(names: Iterable[str]) -> None:
    """Check that no column of a table occurs twice; those without a name may.

    Raises:
        Unreadable: one does. Capitals and spaces make no difference.
    """
    names = list(names)
    plain = [name.strip().casefold() for name in names]
    for name in plain:
        if name and plain.count(name) > 1:
            raise Unreadable(
                f"the columns are {', '.join(names)}: {name!r} occurs {plain.count(name)} times. "
                "Rename or remove one"
            )


class _Replayed:
    """Lines that can be put back, except the first of them."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._again: deque[str] = deque()
        self.taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.taken.append(line)
        return line

    def put_back(self) -> None:
        """Put back all lines that were taken except the first."""
        self._again.extendleft(reversed(self.taken[1:]))
        self.taken = self.taken[:1]


def csv_records(
    lines: Iterable[str], delimiter: str = ",", *, like_a_row: Any = None
) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the number of the first line of each record, and its cells or what is wrong with it.

    A line with wrong quotes is one fault; reading continues with the next line. Blank lines are
    skipped.

    Args:
        lines: with their line ends.
        delimiter: between the cells.
        like_a_row: says whether the cells of a line look like a record of its own. A quote that
            is not closed makes such lines part of a cell.
    """
    source, number, more = _Replayed(lines), 1, True
    while more:
        reader = csv.reader(source, delimiter=delimiter, skipinitialspace=True, strict=True)
        more = False
        try:
            for cells in reader:
                if len(source.taken) > 1 and like_a_row is not None:
                    inner = csv.reader(source.taken[1:], delimiter=delimiter, skipinitialspace=True)
                    if any(map(like_a_row, inner)):
                        raise csv.Error("swallowed")
                if cells:
                    yield number, cells
                number += len(source.taken)
                source.taken = []
        except csv.Error as error:
            yield number, _wrong_quotes(source.taken, str(error))
            source.put_back()
            number += len(source.taken)
            source.taken, more = [], True


def _wrong_quotes(lines: list[str], error: str) -> str:
    first = lines[0].rstrip("\r\n")
    if "field limit" in error and len(lines) == 1:
        return f"a cell has more than {csv.field_size_limit():,} characters in {first!r:.100}"
    if "end of data" in error or len(lines) > 1:
        return f"a quote is opened and not closed in {first!r:.100}; close it, or write it twice"
    if "expected after" in error:
        return (
            f"text follows a closing quote in {first!r:.100}; put the whole text in quotes, and "
            'write a quote in it twice ("")'
        )
    return f"not CSV: {error}"


def table_of(text: str) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns of a table, and its rows by column; missing cells are empty.

    Raises:
        Unreadable: a column occurs twice, or the quotes of a line are wrong.
    """
    names: list[str] = []
    rows: list[dict[str, str]] = []
    for number, cells in csv_records(io.StringIO(text, newline="")):
        if isinstance(cells, str):
            raise Unreadable(f"line {number}: {cells}")
        if names:
            rows.append(dict.fromkeys(names, "") | dict(zip(names, cells, strict=False)))
        else:
            check_columns(cells)
            names = cells
    return names, rows
