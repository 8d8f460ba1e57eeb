"""`regard`: the table of commands, and the place where errors become messages and exit statuses.

Statuses: 0 success; 1 an item failed and the others went on; 2 wrong usage or settings.
"""

import atexit
import gc
import importlib
import os
import sys
from typing import Annotated, Any, cast

import typer

from regard.cli.output import complain, never_fail_to_print
from regard.errors import RegardError
from regard.util.shown_text import without_secrets

_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])
"""click's class of wrong usage; some versions of typer have a click of their own."""

_COMMANDS = {
    "caption": "regard.cli.caption_command:caption",
    "train": "regard.cli.train_command:train",
    "evaluate": "regard.cli.evaluate_command:evaluate",
    "explain": "regard.cli.explain_command:explain",
    "faithfulness": "regard.cli.evaluate_command:faithfulness",
    "audit": "regard.cli.audit_command:audit",
    "reading": "regard.cli.audit_command:reading",
    "bulk": "regard.cli.bulk_command:bulk",
    "serve": "regard.cli.serve_command:serve",
    "export": "regard.cli.models_command:export",
    "teach": "regard.cli.teach_command:teach",
    "concepts": "regard.cli.teach_command:concepts",
    "models": "regard.cli.models_command:models",
    "info": "regard.cli.models_command:info",
    "data": "regard.cli.data_command:app",
}
"""Every command or group of commands, and where it is defined."""


def _version(wanted: bool) -> None:
    if wanted:
        from regard.version import __version__

        typer.echo(f"regard {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Declare the options before a command."""


def build(*names: str) -> typer.Typer:
    """Return the command line with the named commands, or with all.

    Only the modules of these commands are imported, so that captioning one picture does not wait
    for the imports of the others.
    """
    application = typer.Typer(
        name="regard",
        help="Write captions for pictures, clips and scans, and show where the model looked.",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    application.callback()(_options)
    for name in names or _COMMANDS:
        module, member = _COMMANDS[name].split(":")
        command = getattr(importlib.import_module(module), member)
        if isinstance(command, typer.Typer):
            application.add_typer(command, name=name)
        else:
            application.command(name)(command)
    return application


def __getattr__(name: str) -> Any:
    if name == "app":  # the whole command line, for the documentation and the tests
        return build()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "app"]


def _called(arguments: list[str]) -> tuple[str, ...]:
    """Return the command that is called, or () for help and completion, which need all."""
    completing = any(name.startswith("_REGARD_") for name in os.environ)
    return tuple(arguments[:1]) if arguments[0] in _COMMANDS and not completing else ()


def _report_system_error(error: OSError) -> int:
    """Print an error of the system; return the exit status."""
    if isinstance(error, BrokenPipeError):
        status = 1  # a reader such as `head` closed the pipe; print nothing
    else:
        where = f"{error.filename}: " if error.filename else ""
        complain(f"{where}{error.strerror or error}. Files that were complete are untouched. Check "
                 "the path, its permissions and the free space, and try again.")  # fmt: skip
        status = 2
    try:
        sys.stdout.flush()
    except OSError:  # else Python would report the rest of the buffer once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _report_failure(_: object, error: BaseException, __: object) -> None:
    """Print the traceback of an error, without passwords of the command line's URLs."""
    import traceback

    sys.stderr.write(without_secrets("".join(traceback.format_exception(error)), sys.argv))


def main() -> None:
    """Run the command line; wrong usage and errors of regard become one line and status 2."""
    never_fail_to_print()
    sys.excepthook = _report_failure
    # Before it exits Python collects cycles among all objects: a tenth of the time of one caption.
    atexit.register(gc.freeze)
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        # --debug is allowed anywhere; commands do not know it.
        arguments = [a for a in arguments if a != "--debug"] or ["--help"]
        status = build(*_called(arguments))(arguments, prog_name="regard", standalone_mode=False)
        sys.stdout.flush()
    except OSError as error:  # such as a full disk, a missing folder, a closed pipe
        if debug:
            raise
        status = _report_system_error(error)
    except RegardError as error:
        if debug:
            raise
        complain(error)
        status = 2
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx else "regard"
        complain(f"{error.format_message().rstrip('.')}. Try `{command} --help`.")
        status = 2
    sys.exit(status)
