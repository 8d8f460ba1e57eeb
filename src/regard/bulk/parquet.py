"""Parquet files whose rows hold files, or name them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from regard.bulk.filesystem import Place
from regard.errors import DatasetError, MediaError, MissingExtra

FILE_COLUMNS = ("file", "path", "url", "image", "filename", "file_name")
"""Columns that name files, the first of them that a list has."""
_COLUMNS = ("image", "bytes", "jpg", "jpeg", "png", "video", "mp4", "nii", *FILE_COLUMNS)
"""Columns that hold or name them, likewise."""

_ROWS_AT_ONCE = 64


def chosen_column(
    names: Iterable[str], column: str | None, usual: tuple[str, ...], source: str
) -> str:
    """Return the column to read: the one that was asked for, else the first usual one.

    Raises:
        DatasetError: there is none.
    """
    names = list(names)
    for name in [column] if column else usual:
        if name in names:
            return name
    asked = f"no column {column!r}" if column else f"none of the columns {', '.join(usual)}"
    raise DatasetError(
        f"{source} has {asked}. It has {', '.join(map(str, names)) or 'none'}: name one of them "
        "by --column."
    )


def parts_of_parquet(
    place: Place, path: str, size: int, column: str | None
) -> Iterator[dict[str, Any]]:
    """Yield runs of rows by their column, row group, place in it, number in the file and length.

    Args:
        place: of the file.
        path: there.
        size: most rows of a run; none goes over two row groups.
        column: that is read; None: a usual one.

    Raises:
        DatasetError: there is no such column.
        MediaError: it is no Parquet file.
        MissingExtra: pyarrow is not installed.
    """
    with _opened(place, path) as file:
        column = chosen_column(file.schema_arrow.names, column, _COLUMNS, place.url(path))
        first = 0
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            for at in range(0, rows, size):
                yield {
                    "column": column, "group": group, "at": at, "first": first + at,
                    "count": min(size, rows - at),
                }  # fmt: skip
            first += rows


def values_of_parquet(
    place: Place, path: str, column: str, group: int, at: int, count: int
) -> Iterator[tuple[bytes | str | None, str]]:
    """Yield the bytes or path of each row of a run, None where there is none, and its file's name.

    The rows of the group before the run are read, too: they lie in the same pages.

    Raises:
        MediaError: the file is damaged, or its column holds neither bytes nor paths.
    """
    with _opened(place, path) as file:
        seen = 0
        for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[column]):
            past = max(0, at - seen)
            wanted = batch.slice(past, max(0, min(len(batch), at + count - seen) - past))
            for value in wanted.column(0):
                yield _value(value.as_py(), column)
            seen += len(batch)
            if seen >= at + count:
                return


def _value(value: Any, column: str) -> tuple[bytes | str | None, str]:
    name = ""
    if isinstance(value, dict):  # the bytes and the name of a picture, as data sets store it
        name = value.get("path") or ""
        value = value.get("bytes") or value.get("path")
    if value is None or isinstance(value, bytes | str):
        return value or None, name
    raise MediaError(
        f"the column {column!r} holds {type(value).__name__}; bytes or paths were wanted."
    )


@contextmanager
def _opened(place: Place, path: str) -> Generator[Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "bulk", "reading and writing Parquet") from error
    try:
        with place.open(path) as raw, parquet.ParquetFile(raw) as file:
            yield file
    except (OSError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise MediaError(f"{place.url(path)} cannot be read as Parquet: {reason}") from error
