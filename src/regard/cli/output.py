"""Input and output of commands: sources, standard streams, and files that they replace.

Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from regard.errors import ConfigError
from regard.util.safe_io import Unreadable, json_of, text_of
from regard.util.shown_text import printable, printable_json, without_secrets

if TYPE_CHECKING:
    from rich.console import Console

_DRAWN = (".gif", ".png", ".webp")
_PIPE_WIDTH = 110  # of tables, where there is no terminal


def json_line(record: dict[str, Any]) -> None:
    """Write one record as one line of JSON to standard output."""
    utf8 = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    typer.echo(printable_json(json.dumps(record, ensure_ascii=not utf8)))


def complain(error: Exception | str) -> None:
    """Write a message as one line to standard error."""
    typer.echo(
        f"regard: {printable(' '.join(without_secrets(str(error), sys.argv).split()))}", err=True
    )


def tables(pipe_width: int = _PIPE_WIDTH) -> Console:
    """Return the console for tables, which has a fixed width where there is no terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=pipe_width)


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

    found = find_files(arguments, stdin=sys.stdin)
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

    def stem(self, file: str, suffixes: Sequence[str] = (".png",)) -> Path:
        """Return the path for the files that belong to a source, without a suffix.

        Existing files are kept, except drawings made by an earlier run. In the folder of the
        source drawings are kept as well: `photo.webp` may be a source or its animation.

        Args:
            file: the source.
            suffixes: suffixes of all files that will be written.
        """
        stem = Path(file.removesuffix(".gz")).stem or "picture"  # "head.nii.gz" is "head"
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
