"""Files that commands read and write: sources given as arguments, names for what is written."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import typer

from regard.errors import ConfigError
from regard.util.safe_io import Unreadable, json_of, text_of

_DRAWN = (".gif", ".png", ".webp")


def sources_of(arguments: list[str]) -> tuple[Iterator[str], int | None]:
    """Return the files and how many they are; None where standard input is still to be read."""
    from regard.media.find import find_files

    found = find_files(arguments, stdin=sys.stdin)
    if "-" in arguments:
        return found, None
    files = list(found)
    return iter(files), len(files)


def check_place(file: Path | None, option: str) -> None:
    """Refuse a file to be written whose folder does not exist: now, not after the work.

    Raises:
        BadParameter: there is no such folder.
    """
    if file is not None and not file.absolute().parent.is_dir():
        raise typer.BadParameter(f"no folder {file.parent}", param_hint=option)


def check_record(
    file: Path | None, option: str, keys: frozenset[str], sources: Sequence[Path | None]
) -> None:
    """Refuse to write a record where it would cost somebody a file: now, not after the work.

    What is empty, or no ordinary file (a pipe, a device), has nothing to lose.

    Args:
        file: to be written, as JSON.
        option: that named it, for the message.
        keys: that every record of the command has; what has them is replaced.
        sources: what the command reads.

    Raises:
        BadParameter: the file's folder does not exist.
        ConfigError: the file is a source, or was not written by the command.
    """
    check_place(file, option)
    if file is None or not file.is_file():
        return
    check_no_source(file, option, sources)
    if file.stat().st_size and not keys <= _keys(file):
        raise ConfigError(
            f"{option} {file} is there and was not written by this command, so it is not "
            "replaced. Name another file, or remove this one."
        )


def check_no_source(file: Path, option: str, sources: Sequence[Path | None]) -> None:
    """Refuse to write over what the command reads.

    Raises:
        ConfigError: the file is one of the sources.
    """
    there = (source for source in sources if source is not None and source.exists())
    if file.exists() and any(file.samefile(source) for source in there):
        raise ConfigError(
            f"{option} would write over {file}, which the command reads. Name another place."
        )


def _keys(file: Path) -> set[str]:
    """Return the keys of a JSON object; none where the file holds anything else."""
    try:
        held = json_of(text_of(file))
    except Unreadable:
        return set()
    return set(held) if isinstance(held, dict) else set()


class OutputFolder:
    """A folder in which every source gets a name of its own."""

    def __init__(self, folder: Path, option: str) -> None:
        """Make the folder.

        Args:
            folder: is made with its parents.
            option: that named it, for the message.

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
        """Return the path for what belongs to a source, without a suffix.

        Nobody's own file is written over: beside its source (`photo.webp` and its animation would
        be one file) nothing that is there, elsewhere nothing but what such a command drew before.

        Args:
            file: the source.
            suffixes: of all that will be written.
        """
        stem = Path(file.removesuffix(".gz")).stem or "picture"  # "head.nii.gz" is "head"
        name, count = stem, 1
        # Some file systems hold "A.png" and "a.png" for one file.
        while name.casefold() in self._taken or self._held(name, file, suffixes):
            count += 1
            name = f"{stem}-{count}"
        self._taken.add(name.casefold())
        return self.folder / name

    def _held(self, name: str, file: str, suffixes: Sequence[str]) -> bool:
        """Whether a file is there that must not be written over."""
        paths = (self.folder / f"{name}{suffix}" for suffix in suffixes)
        there = [path for path in paths if path.is_file()]
        if not there:
            return False
        source, folder = Path(file).resolve(), self.folder.resolve()
        if folder in (source, source.parent):
            return True
        from regard.explain.drawing import is_drawing

        # Numbers and pages bear no mark; they are known by the drawing that is made with them.
        drawn = [is_drawing(path) for path in there if path.suffix in _DRAWN]
        return not drawn or not all(drawn)
