"""`regard caption`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regard.cli.output import complain, json_line, watched
from regard.errors import ConfigError

if TYPE_CHECKING:
    from regard.types import Caption


def caption(
    files: Annotated[
        list[str],
        typer.Argument(help="Pictures, folders, patterns, or - for paths on standard input."),
    ],
    model: Annotated[
        str | None, typer.Option(help="Folder, shipped model or hub id; else the shipped one.")
    ] = None,
    beam: Annotated[int, typer.Option(help="Beam width; 1 is greedy.")] = 3,
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    no_alpha: Annotated[bool, typer.Option("--no-alpha", help="Leave the maps out.")] = False,
    explain: Annotated[
        Path | None, typer.Option(help="Folder for a contact sheet of each picture.")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(help="Longest caption in tokens; else 20 words, or as long as in training."),
    ] = None,
    length_penalty: Annotated[
        float, typer.Option(help="Divide log p by length to this power.")
    ] = 0.0,
    n_best: Annotated[int, typer.Option(help="Captions per picture.")] = 1,
    context: Annotated[
        str, typer.Option(help="Hard attention: expected, sample or argmax.")
    ] = "expected",
    batch_size: Annotated[int, typer.Option(help="Pictures at a time.")] = 16,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Caption pictures: `path: caption`, or JSON lines.

    A picture that fails is one line on standard error; the others go on, and the status is 1.
    """
    sources, total = _sources(files)
    sheets = Sheets(explain) if explain else None
    from regard import load
    from regard.captioner import Failure

    results = load(model, device=device).caption_many(
        sources,
        batch_size=batch_size,
        beam=beam,
        length_penalty=length_penalty,
        n_best=n_best,
        context=context,
        **({} if max_length is None else {"max_length": max_length}),
    )
    failed = False
    for result in watched(results, "captioning", total):
        if isinstance(result, Failure):
            failed = True
            complain(result.error)
            if json_lines:
                json_line({"file": result.file, "error": str(result.error)})
            continue
        _write(result, json_lines, alpha=not no_alpha)
        if sheets is not None:
            sheets.draw(result)
    raise typer.Exit(1 if failed else 0)


def _sources(arguments: list[str]) -> tuple[Iterator[str], int | None]:
    """Return the files and how many they are; None where standard input is still to be read."""
    from regard.media.find import find_files

    found = find_files(arguments, stdin=sys.stdin)
    if "-" in arguments:
        return found, None
    files = list(found)
    return iter(files), len(files)


def _write(result: Caption, json_lines: bool, *, alpha: bool) -> None:
    if json_lines:
        json_line(result.to_json(alpha=alpha))
        return
    for one in (result, *result.n_best):
        typer.echo(f"{result.file}: {one.text}")


class Sheets:
    """Draws the contact sheets of a run, each under a name of its own."""

    def __init__(self, folder: Path) -> None:
        """Make the folder.

        Raises:
            ConfigError: it cannot be made.
        """
        self._folder = folder
        self._taken: set[str] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--explain {folder} cannot be made: {error.strerror}.") from error

    def draw(self, result: Caption) -> None:
        """Draw one caption.

        Raises:
            ConfigError: the sheet cannot be written.
        """
        from regard.explain import save_figure

        path = self._folder / f"{self._name(result.file)}.png"
        try:
            save_figure(result.figure(), path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error

    def _name(self, file: str) -> str:
        """Return the picture's name; a number is added where another picture has it."""
        stem = Path(file).stem or "picture"
        name, count = stem, 1
        # Some file systems hold "A.png" and "a.png" for one file.
        while name.casefold() in self._taken:
            count += 1
            name = f"{stem}-{count}"
        self._taken.add(name.casefold())
        return name
