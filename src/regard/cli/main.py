"""`regard`: the table of commands, and the one place where errors become lines and statuses.

Statuses: 0 all went well; 1 an item failed, the others went on; 2 wrong usage or settings.
"""

from __future__ import annotations

import sys
from typing import Annotated, cast

import typer

from regard.cli import (
    audit,
    bench,
    caption,
    data,
    evaluate,
    explain,
    faithfulness,
    models,
    serve,
    train,
)
from regard.cli.output import complain, never_fail_to_print
from regard.errors import RegardError
from regard.version import __version__

_UsageError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])
"""click's class of wrong usage; typer brings a click of its own in some versions."""

app = typer.Typer(
    name="regard",
    help="Write captions for pictures, clips and scans, and show where the model looked.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("caption")(caption.caption)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("explain")(explain.explain)
app.command("faithfulness")(faithfulness.faithfulness)
app.command("audit")(audit.audit)
app.command("serve")(serve.serve)
app.command("models")(models.models)
app.command("info")(models.info)
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")


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
    """Run the command line; wrong usage and regard's own errors become one line, status 2."""
    never_fail_to_print()
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        # --debug may stand anywhere, and no command needs to know of it.
        arguments = [a for a in arguments if a != "--debug"] or ["--help"]
        status = app(arguments, prog_name="regard", standalone_mode=False)
    except RegardError as error:
        if debug:
            raise
        complain(error)
        status = 2
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx else "regard"
        complain(f"{error.format_message().rstrip('.')}. `{command} --help` says what there is.")
        status = 2
    sys.exit(status)
