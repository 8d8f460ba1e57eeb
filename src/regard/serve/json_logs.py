"""Logs as lines of JSON that hold no user's content.

What a request held, asked for or was called is in no line: no file names, words, captions, query
strings, header values, addresses. Messages of exceptions may repeat such things, so an exception
is told by its class and the lines of code that it passed.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from pathlib import PurePath
from typing import Any, TextIO

LOGGER = "regard.serve"
"""The logger of the service; a program that embeds it gives it a handler of its own."""
_SERVER = "uvicorn"
_FRAMES = 6  # of a trace, the last ones


def say(event: str, *, level: int = logging.INFO, **facts: Any) -> None:
    """Log an event with facts that are no user's content."""
    logging.getLogger(LOGGER).log(level, event, extra={"facts": facts})


def trace_of(error: BaseException) -> dict[str, Any]:
    """Return an exception's class and where it arose, without its message."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    where = [f"{PurePath(f.filename).name}:{f.lineno} {f.name}" for f in frames]
    return {"error": type(error).__name__, "where": where}


class JsonLines(logging.Formatter):
    """Writes a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; of what others log, where, or the text without what was put in."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
        }
        facts = getattr(record, "facts", None)
        if facts is not None:
            line |= {"event": record.msg, **facts}
        elif record.name.startswith(_SERVER):
            line |= {"event": "server", "said": str(record.msg).strip()}
        else:  # libraries put into their texts what they read
            line |= {"event": "library", "logger": record.name, "line": record.lineno}
        if facts is None and record.exc_info and record.exc_info[1] is not None:
            line |= trace_of(record.exc_info[1])
        return json.dumps(line)


def log_to(stream: TextIO) -> None:
    """Send all logs and warnings of this process to a stream.

    For a process that is the service's own: what was set up before is replaced.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(LOGGER).setLevel(logging.INFO)
    logging.captureWarnings(True)


__all__ = ["LOGGER", "JsonLines", "log_to", "say", "trace_of"]
