"""What the command lines of all projects share: a progress bar, and errors of one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import Progress

from regard import RegardError


@contextmanager
def progress(what: str) -> Generator[Callable[[int, int], None]]:
    """Yield what receives (done, total); it draws a bar if standard error is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def run(app: typer.Typer, project: str) -> None:
    """Run a project's command line; regard's own errors become one line and status 2."""
    try:
        app(prog_name=f"python -m projects.{project}")
    except RegardError as error:
        typer.echo(f"{project}: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
