"""The exceptions that regard raises on purpose.

    RegardError
    ├── MediaError              a picture, clip or scan that cannot be read
    │   ├── MediaTooLarge       more pixels than allowed
    │   └── UnknownMedia        a file of an unsupported kind
    ├── DatasetError            captions or splits that cannot be used
    ├── ConfigError             a setting that is wrong (also a ValueError)
    │   └── DeviceError         a device that cannot be used, or whose memory is full
    ├── CheckpointError         a model folder that is damaged or does not fit
    ├── UnknownName             a name that no table holds (also a LookupError)
    ├── MissingExtra            an optional package is absent (also an ImportError)
    └── RankLost                another process of a training on many devices ended

Every message says what came, what was expected and what to do.
"""

import difflib
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from regard.util.shown_text import without_secrets

_NAME = 200  # characters of a name that is compared with those that are known
_LONGEST, _BEGINNING, _END = 3000, 2000, 900  # characters of a message


class RegardError(Exception):
    """Base class of all errors that regard raises on purpose."""

    def __str__(self) -> str:
        """Return the message without secrets of URLs; a long one is cut in the middle."""
        text = without_secrets(super().__str__())
        if len(text) <= _LONGEST:
            return text
        return f"{text[:_BEGINNING]} [...] {text[-_END:]}"


class MediaError(RegardError):
    """A media file is missing, damaged, too large or of an unknown kind."""


class MediaTooLarge(MediaError):
    """A media file holds more than may be decoded."""


class UnknownMedia(MediaError):
    """A file is of an unsupported kind."""


class DatasetError(RegardError):
    """A data set's files or captions cannot be used as they are."""


class ConfigError(RegardError, ValueError):
    """A recipe or an option holds an invalid value."""


class DeviceError(ConfigError):
    """A device cannot be used, or its memory is full."""


class CheckpointError(RegardError):
    """A model folder is incomplete, damaged or of an unknown format."""


class UnknownName(RegardError, LookupError):
    """A name is not in the table of its kind."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """List the known names, the nearest first.

        Args:
            kind: what the name should name, such as "encoder".
            name: the unknown name.
            known: every name that would have been right.
        """
        names, name = sorted(known), name[:_NAME]
        near = difflib.get_close_matches(name, names, n=3)
        hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
        super().__init__(f"unknown {kind} {name!r}. {hint}Known: {', '.join(names)}.")


class MissingExtra(RegardError, ImportError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str, hint: str = "") -> None:
        """Name the extra that installs the package.

        Args:
            package: the package that could not be imported.
            extra: the extra of regard that installs it.
            purpose: what it is needed for.
            hint: further advice, such as why an installed version does not work.
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
    """Raise `MissingExtra` if an import of torch within fails.

    Args:
        purpose: what it is needed for, as the beginning of a sentence: "training a model".
        hint: alternatives.

    Raises:
        MissingExtra: torch is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        raise MissingExtra("torch", "train", purpose, hint) from error
