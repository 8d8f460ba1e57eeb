"""Units of work, and the files that hold files: WebDataset tars and Parquet.

A unit is a run of items that are captioned, written and resumed together.

In a tar, files whose names agree up to the first dot are a sample. Every picture, clip or scan in
it is an item; a sample without any is an item that failed. Other files of a sample are not read.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, cast

from regard.bulk.filesystem import Entry, Place
from regard.data.tar_samples import member_content, member_fault, next_member, open_tar
from regard.errors import DatasetError, MediaError, RegardError, needs_extra
from regard.media.find import medium_by_name

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")

_BUFFER = 2**22  # bytes per read
_NO_MEDIA = "its sample holds no picture, clip or scan."

Named = tuple[str, str]
"""The name of an item, and the reason why it cannot be captioned, or ""."""


@dataclass(frozen=True)
class Unit:
    """A run of items.

    Attributes:
        kind: "files" of a folder, "listed" files, "tar" or "parquet".
        size: bytes of its files, 0 where unknown; changes of a source show in it.
        count: number of items; None where it is unknown before they are read.
        entries: files and listed: path, or the entry of the list, and the reason why it cannot be
            captioned, or "".
        file: listed, tar and parquet: path of the list, tar or Parquet file.
        at: tar: the byte where the first member starts; parquet: the first row in the group.
        group: parquet: the row group.
        first: parquet: the number of the first row in the file.
        column: parquet, and listed with `hidden`: the column to read.
        hidden: listed: the number of its first entry in the list, from 1, if entries hold secrets.
            The plan leaves those out, and workers read the list for them; otherwise 0.
    """

    kind: str
    size: int = 0
    count: int | None = None
    entries: tuple[Named, ...] = ()
    file: str = ""
    at: int = 0
    group: int = 0
    first: int = 0
    column: str = ""
    hidden: int = 0

    def to_json(self) -> str:
        """Return one line of JSON; file names that are not UTF-8 are kept."""
        values = {k: v for k, v in asdict(self).items() if v not in (0, "", ())}
        if self.entries:
            values["entries"] = [list(e) if e[1] else e[0] for e in self.entries]
        return json.dumps(values)

    @classmethod
    def from_json(cls, line: str | bytes) -> Unit:
        """Return the unit that `to_json` wrote."""
        values = json.loads(line)
        entries = tuple((e, "") if isinstance(e, str) else tuple(e) for e in values["entries"]) \
            if "entries" in values else ()  # fmt: skip
        return cls(**values | {"entries": entries})


def units_of_tar(place: Place, found: Entry, size: int) -> Iterator[Unit]:
    """Yield units of whole samples.

    Only headers are read, and only of local uncompressed tars. Elsewhere each header would be a
    request of its own, and a compressed tar can only be read from its start. Such a tar is one unit
    with an unknown number of items.

    Args:
        place: file system of the tar.
        found: the tar.
        size: number of items after which a unit ends with its sample.
    """

    def unit(at: int, count: int | None) -> Unit:
        return Unit("tar", found.size or 0, count, file=found.path, at=at)

    if not place.is_local or not found.path.lower().endswith(".tar"):
        yield unit(0, None)
        return
    start, count = 0, 0
    try:
        with place.open(found.path) as raw, open_tar(raw, "r:") as tar:
            for _, sample, _ in _items(tar):
                if sample is not None and count >= size:
                    yield unit(start, count)
                    start, count = sample, 0
                count += 1
    except Exception:  # tarfile raises almost anything
        yield unit(start, None)  # the error is reported when the items are read
        return
    if count:
        yield unit(start, count)


def files_of_tar(place: Place, unit: Unit) -> Iterator[tuple[str, bytes | None, str]]:
    """Yield the name of each item of a unit, its bytes, and the reason if it failed, else "".

    A damaged tar ends with an item that failed.
    """
    name, found = place.url(unit.file), 0
    mode = "r|" if unit.file.lower().endswith(".tar") else "r|gz"
    try:
        with place.open(unit.file) as raw:
            raw.seek(unit.at)
            # tarfile's own buffer copies all its remaining bytes at every read.
            buffered = io.BufferedReader(cast("io.RawIOBase", raw), _BUFFER)
            with open_tar(buffered, mode) as tar:
                for member, _, fault in _items(tar):
                    content = None if fault else member_content(tar, member)
                    found += 1
                    yield f"{name}#{member.name}", content, fault
                    if found == unit.count:
                        return
    except Exception as error:
        yield name, None, f"the tar is damaged after {found} items: {place.explain(error)}."


def _items(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, int | None, str]]:
    """Yield a member for each item, where its sample starts, and the reason if it failed.

    The start of the sample is given with its first item only, else it is None.
    """
    first: tarfile.TarInfo | None = None
    key, items = "", 0
    while (member := next_member(tar)) is not None:
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
            yield member, first.offset if items == 1 else None, member_fault(member)
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
        DatasetError: the column does not exist.
    """
    names = list(names)
    plain = {str(name).strip().casefold(): name for name in reversed(names)}
    for name in [column] if column else usual:
        if name in names:
            return name
        if not column and name in plain:
            return plain[name]
    asked = f"no column {column!r}" if column else f"none of the columns {', '.join(usual)}"
    raise DatasetError(
        f"{source} has {asked}. It has {', '.join(map(str, names)) or 'none'}: name one of them "
        "by --column."
    )


def units_of_parquet(place: Place, found: Entry, size: int, column: str | None) -> Iterator[Unit]:
    """Yield units of rows; a file that is not Parquet is one item that failed.

    Args:
        place: file system of the file.
        found: the file.
        size: largest number of rows of a unit, which lies in one row group.
        column: to read; None: the first usual one.

    Raises:
        DatasetError: the column does not exist.
        MissingExtra: pyarrow is not installed.
    """
    path, of_file, first = found.path, found.size or 0, 0
    try:
        with _opened(place, path) as file:
            column = chosen_column(file.schema_arrow.names, column, _COLUMNS, place.url(path))
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                for at in range(0, rows, size):
                    count = min(size, rows - at)
                    yield Unit("parquet", of_file, count, (), path, at, group, first + at, column)
                first += rows
    except MediaError as error:
        yield Unit("files", of_file, 1, ((path, str(error)),))


Value = bytes | str | None | Exception
"""The bytes or path of a row, or why it has none."""


def values_of_parquet(place: Place, unit: Unit) -> Iterator[tuple[Value, str]]:
    """Yield the bytes or path of each row of a unit, None, or an error; and its file's name.

    The rows of the group before the unit are read as well: they lie in the same pages.

    Raises:
        MediaError: the file is damaged.
    """
    assert unit.count is not None
    seen, end = 0, unit.at + unit.count
    with _opened(place, unit.file) as file:
        groups, columns = [unit.group], [unit.column]
        for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=groups, columns=columns):
            past = max(0, unit.at - seen)
            wanted = batch.slice(past, max(0, min(len(batch), end - seen) - past))
            for value in wanted.column(0):
                yield _value(value, unit.column)
            seen += len(batch)
            if seen >= end:
                return


def _value(scalar: Any, column: str) -> tuple[Value, str]:
    name = ""
    try:
        value = scalar.as_py()
    except Exception as error:  # text that is not UTF-8, a time out of range, ...
        return MediaError(f"its value cannot be read: {error}."), name
    if isinstance(value, dict):  # {"bytes": ..., "path": ...}, as Hugging Face data sets have it
        name = value.get("path") or ""
        value = value.get("bytes") or value.get("path")
    name = name if isinstance(name, str) else ""
    if value is None or isinstance(value, bytes | str):
        return value or None, name
    kind = type(value).__name__
    return MediaError(f"the column {column!r} holds {kind}; bytes or paths were expected."), name


@contextmanager
def _opened(place: Place, path: str) -> Generator[Any]:
    with needs_extra("pyarrow", "bulk", "reading and writing Parquet"):
        from pyarrow import parquet
    try:
        with place.open(path) as raw, parquet.ParquetFile(raw) as file:
            yield file
    except RegardError:
        raise
    except Exception as error:  # damage leads pyarrow into other errors than its own
        raise MediaError(
            f"{place.url(path)} cannot be read as Parquet: {place.explain(error)}"
        ) from error
