"""Texts and JSON that somebody else wrote: read whole, bounded, from ordinary files only."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

MAX_BYTES = 2**28
"""Largest text that is read: ten times the captions of COCO."""


class Unreadable(ValueError):
    """A text that cannot be read, or JSON that is none; the message says why."""


def text_of(path: Path) -> str:
    """Read a text.

    Raises:
        Unreadable: it cannot be opened, is no ordinary file (a pipe may never end), is too large,
            or is not UTF-8.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("it is no ordinary file")
        if status.st_size > MAX_BYTES:
            raise Unreadable(f"it has {status.st_size} bytes; at most {MAX_BYTES} are read")
        return path.read_text("utf-8")
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise Unreadable(f"it is not UTF-8: {error}") from error
    except MemoryError as error:
        raise Unreadable("it does not fit into memory") from error


def json_of(text: str) -> Any:
    """Parse JSON.

    Raises:
        Unreadable: it is none, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise Unreadable("it is nested too deeply") from error
    except ValueError as error:
        raise Unreadable(str(error)) from error
