"""What every command writes: results to standard output, everything else to standard error."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

T = TypeVar("T")

_BAR_FROM = 10  # fewer items are done before a bar can be read
_NAME = 32  # characters of a file beside its bar
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
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)


def error_console() -> Console | None:
    """Return the console of standard error, or None where no terminal shows it.

    What draws bars takes long to import, and a pipe or file never needs it.
    """
    if not sys.stderr.isatty():
        return None
    from rich.console import Console

    console = Console(stderr=True)
    return console if console.is_terminal else None


class Watch:
    """Shows on standard error what is being done, where there is a terminal and much to do."""

    def __init__(self, what: str, total: int | None) -> None:
        """Show nothing yet.

        Args:
            what: is being done to the items.
            total: how many there are; None where nobody knows.
        """
        self._what, self._total = what, total
        self._console = error_console()
        self._made: Progress | None = None
        self._lock = Lock()
        self._tasks: dict[str, TaskID] = {}

    @property
    def _bar(self) -> Progress:
        """The bar, made when it is first shown."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        if self._made is None:
            self._made = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
                # Lines on a terminal go above the bar; lines to a file or pipe must not be taken
                # from it.
                redirect_stdout=sys.stdout.isatty(),
            )
        return self._made

    def report(self, name: str, done: int, total: int) -> None:
        """Show how much of a file is read; once it is, that work on it goes on."""
        if self._console is None:
            return
        short = os.path.basename(name)[-_NAME:]
        with self._lock:  # several threads read
            if name not in self._tasks:
                self._bar.start()
                self._tasks[name] = self._bar.add_task(f"reading {short}", total=total)
            task = self._tasks[name]
            self._bar.update(task, completed=done)
            if done >= total:
                self._bar.update(task, description=f"{self._what} {short}", total=None)

    def pass_on(self, items: Iterable[T]) -> Iterator[T]:
        """Pass items on as they come, each with what was shown of its file taken off."""
        whole: TaskID | None = None
        try:
            if self._console is not None and (self._total is None or self._total >= _BAR_FROM):
                self._bar.start()
                whole = self._bar.add_task(self._what, total=self._total)
            for item in items:
                yield item
                with self._lock:
                    if (task := self._tasks.pop(getattr(item, "file", ""), None)) is not None:
                        self._bar.remove_task(task)
                if whole is not None:
                    self._bar.advance(whole)
        finally:
            if (
                self._made is not None and self._made.live.is_started
            ):  # stopping what never began would write a line
                self._made.stop()


@contextmanager
def reporting() -> Generator[Callable[[str, int, int], None]]:
    """Show a bar on standard error where there is a terminal.

    Yields:
        What is to be told (what is being done, done, of how many).
    """
    errors = error_console()
    if errors is None:
        yield lambda what, done, total: None
        return
    from rich.progress import Progress

    with Progress(console=errors, transient=True) as bar:
        task = bar.add_task("")
        yield lambda what, done, total: bar.update(
            task, description=what, completed=done, total=total
        )


def never_fail_to_print() -> None:
    """Show as escapes what a stream cannot encode, such as a file name that is no UTF-8.

    On standard input such a name is taken as the file system has it.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
