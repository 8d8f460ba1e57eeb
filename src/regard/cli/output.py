"""What every command writes: results to standard output, everything else to standard error."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

_BAR_FROM = 10  # fewer items are done before a bar can be read
_PIPE_WIDTH = 110  # of tables that no terminal sets a width to


def json_line(record: dict[str, Any]) -> None:
    """Write one record as one line of JSON to standard output."""
    utf8 = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    typer.echo(json.dumps(record, ensure_ascii=not utf8))


def complain(error: Exception | str) -> None:
    """Write one line to standard error, however many the message has."""
    typer.echo(f"regard: {' '.join(str(error).split())}", err=True)


def tables() -> Console:
    """Return the console that tables are printed on."""
    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)


def watched(items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
    """Pass items on; show a bar on standard error where there is a terminal and much to do.

    Args:
        items: are passed on as they come.
        what: is being done to them.
        total: how many there are; None where nobody knows.
    """
    console = Console(stderr=True)
    if not console.is_terminal or (total is not None and total < _BAR_FROM):
        yield from items
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        # Lines on a terminal go above the bar; lines to a file or pipe must not be taken from it.
        redirect_stdout=sys.stdout.isatty(),
    ) as bar:
        yield from bar.track(items, total=total, description=what)


@contextmanager
def reporting() -> Generator[Callable[[str, int, int], None]]:
    """Show a bar on standard error where there is a terminal.

    Yields:
        What is to be told (what is being done, done, of how many).
    """
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("")
        yield lambda what, done, total: bar.update(
            task, description=what, completed=done, total=total
        )


def never_fail_to_print() -> None:
    """Show as escapes what a stream cannot encode, such as a file name that is no UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
