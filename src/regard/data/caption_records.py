"""Records of caption files: what keys mean, rows of tables, and files by nearly their names."""

from __future__ import annotations

import io
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from regard.data.dataset import LineFault, Row, delimiter_of, texts_in
from regard.media import is_there
from regard.media.find import medium_by_name, special_kind
from regard.util.safe_io import check_columns, csv_records

FILE_KEYS = (
    *("file", "image", "img", "photo", "video", "clip", "scan", "path"),
    *("filename", "file_name", "filepath", "file_path", "image_name", "img_name", "image_file"),
    *("image_path", "img_path", "video_name", "video_path"),
)
CAPTION_KEYS = (
    *("caption", "captions", "text", "sentence", "sentences", "description", "descriptions"),
    "comment",
)
_SPLIT_KEYS = ("split",)
_NO_FILE = "it names no file"


class Keys(NamedTuple):
    """The keys of a record that name its file, its caption and its split ("" if none does)."""

    file: str
    caption: str
    split: str


def plain_key(name: str) -> str:
    """Return a key without its spelling: "File Name" and "file-name" are "file_name"."""
    return re.sub(r"[\s-]+", "_", _visible(name).strip("\"'").casefold())


@lru_cache(maxsize=256)
def keys_of(names: tuple[str, ...], expected: str = "file, caption") -> Keys:
    """Return the keys that name file, caption and split.

    Raises:
        ValueError: a key is missing, occurs twice, or could be either of two.
    """
    found = [_key(names, known) for known in (FILE_KEYS, CAPTION_KEYS, _SPLIT_KEYS)]
    if not found[0] or not found[1]:
        raise ValueError(f"has {', '.join(names) or 'nothing'}; expected {expected}")
    return Keys(*found)


def _key(names: tuple[str, ...], known: tuple[str, ...]) -> str:
    """Return the name that has a meaning; that which is written as in our own files wins."""
    fitting = [name for name in names if plain_key(name) in known]
    own = [name for name in fitting if plain_key(name) == known[0]]
    chosen = own or fitting
    if len(chosen) > 1:
        raise ValueError(
            f"has {' and '.join(chosen)}, and each could be the {known[0]}; keep one of them, or "
            f"call one {known[0]}"
        )
    return chosen[0] if chosen else ""


def file_of(record: Any, expected: str) -> str:
    """Return the file that an entry names.

    Raises:
        ValueError: it names none.
    """
    if not isinstance(record, dict):
        raise ValueError(f"it is {record!r:.200}; expected an object with {expected}")
    key = _key(tuple(record), FILE_KEYS)
    if not key:
        raise ValueError(f"has {', '.join(record) or 'nothing'}; expected {expected}")
    file = text_of_entry(record[key], key)
    if not file.strip():
        raise ValueError(_NO_FILE)
    return file


def text_of_entry(value: Any, what: str) -> str:
    """Return a value that must be a text.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str):
        raise ValueError(f"{what} is {value!r:.200}; expected a text")
    return value


def rows_of(record: Any, where: int | str) -> Iterator[Row | LineFault]:
    """Yield the captions of an object with a file and one or several captions."""
    if not isinstance(record, dict):
        yield LineFault(where, f"{record!r:.200} is not an object with file and caption")
        return
    try:
        keys = keys_of(tuple(record))
        file: Any = record[keys.file]
        value: Any = record[keys.caption]
        split = record.get(keys.split)
        many = isinstance(value, list) or plain_key(keys.caption).endswith("s")
        texts: list[Any] = texts_in(value, f"the captions of {file}") if many else [value]
    except (ValueError, TypeError) as error:
        yield LineFault(where, str(error))
        return
    if not all(isinstance(text, str) for text in (file, split or "", *texts)):
        yield LineFault(where, f"file, caption and split must be texts; got {record!r:.200}")
        return
    if not file.strip():
        yield LineFault(where, _NO_FILE)
        return
    yield from (Row(file, text, split or "") for text in texts or [""])


# Tables


def is_table(header: str) -> bool:
    """Return whether a line is the header of a table of files and captions."""
    cells = tuple(header.split(delimiter_of(header)))
    try:
        return bool(keys_of(cells))
    except ValueError:
        return False


def table_rows(text: str) -> Iterator[Row | LineFault]:
    """Yield the rows of a table with a header; a faulty line leaves the others."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    told = re.fullmatch(r"sep=(.)\s*", first)  # Excel's own line
    delimiter = told.group(1) if told else delimiter_of(first)
    width, place = 0, 0

    def like_a_row(cells: list[str]) -> bool:
        return len(cells) == width and medium_by_name(cells[place].strip()) is not None

    lines = io.StringIO(text, newline="")
    records = csv_records(lines, delimiter, like_a_row=like_a_row)
    number, names = next(records, (1, []))
    if told:
        number, names = next(records, (1, []))
    try:
        if isinstance(names, str):
            raise ValueError(names)
        check_columns(names)
        keys = keys_of(tuple(names))
    except ValueError as error:
        what = str(error)
        if what.startswith("has ") and "expected" in what:
            what = f"the columns are {', '.join(names)}; expected file, caption[, split]"
        yield LineFault(number, what.removeprefix("has "))
        return
    width, place = len(names), names.index(keys.file)
    columns = [names.index(name) if name else -1 for name in keys]
    for number, cells in records:
        if isinstance(cells, str):
            yield LineFault(number, cells)
        elif any(map(str.strip, cells[width:])):
            what = f"more fields than columns; put quotes around a caption with {delimiter!r} in it"
            yield LineFault(number, what)
        elif len(cells) <= max(columns[:2]):
            yield LineFault(number, f"fewer fields than columns in {delimiter.join(cells)!r:.100}")
        elif not cells[place].strip():
            yield LineFault(number, _NO_FILE)
        else:
            yield Row(*(cells[at] if 0 <= at < len(cells) else "" for at in columns))


# Captions

ODD_CAPTIONS = {
    "empty caption": "that hold no word",
    "placeholder": "that are placeholders of a spreadsheet or program",
    "list as text": "that are lists written as text",
}
"""What is said of captions by the kind of their oddity."""
_PLACEHOLDER = re.compile(
    r"nan|nat|n/?a|none|null|nil|undefined|todo|tbd|<na>|<unk>|"
    r"#(n/a|ref!|value!|name\?|div/0!|num!|null!|spill!|error!)",
    re.IGNORECASE,
)
_LIST = re.compile(
    r"""\[\s*['"\u201c].*['"\u201d]\s*\]|\{\s*['"].*:.*\}|\[\s*\{.*\}\s*\]|\[\s*\]""", re.S
)


def odd_caption(caption: str) -> str:
    """Return one of `ODD_CAPTIONS` for a text that is hardly a caption; else "".

    >>> [odd_caption(text) for text in ("a dog", "...", "#N/A", "['a dog', 'two']")]
    ['', 'empty caption', 'placeholder', 'list as text']
    """
    text = caption.strip()
    if _PLACEHOLDER.fullmatch(text):
        return "placeholder"
    if _LIST.fullmatch(text):
        return "list as text"
    return "" if any(map(str.isalnum, text)) else "empty caption"


# Names


class FileNames:
    """The files of a folder, by exactly or nearly their names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listed: dict[str, tuple[frozenset[str], dict[str, list[str]]]] = {}
        self._stems: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str) -> tuple[str, str]:
        """Return the path of a file, and how its name differs; "" if it does not or is missing.

        Letter case, composed letters (NFC or NFD), spaces at the ends, invisible characters and
        backslashes make no difference if exactly one file fits.
        """
        path = self._folder / name
        if path.name in self._names(str(path.parent))[0] or is_there(str(path)):
            return str(path), ""
        found = self._near(name)
        return (found, difference(name, found)) if found else (str(path), "")

    def _near(self, name: str) -> str:
        absolute = os.path.isabs(name)
        place = os.path.dirname(name) if absolute else str(self._folder)
        for part in [os.path.basename(name)] if absolute else re.split(r"[/\\]", name):
            names, plain = self._names(place)
            if part not in names and part not in ("", ".", ".."):
                fitting = plain.get(_plain(part), [])
                if len(fitting) != 1:
                    return ""
                part = fitting[0]
            place = os.path.join(place, part)
        return place if is_there(place) else ""

    def fitting(self, path: str) -> list[str]:
        """Return the names of the files beside a missing one that its name could mean."""
        folder, name = os.path.split(path)
        _, plain = self._names(folder)
        if folder not in self._stems:
            stems = self._stems[folder] = {}
            for key, names in plain.items():
                stems.setdefault(os.path.splitext(key)[0], []).extend(names)
        near = self._stems[folder].get(os.path.splitext(_plain(name))[0], [])
        return [other for other in plain.get(_plain(name), []) or near if other != name]

    def _names(self, folder: str) -> tuple[frozenset[str], dict[str, list[str]]]:
        """Return the names in a folder, and the same by their plain form."""
        if folder not in self._listed:
            try:
                names = os.listdir(folder or ".")
            except OSError:
                names = []
            plain: dict[str, list[str]] = {}
            for name in names:
                plain.setdefault(_plain(name), []).append(name)
            self._listed[folder] = frozenset(names), plain
        return self._listed[folder]


def _visible(name: str) -> str:
    """Return a name without invisible characters and without spaces at its ends."""
    kept = (c for c in name if unicodedata.category(c) not in ("Cf", "Cc"))
    spaced = (" " if unicodedata.category(c) == "Zs" else c for c in kept)
    return "".join(spaced).strip()


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", _visible(name)).casefold())


def difference(written: str, found: str) -> str:
    """Return how a name differs from that of the file that was found for it."""
    found = found[-len(written) :] if os.path.isabs(written) else found
    real = os.path.basename(found)
    said: list[str] = []
    if "\\" in written and "\\" not in found:
        said.append("backslashes")
    written = re.split(r"[/\\]", written)[-1]
    if written != written.strip() or real != real.strip():
        said.append("spaces at its ends")
    for letter in sorted(set(written) ^ set(real)):
        if unicodedata.category(letter) in ("Cf", "Cc") or (
            unicodedata.category(letter) == "Zs" and letter != " "
        ):
            name = unicodedata.name(letter, "control character").lower()
            said.append(f"the invisible character U+{ord(letter):04X} ({name})")
    ours, theirs = _visible(written), _visible(real)
    if ours != theirs:
        same = unicodedata.normalize("NFC", ours) == unicodedata.normalize("NFC", theirs)
        other = ours.casefold() == theirs.casefold()
        said += [] if other else ["composed and decomposed letters (NFC, NFD)"]
        said += [] if same else ["letter case"]
    return ", ".join(dict.fromkeys(said)) or "letter case"


def missing_files(source: str, missing: Sequence[str], total: int) -> str:
    """Return a sentence on files that are missing, with a hint at what the first could be."""
    first = f"{missing[0]!r}{near_hint(missing[0])}"
    forgotten = "Did you forget --images, or does it name another folder?"
    if len(missing) < total or total == 1:
        advice = "`regard data check` lists them all." if total > 1 else forgotten
        return (
            f"{len(missing)} of {total} files of {source} are missing, the first: {first}. {advice}"
        )
    return (
        f"{source} names {total} files, and none of them exists; the first would be {first}. "
        f"{forgotten}"
    )


def near_hint(path: str, files: FileNames | None = None) -> str:
    """Return what else a missing file is, or which files beside it are nearly called so, or ""."""
    if kind := special_kind(path):
        return f" (it is a {kind})"
    name = os.path.basename(path)
    fitting = (files or FileNames(Path())).fitting(path)
    shown = [f"{other!r} ({difference(name, other)})" if _plain(other) == _plain(name) else
             f"{other!r} (another suffix)" for other in fitting[:3]]  # fmt: skip
    return f"; its folder has {' and '.join(shown)}" if shown else ""


def counted(what: str, names: Iterable[str], more: int = 3) -> str:
    """Return "WHAT: 3, such as A, B, C"; "" of no names."""
    names = list(names)
    return f"{what}: {len(names)}, such as {', '.join(names[:more])}" if names else ""
