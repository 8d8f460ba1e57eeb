"""Input and output of commands: sources, standard streams, and files that they replace.

Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from regard.errors import ConfigError, DatasetError, RegardError
from regard.util.safe_io import Unreadable, json_of, text_of
from regard.util.shown_text import printable, printable_json, without_secrets

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from regard.data import CaptionDataset

_TIMES = 10  # as fast, measured on two cores (docs/bulk.md)
_MANY = 500  # files, from which on a faster model saves minutes
_COUNT_BYTES = 8  # of "-2", "-3" ... after equal names
_DRAWN = (".gif", ".png", ".webp")
_NAME_BYTES = 255  # of a file on most file systems; some have fewer
# What is wrong with one file's name or place; everything else would stop the next file, too.
_OF_ONE_FILE = {errno.ENAMETOOLONG, errno.EISDIR, errno.EINVAL, errno.EILSEQ, errno.ELOOP}
_PIPE_WIDTH = 110  # of tables, where there is no terminal


def json_line(record: dict[str, Any]) -> None:
    """Write one record as one line of JSON to standard output."""
    utf8 = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    typer.echo(printable_json(json.dumps(record, ensure_ascii=not utf8)))


def say(text: object) -> None:
    """Write a line to standard output, without codes that change a terminal."""
    typer.echo(printable(str(text)))


def complain(error: Exception | str) -> None:
    """Write a message as one line to standard error."""
    typer.echo(
        f"regard: {printable(' '.join(without_secrets(str(error), sys.argv).split()))}", err=True
    )


def suggest_fast(model: str | None, files: int) -> None:
    """Say that a faster model ships, where the default one is to caption many files."""
    from regard.pretrained import DEFAULTS, FAST, shipped_models

    default = DEFAULTS["image"]
    by_default = model in (None, default) and default != FAST
    if files >= _MANY and by_default and FAST in shipped_models():
        complain(
            f"{files:,} files: --model {FAST} captions pictures about {_TIMES} times as fast as "
            f"{default}; its captions are wrong more often."
        )


def tables(pipe_width: int = _PIPE_WIDTH) -> Console:
    """Return the console for tables, which has a fixed width where there is no terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=pipe_width)


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table; where it is wider than the terminal, a line for each cell.

    rich would cut words, and names of models with them. A column that folds keeps every letter.
    """
    console = console or tables()
    columns = table.columns
    for column in columns:
        held: list[Any] = column._cells  # pyright: ignore[reportPrivateUsage]
        held[:] = map(_plain, held)
    table.title = _plain(table.title)
    needed = table.__rich_measure__(console, console.options.update(max_width=10_000)).minimum
    if needed <= console.width or any(column.overflow == "fold" for column in columns):
        console.print(table)
        return
    if table.title:
        console.print(table.title, style="italic", soft_wrap=True)
    for cells in zip(*(column.cells for column in columns), strict=True):
        for column, cell in zip(columns, cells, strict=True):
            text = f"{column.header}: {cell}" if column.header else str(cell)
            console.print(text, soft_wrap=True, markup=False, highlight=False)
        console.print()


def _plain(cell: Any) -> Any:
    """Return a cell without codes that change a terminal."""
    from rich.text import Text

    if isinstance(cell, str):
        return printable(cell)
    if isinstance(cell, Text):
        cell.plain = printable(cell.plain)
    return cell


def never_fail_to_print() -> None:
    """Print escapes for what a stream cannot encode, such as a file name that is not UTF-8.

    On standard input such a name is read as the file system has it.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def sources_of(arguments: list[str]) -> tuple[Iterator[str], int | None]:
    """Return the files and their number, None where standard input is still to be read."""
    from regard.media.find import find_files

    found = find_files(arguments, stdin=sys.stdin, report=complain)
    if "-" in arguments:
        return found, None
    files = list(found)
    return iter(files), len(files)


@contextmanager
def writing(path: object) -> Generator[None]:
    """Turn an error of the file system into one line that names what was being written."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error


def write_text(file: Path, text: str) -> None:
    """Write a file completely or not at all; escape file names in it that are not UTF-8."""
    from regard.util.atomic import whole_file

    with whole_file(file) as new:
        new.write_text(text, "utf-8", errors="backslashreplace", newline="\n")


def check_record(
    file: Path | None, option: str, keys: frozenset[str], sources: Sequence[Path | None]
) -> None:
    """Raise if a record cannot go to a file, or would replace a file that is not a record.

    This is checked before the work, not after it. Empty files, pipes and devices may be written.

    Args:
        file: for the record, as JSON.
        option: the option that named it, for the message.
        keys: keys of every record of the command; a file that has them is replaced.
        sources: files that the command reads.

    Raises:
        BadParameter: the file's folder does not exist.
        ConfigError: the file is a source, or was not written by the command.
    """
    if file is None:
        return
    if not file.absolute().parent.is_dir():
        raise typer.BadParameter(f"no folder {file.parent}", param_hint=option)
    if not file.is_file():
        return
    check_no_source(file, option, sources)
    if file.stat().st_size and not keys <= _keys(file):
        raise ConfigError(
            f"{option} {file} exists and was not written by this command, so it is not replaced. "
            "Name another file, or remove this one."
        )


def check_no_source(file: Path, option: str, sources: Sequence[Path | None]) -> None:
    """Raise if a file to be written is one that the command reads.

    Raises:
        ConfigError: the file is one of the sources.
    """
    existing = (source for source in sources if source is not None and source.exists())
    if file.exists() and any(file.samefile(source) for source in existing):
        raise ConfigError(
            f"{option} would overwrite {file}, which the command reads. Name another place."
        )


def _keys(file: Path) -> set[str]:
    """Return the keys of a JSON object; none if the file holds anything else."""
    try:
        held = json_of(text_of(file))
    except Unreadable:
        return set()
    return set(held) if isinstance(held, dict) else set()


def open_dataset(
    annotations: Path, images: Path | None, *, present_only: bool = False
) -> CaptionDataset:
    """Read captions; say what was left out of them.

    Raises:
        DatasetError: they cannot be read, or none of several files exists.
    """
    from regard.data import load_dataset
    from regard.data.caption_records import missing_files
    from regard.media import is_there

    dataset = load_dataset(annotations, images or "", present_only=present_only)
    if len(dataset) and not any(is_there(item.file) for item in dataset):
        files = [item.file for item in dataset]
        missing = missing_files(str(annotations), files, len(files))
        if len(files) > 1:
            raise DatasetError(missing)
        complain(missing)
    for note in dataset.notes:
        complain(f"{annotations}: {note}")
    return dataset


class ItemFaults:
    """Faults of single items: each is a line on standard error, and the others go on.

    Attributes:
        found: whether there was one.
    """

    found = False

    def tell(self, error: Exception | str) -> None:
        """Report a fault."""
        self.found = True
        complain(error)

    @contextmanager
    def of(self, file: str, path: object) -> Generator[None]:
        """Report what is wrong with one item's output.

        Args:
            file: the item.
            path: path of its output, for messages.

        Raises:
            ConfigError: nothing can be written there, such as on a full disk.
        """
        try:
            yield
        except OSError as error:
            if error.errno not in _OF_ONE_FILE:
                raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error
            self.tell(f"{file}: its output {path} cannot be written: {error.strerror}.")
        except MemoryError:
            self.tell(f"{file}: not enough memory to draw it. Scale it down.")
        except RegardError as error:
            self.tell(f"{file}: {error}")


class OutputFolder:
    """An output folder with a unique name for each source."""

    def __init__(self, folder: Path, option: str) -> None:
        """Make the folder and its parents.

        Args:
            folder: the folder.
            option: the option that named it, for the message.

        Raises:
            ConfigError: it cannot be made.
        """
        self.folder = folder
        self._taken: set[str] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{option} {folder} cannot be made: {error.strerror}.") from error
        try:
            self._longest = os.pathconf(folder, "PC_NAME_MAX")
        except (OSError, ValueError, AttributeError):  # the system does not say
            self._longest = _NAME_BYTES

    def stem(self, file: str, suffixes: Sequence[str] = (".png",)) -> Path:
        """Return the path for the files that belong to a source, without a suffix.

        Existing files are kept, except drawings made by an earlier run. In the folder of the
        source drawings are kept as well: `photo.webp` may be a source or its animation.

        Args:
            file: the source.
            suffixes: suffixes of all files that will be written.
        """
        stem = Path(file.removesuffix(".gz")).stem or "picture"  # "head.nii.gz" is "head"
        stem = _shortened(stem, self._longest - max(len(s) for s in suffixes) - _COUNT_BYTES)
        name, count = stem, 1
        # Some file systems take "A.png" and "a.png" for one file.
        while name.casefold() in self._taken or self._must_keep(name, file, suffixes):
            count += 1
            name = f"{stem}-{count}"
        self._taken.add(name.casefold())
        return self.folder / name

    def _must_keep(self, name: str, file: str, suffixes: Sequence[str]) -> bool:
        """Return whether a file of this name exists that must not be replaced."""
        paths = (self.folder / f"{name}{suffix}" for suffix in suffixes)
        existing = [path for path in paths if path.is_file()]
        if not existing:
            return False
        source, folder = Path(file).resolve(), self.folder.resolve()
        if folder in (source, source.parent):
            return True
        from regard.explain.drawing import is_drawing

        # Numbers and pages have no mark of their origin; the drawing beside them shows it.
        drawn = [is_drawing(path) for path in existing if path.suffix in _DRAWN]
        return not drawn or not all(drawn)


def _shortened(name: str, most: int) -> str:
    """Return the beginning of a name that has at most so many bytes."""
    while len(os.fsencode(name)) > most:
        name = name[:-1]
    return name
