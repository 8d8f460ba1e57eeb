"""What a service counts, in Prometheus' form; every service has counts of its own.

Where several processes serve, each writes its counts to files of a folder, which the variable
PROMETHEUS_MULTIPROC_DIR names, and whichever is asked answers with the sums.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
import traceback
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any, TextIO

from regard.errors import MissingExtra

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable of prometheus_client that names the folder of counts."""
_BATCHES = (1, 2, 4, 8, 16, 32)
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LIVE = re.compile(r"gauge_live\w+_(\d+)\.db")


class Meters:
    """Requests, pictures, batches, who waits, and what ended."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        """Begin at 0.

        Args:
            waiting: says how many pictures wait or are worked on.

        Raises:
            MissingExtra: prometheus_client is not installed.
        """
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        except ImportError as error:
            raise MissingExtra("prometheus_client", "serve", "counting requests") from error
        here = self._registry = CollectorRegistry()
        self._folder = os.environ.get(FOLDER, "")
        self._waiting = waiting
        self._requests = Counter(
            "regard_requests", "Requests answered.", ["path", "status"], registry=here
        )
        self._seconds = Histogram(
            "regard_request_seconds", "Time to an answer.", ["path"], buckets=_SECONDS,
            registry=here,
        )  # fmt: skip
        self._pictures = Counter("regard_pictures", "Files.", ["result"], registry=here)
        self._batches = Histogram(
            "regard_batch_pictures",
            "Pictures that went through the network together.",
            buckets=_BATCHES,
            registry=here,
        )
        self._decoders = Counter(
            "regard_decoders_ended", "Decoding processes that ended.", ["why"], registry=here
        )
        self._left = Counter(
            "regard_clients_left", "Requests whose sender left before the answer.", registry=here
        )
        self._gauge = Gauge(
            "regard_waiting_pictures", "Waiting or worked on.", registry=here,
            multiprocess_mode="livesum",
        )  # fmt: skip

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)
        self._gauge.set(self._waiting())

    def left(self) -> None:
        """Count a request whose sender left."""
        self._left.inc()

    def picture(self, result: str) -> None:
        """Count a picture that was "captioned" or "failed"."""
        self._pictures.labels(result).inc()

    def batch(self, size: int) -> None:
        """Count a batch."""
        self._batches.observe(size)
        self._gauge.set(self._waiting())

    def decoder(self, why: str) -> None:
        """Count a decoding process that "crashed" or was "late"."""
        self._decoders.labels(why).inc()

    def text(self) -> bytes:
        """Return all counts in Prometheus' text format."""
        from prometheus_client import CollectorRegistry, generate_latest, multiprocess

        self._gauge.set(self._waiting())
        if not self._folder:
            return generate_latest(self._registry)
        _forget_the_dead(Path(self._folder))
        every = CollectorRegistry()
        multiprocess.MultiProcessCollector(every, self._folder)
        return generate_latest(every)


def _forget_the_dead(folder: Path) -> None:
    """Remove what processes that ended say of the present; what they counted stays."""
    for path in folder.glob("gauge_live*.db"):
        found = _LIVE.fullmatch(path.name)
        if found is not None and not _lives(int(found[1])):
            path.unlink(missing_ok=True)


def _lives(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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


__all__ = ["FOLDER", "LOGGER", "JsonLines", "Meters", "log_to", "say", "trace_of"]
