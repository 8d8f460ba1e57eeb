"""The exceptions that regard raises on purpose.

    RegardError
    ├── MediaError              a picture, clip or scan that cannot be read
    │   ├── MediaTooLarge       more pixels than wanted
    │   └── UnknownMedia        no file of a kind that is read
    ├── DatasetError            captions or splits that cannot be used
    ├── ConfigError             a setting that is wrong (also a ValueError)
    ├── CheckpointError         a model folder that is damaged or does not fit
    ├── UnknownName             a name that no table holds (also a LookupError)
    ├── MissingExtra            an optional package is absent (also an ImportError)
    └── RankLost                another process of a training on many devices ended

Every message says what came, what was wanted and what to do.
"""

import difflib
from collections.abc import Generator, Iterable
from contextlib import contextmanager

_NAME = 200  # characters of a name that is compared with those that are known
_LONGEST, _BEGINNING, _END = 3000, 2000, 900  # characters of a message


class RegardError(Exception):
    """The root of every error that a user of regard may meet."""

    def __str__(self) -> str:
        """Return the message, cut in its middle where it repeats what is too long to be read."""
        text = super().__str__()
        if len(text) <= _LONGEST:
            return text
        return f"{text[:_BEGINNING]} [...] {text[-_END:]}"


class MediaError(RegardError):
    """A media file is missing, damaged, too large or of an unknown kind."""


class MediaTooLarge(MediaError):
    """A media file holds more than may be decoded."""


class UnknownMedia(MediaError):
    """A file is of no kind that is read."""


class DatasetError(RegardError):
    """A data set's files or captions cannot be used as they are."""


class ConfigError(RegardError, ValueError):
    """A recipe or an option holds a value that makes no sense."""


class CheckpointError(RegardError):
    """A model folder is incomplete, damaged or of an unknown format."""


class UnknownName(RegardError, LookupError):
    """A name that the table of its kind does not hold."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """Say which names exist, the nearest first.

        Args:
            kind: what the name should name, such as "encoder".
            name: the name that came.
            known: every name that would have been right.
        """
        names, name = sorted(known), name[:_NAME]
        near = difflib.get_close_matches(name, names, n=3)
        hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
        super().__init__(f"unknown {kind} {name!r}. {hint}Known: {', '.join(names)}.")


class MissingExtra(RegardError, ImportError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str, hint: str = "") -> None:
        """Say which extra brings the package.

        Args:
            package: the package that could not be imported.
            extra: the extra of regard that installs it.
            purpose: what it was wanted for.
            hint: what else is to be known, such as why one that is installed does not do.
        """
        super().__init__(
            f"{purpose} needs the package {package!r}. Install it with: "
            f"pip install 'regard[{extra}]', or in a clone of regard: pip install '.[{extra}]'"
            + (f". {hint}" if hint else "")
        )


@contextmanager
def needs_extra(package: str, extra: str, purpose: str, hint: str = "") -> Generator[None]:
    """Raise `MissingExtra` if an import within fails; see there for the arguments."""
    try:
        yield
    except ImportError as error:
        raise MissingExtra(package, extra, purpose, hint) from error


class RankLost(RegardError):
    """A process that trains together with this one ended, or cannot be reached."""


@contextmanager
def needs_torch(purpose: str, hint: str = "") -> Generator[None]:
    """Say which extra brings torch where it is imported within and absent.

    Args:
        purpose: what it is wanted for, as the beginning of a sentence: "training a model".
        hint: what else can be done.

    Raises:
        MissingExtra: torch is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        raise MissingExtra("torch", "train", purpose, hint) from error
