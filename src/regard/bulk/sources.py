"""Sources and their units: runs of items that are captioned, written and resumed together.

A source is a folder, a pattern, a list of files, a Parquet file or a WebDataset tar, or a folder or
pattern of these. The order of its items is fixed: that of sorted paths, lines, rows or members.
Each list is read once, and only the names of one folder are held in memory.
"""

import glob
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from regard.bulk import containers
from regard.bulk.containers import FILE_COLUMNS, TAR_SUFFIXES, Named, Unit, chosen_column
from regard.bulk.filesystem import Entry, Place, Places, shown
from regard.data.dataset import delimiter_of
from regard.errors import ConfigError, DatasetError
from regard.media.find import FolderSearch, Report, medium_by_name, regular, series_in
from regard.types.media import DICOM_SUFFIXES
from regard.util.safe_io import check_columns, csv_records, json_of

PLAN = "_plan.json"
"""A folder with this file holds rows of a job, and is skipped inside a source."""
_LINE = 2**20  # characters of a line that are read
LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson")


def units_of(
    source: str,
    places: Places,
    *,
    size: int,
    column: str | None = None,
    report: Report | None = None,
) -> Iterator[Unit]:
    """Yield the units of a source, always the same ones for the same source.

    Args:
        source: a path or URL.
        places: opens it.
        size: largest number of items of a unit, where items can be counted without reading them.
        column: column of a list or Parquet file, that names or holds the files; None: a usual one.
        report: receives lines about the files of a folder that are left out.

    Raises:
        ConfigError: the source does not exist, or holds nothing to caption.
        DatasetError: a list lacks the column.
        MissingExtra: a Parquet file or file system needs pyarrow.
    """
    packer = _Packer(size)
    place, path = places.find(source)
    lists = path.lower().endswith(LIST_SUFFIXES)  # lists matched by other patterns are not read
    for found in _expanded(place, path, report):
        name = found.path.lower()
        if name.endswith(".parquet"):
            yield from packer.rest()
            yield from containers.units_of_parquet(place, found, size, column)
        elif name.endswith(TAR_SUFFIXES):
            yield from packer.rest()
            yield from containers.units_of_tar(place, found, size)
        elif lists and name.endswith(LIST_SUFFIXES):
            yield from packer.rest()
            for number, entry in enumerate(_listed(place, found, column), 1):
                yield from packer.add(entry, file=found.path, number=number, column=column)
            yield from packer.rest()
        elif place.is_local or not name.endswith(tuple(DICOM_SUFFIXES)):
            yield from packer.add((found.path, ""), found.size)
        else:
            reason = "a DICOM series is read from a folder of this machine only. Copy it to one."
            yield from packer.add((found.path, reason), found.size)
    yield from packer.rest()


class _Packer:
    """Packs files into units."""

    def __init__(self, size: int) -> None:
        self._limit, self._entries, self._bytes, self._file = size, list[Named](), 0, ""
        self._number, self._column = 0, ""

    def add(
        self,
        entry: Named,
        size: int | None = None,
        file: str = "",
        number: int = 0,
        column: str | None = None,
    ) -> Iterator[Unit]:
        """Add an entry; the last three are its list, its number there, and the list's column."""
        if not self._entries:
            self._number, self._column = number, column or ""
        self._entries.append(entry)
        self._bytes += size or 0
        self._file = file
        if len(self._entries) == self._limit:
            yield from self.rest()

    def rest(self) -> Iterator[Unit]:
        if self._entries:
            kind = "listed" if self._file else "files"
            entries = tuple(self._entries)
            unit = Unit(kind, self._bytes, len(entries), entries, self._file)
            if self._file:
                clean = _cleaned(entries)
                if clean != entries:
                    unit = replace(unit, entries=clean, hidden=self._number, column=self._column)
            yield unit
            self._entries, self._bytes = [], 0


def _cleaned(entries: Iterable[Named]) -> tuple[Named, ...]:
    return tuple((shown(name), reason) for name, reason in entries)


def entries_of(unit: Unit, place: Place) -> tuple[Named, ...]:
    """Return the entries of a listed unit with their secrets, which the plan leaves out.

    Raises:
        ConfigError: the list has changed since.
    """
    if not unit.hidden:
        return unit.entries
    found = _listed(place, Entry(unit.file, False, None), unit.column or None)
    start = unit.hidden - 1
    entries = tuple(islice(found, start, start + len(unit.entries)))
    if _cleaned(entries) != unit.entries:
        raise ConfigError(
            f"{place.url(unit.file)} has changed since the job was started. Name another folder "
            "for the rows of the new list."
        )
    return entries


def _expanded(place: Place, path: str, report: Report | None) -> Iterator[Entry]:
    """Yield the files of a source; in a folder only media and containers."""
    found = place.info(path)
    if found is not None and not found.is_folder:
        yield found
        return
    search = FolderSearch(place.url(path), report, is_local=place.is_local)
    matches = _walk(place, path, search) if found else _matches(place, path, report)
    empty = True
    for entry in matches:
        empty = False
        yield entry
    if empty:
        what = "holds nothing" if found else "is not there, and as a pattern matches nothing"
        raise ConfigError(
            f"{place.url(path)} {what} to caption. Name a folder or pattern of pictures, clips, "
            f"scans, .tar or .parquet files, or a list ({', '.join(LIST_SUFFIXES)})."
        )
    search.finish()


def _walk(place: Place, folder: str, search: FolderSearch) -> Iterator[Entry]:
    if place.info(os.path.join(folder, PLAN)) is not None:
        return
    for entry in _entries(place, folder):
        if entry.is_folder:
            is_link = place.is_local and os.path.islink(entry.path)
            if not is_link or search.enters(entry.path):
                yield from _walk(place, entry.path, search)
        elif entry.path.lower().endswith((".parquet", *TAR_SUFFIXES)) or search.takes(entry.path):
            yield entry
    if place.is_local:
        for number in series_in(folder):
            yield Entry(f"{folder}#{number}" if number else folder, False, None)


def _entries(place: Place, folder: str) -> Iterator[Entry]:
    try:
        yield from place.entries(folder)
    except PermissionError as error:
        raise ConfigError(f"{place.url(folder)} cannot be listed: {error.strerror}.") from error


def _matches(place: Place, pattern: str, report: Report | None) -> Iterator[Entry]:
    if not glob.has_magic(pattern):
        return
    if place.is_local:
        for path in regular(sorted(glob.iglob(pattern, recursive=True)), report):
            written = os.path.exists(os.path.join(os.path.dirname(path), PLAN))
            if not written and (entry := place.info(path)) and not entry.is_folder:
                yield entry
        return
    wanted = re.compile(_expression(pattern))
    search = FolderSearch(fixed_folder(pattern), is_local=False)
    for entry in _walk(place, fixed_folder(pattern), search):
        if wanted.fullmatch(entry.path):
            yield entry


def fixed_folder(pattern: str) -> str:
    """Return the folder that all matches of a pattern lie in; "" is the current one."""
    return re.split(r"[*?\[]", pattern)[0].rpartition("/")[0]


def _expression(pattern: str) -> str:
    """Return a pattern as a regular expression: only `**` matches slashes."""
    kinds = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    made = ""
    for part in parts:
        if part.startswith("["):
            made += part.replace("[!", "[^", 1)
        else:
            made += kinds.get(part) or re.escape(part)
    return made


def _listed(place: Place, found: Entry, column: str | None) -> Iterator[Named]:
    """Yield the entries of a list; an empty line is an item that failed."""
    with place.open(found.path) as raw:
        text = io.TextIOWrapper(raw, "utf-8-sig", "surrogateescape", newline="")
        name = place.url(found.path)
        suffix = os.path.splitext(found.path.lower())[1]
        if suffix in (".csv", ".tsv"):
            yield from _rows(text, name, column, tabs=suffix == ".tsv")
            return
        for number, line in enumerate(_lines(text), 1):
            line = line.strip("\r\n")
            if len(line) >= _LINE:
                yield f"{name}#{number}", f"the line has {_LINE:,} characters or more."
            elif suffix == ".txt" and line.strip():
                yield line, ""
            elif line.strip():
                yield _object(line, f"{name}#{number}", column)


def _rows(text: Any, name: str, column: str | None, *, tabs: bool) -> Iterator[Named]:
    lines = _lines(text)
    first = next(lines, "")
    delimiter = "\t" if tabs else delimiter_of(first)
    width, at = 0, 0

    def like_a_row(cells: list[str]) -> bool:
        return len(cells) == width and medium_by_name(cells[at].strip()) is not None

    records = csv_records(chain([first], lines), delimiter, like_a_row=like_a_row)
    number, names = next(records, (1, []))
    try:
        if isinstance(names, str):
            raise ValueError(names)
        check_columns(names)
    except ValueError as error:
        raise DatasetError(f"{name} line {number}: {error}.") from error
    width, at = len(names), names.index(chosen_column(names, column, FILE_COLUMNS, name))
    for number, cells in records:
        if isinstance(cells, str):
            yield f"{name}#{number}", f"{cells}."
        elif at < len(cells) and cells[at]:
            yield cells[at], ""
        else:
            yield f"{name}#{number}", f"its column {names[at]!r} is empty."


def _lines(text: Any) -> Iterator[str]:
    """Yield the lines of a list; one that is too long is cut."""
    while line := text.readline(_LINE):
        yield line
        while len(line) == _LINE and not line.endswith(("\n", "\r")):
            line = text.readline(_LINE)


def _object(line: str, name: str, column: str | None) -> Named:
    try:
        values = json_of(line)
        file = next(values[c] for c in ([column] if column else FILE_COLUMNS) if c in values)
    except (ValueError, TypeError, StopIteration, RecursionError):
        file = None
    if isinstance(file, str) and file:
        return file, ""
    wanted = column or FILE_COLUMNS[0]
    return name, f'this line names no file; {{"{wanted}": "photo.jpg"}} was expected.'
