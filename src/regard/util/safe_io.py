"""Texts and JSON that somebody else wrote: read whole, bounded, from ordinary files only."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from regard.errors import CheckpointError
from regard.util.atomic import whole_file

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


def change_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a checkpoint's `config.json`; nothing else of the model is touched.

    Args:
        folder: of the checkpoint.
        change: is given the config, and changes it in place.

    Raises:
        CheckpointError: the config cannot be read or written; what was there before is untouched.
    """
    path = folder / "config.json"
    try:
        config = json_of(text_of(path))
        if not isinstance(config, dict):
            raise Unreadable("it is no table of settings")
        change(config)
        with whole_file(path) as new:
            new.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", "utf-8")
            new.chmod(path.stat().st_mode)
    except (OSError, Unreadable) as error:
        raise CheckpointError(f"{path} cannot be changed: {error}. It is as it was.") from error
