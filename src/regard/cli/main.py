"""`regard`: the table of commands, and the one place where errors become lines and statuses.

Statuses: 0 all went well; 1 an item failed, the others went on; 2 wrong usage or settings.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
from typing import Annotated, Any, cast

import typer

from regard.cli.output import complain, never_fail_to_print
from regard.errors import RegardError

_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])
"""click's class of wrong usage; typer brings a click of its own in some versions."""

_COMMANDS = {
    "caption": "regard.cli.caption:caption",
    "train": "regard.cli.train:train",
    "evaluate": "regard.cli.evaluate:evaluate",
    "explain": "regard.cli.explain:explain",
    "faithfulness": "regard.cli.faithfulness:faithfulness",
    "audit": "regard.cli.audit:audit",
    "reading": "regard.cli.human_eval:app",
    "bulk": "regard.cli.bulk:bulk",
    "serve": "regard.cli.serve:serve",
    "export": "regard.cli.export:export",
    "models": "regard.cli.models:models",
    "info": "regard.cli.models:info",
    "data": "regard.cli.data:app",
}
"""Every command, or group of them, and where it is."""


def _version(wanted: bool) -> None:
    if wanted:
        from regard.version import __version__

        typer.echo(f"regard {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="On an error show where it arose.")
    ] = False,
) -> None:
    """Hold the options that stand before a command."""


def build(*names: str) -> typer.Typer:
    """Return the command line with some commands, or all where none is named.

    A command's module brings what the command needs; who captions one picture does not wait for
    what the others need.
    """
    made = typer.Typer(
        name="regard",
        help="Write captions for pictures, clips and scans, and show where the model looked.",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(_options)
    for name in names or _COMMANDS:
        module, member = _COMMANDS[name].split(":")
        command = getattr(importlib.import_module(module), member)
        if isinstance(command, typer.Typer):
            made.add_typer(command, name=name)
        else:
            made.command(name)(command)
    return made


def __getattr__(name: str) -> Any:
    if name == "app":  # the whole command line, for what documents it
        return build()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "app"]


def _asked(arguments: list[str]) -> tuple[str, ...]:
    """Return the command that is called, or () where all are to be known: for help, completion."""
    completing = any(name.startswith("_REGARD_") for name in os.environ)
    return tuple(arguments[:1]) if arguments[0] in _COMMANDS and not completing else ()


def _of_system(error: OSError) -> int:
    """Say what the system refused; return the status."""
    if isinstance(error, BrokenPipeError):
        status = 1  # who reads no further, as `head`, is told nothing
    else:
        where = f"{error.filename}: " if error.filename else ""
        complain(f"{where}{error.strerror or error}. What was whole before is untouched. Look at "
                 "the space, the rights and the path, and start again.")  # fmt: skip
        status = 2
    try:
        sys.stdout.flush()
    except OSError:  # what is left in it would be complained of once more at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def main() -> None:
    """Run the command line; wrong usage and regard's own errors become one line, status 2."""
    never_fail_to_print()
    # Python looks for cycles in all that is left before it ends, a tenth of one caption's second.
    atexit.register(gc.freeze)
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        # --debug may stand anywhere, and no command needs to know of it.
        arguments = [a for a in arguments if a != "--debug"] or ["--help"]
        status = build(*_asked(arguments))(arguments, prog_name="regard", standalone_mode=False)
        sys.stdout.flush()
    except OSError as error:  # a disk that is full, a folder that is gone, a reader that went away
        if debug:
            raise
        status = _of_system(error)
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
