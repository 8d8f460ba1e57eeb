"""Safe reading of untrusted text and JSON: bounded in size, from regular files only."""

import json
import stat
from pathlib import Path
from typing import Any

MAX_BYTES = 2**28
"""Size of the largest text that is read: ten times the captions of COCO."""


class Unreadable(ValueError):
    """Raised when a text cannot be read or is not JSON; the message gives the reason."""


def text_of(path: Path) -> str:
    """Read a text file.

    Raises:
        Unreadable: it cannot be opened, is not a regular file (a pipe may never end), is too
            large, or is not UTF-8.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("it is not a regular file")
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
        Unreadable: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise Unreadable("it is nested too deeply") from error
    except ValueError as error:
        raise Unreadable(str(error)) from error
