"""Files that hold files: WebDataset tars and Parquet.

In a tar, files whose names agree up to the first dot are a sample. Every picture, clip or scan in
it is an item; a sample without any is an item that failed. Other files of a sample are not read.
"""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from regard.bulk.filesystem import Place
from regard.errors import DatasetError, MediaError, MissingExtra
from regard.media.find import medium_by_name

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")

_BUFFER = 2**22  # bytes per read
_NO_MEDIA = "its sample holds no picture, clip or scan."
_FAULTS = (tarfile.TarError, OSError, EOFError, zlib.error)


def parts_of_tar(place: Place, path: str, size: int) -> Iterator[tuple[int, int | None]]:
    """Yield runs of whole samples: the byte where each starts, and its number of items.

    Only headers are read, and only of local uncompressed tars. Elsewhere each header would be a
    request of its own, and a compressed tar can only be read from its start. Such a tar is one run
    of an unknown number of items.

    Args:
        place: file system of the tar.
        path: of the tar.
        size: number of items after which a run ends with its sample.
    """
    if not place.is_local or not path.lower().endswith(".tar"):
        yield 0, None
        return
    begun, count = 0, 0
    try:
        with place.open(path) as raw, tarfile.open(fileobj=raw, mode="r:") as tar:
            for _, begins, _ in _items(tar):
                if begins is not None and count >= size:
                    yield begun, count
                    begun, count = begins, 0
                count += 1
    except _FAULTS:
        yield begun, None  # the error is reported when the items are read
        return
    if count:
        yield begun, count


def files_of_tar(
    place: Place, path: str, at: int, count: int | None
) -> Iterator[tuple[str, bytes | None, str]]:
    """Yield the name of each item of a run, its bytes, and the reason if it failed, else "".

    A damaged tar ends with an item that failed.

    Args:
        place: file system of the tar.
        path: of the tar.
        at: the byte where the run starts.
        count: number of items; None: to the end.
    """
    name, found = place.url(path), 0
    mode = "r|" if path.lower().endswith(".tar") else "r|gz"
    try:
        with place.open(path) as raw:
            raw.seek(at)
            # tarfile's own buffer copies all its remaining bytes at every read.
            buffered = io.BufferedReader(cast("io.RawIOBase", raw), _BUFFER)
            with tarfile.open(fileobj=buffered, mode=mode) as tar:
                for member, _, fault in _items(tar):
                    content = None if fault else _content(tar, member)
                    found += 1
                    yield f"{name}#{member.name}", content, fault
                    if found == count:
                        return
    except _FAULTS as error:
        yield name, None, f"the tar is damaged after {found} items: {error or 'it ends'}."


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file: BinaryIO | None = tar.extractfile(member)  # type: ignore[assignment]
    content = file.read() if file else b""
    if len(content) < member.size:
        raise EOFError(f"{member.name} has {len(content)} of {member.size} bytes")
    return content


def _items(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, int | None, str]]:
    """Yield a member for each item, where its sample starts, and the reason if it failed.

    The start of the sample is given with its first item only, else it is None.
    """
    first: tarfile.TarInfo | None = None
    key, items = "", 0
    while (member := tar.next()) is not None:
        tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # else all are kept
        base = os.path.basename(member.name)
        if member.isdir() or base.startswith((".", "__")):
            continue
        own = os.path.join(os.path.dirname(member.name), base.split(".")[0])
        if first is None or own != key:
            if first is not None and not items:
                yield first, first.offset, _NO_MEDIA
            key, first, items = own, member, 0
        if medium_by_name(member.name) is not None:
            items += 1
            fault = "" if member.isreg() else "it is a link or a device; a file was expected."
            yield member, first.offset if items == 1 else None, fault
    if first is not None and not items:
        yield first, first.offset, _NO_MEDIA


FILE_COLUMNS = ("file", "path", "url", "image", "filename", "file_name")
"""Columns that may name files; the first of them in a list is used."""
_COLUMNS = ("image", "bytes", "jpg", "jpeg", "png", "video", "mp4", "nii", *FILE_COLUMNS)
"""Columns of Parquet that may hold or name files; likewise."""

_ROWS_AT_ONCE = 64


def chosen_column(
    names: Iterable[str], column: str | None, usual: tuple[str, ...], source: str
) -> str:
    """Return the column to read: `column` if given, else the first usual one.

    Raises:
        DatasetError: there is no such column.
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
    """Yield runs of rows: column, row group, first row in the group and in the file, length.

    Args:
        place: file system of the file.
        path: of the file.
        size: largest number of rows of a run; a run lies in one row group.
        column: to read; None: the first usual one.

    Raises:
        DatasetError: there is no such column.
        MediaError: the file is not Parquet.
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
    """Yield the bytes or path of each row of a run, or None, and the name of its file.

    The rows of the group before the run are read as well: they lie in the same pages.

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
    if isinstance(value, dict):  # {"bytes": ..., "path": ...}, as Hugging Face data sets have it
        name = value.get("path") or ""
        value = value.get("bytes") or value.get("path")
    if value is None or isinstance(value, bytes | str):
        return value or None, name
    raise MediaError(
        f"the column {column!r} holds {type(value).__name__}; bytes or paths were expected."
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
