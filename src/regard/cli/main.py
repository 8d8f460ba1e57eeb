"""`regard`: the table of commands, and the one place where errors become lines and statuses.

Statuses: 0 all went well; 1 an item failed, the others went on; 2 wrong usage or settings.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from regard.cli import caption, data, evaluate, models, train
from regard.errors import RegardError
from regard.version import __version__

app = typer.Typer(
    name="regard",
    help="Write captions for pictures, and show where the model looked for every word.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("caption")(caption.caption)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("models")(models.models)
app.command("info")(models.info)
app.add_typer(data.app, name="data")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"regard {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="On an error show where it arose.")
    ] = False,
) -> None:
    """Hold the options that stand before a command."""


def main() -> None:
    """Run the command line; errors of regard's own become one line and status 2."""
    try:
        app()
    except RegardError as error:
        if "--debug" in sys.argv:
            raise
        typer.echo(f"regard: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        # Whoever read our output has left; writing more would only raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
