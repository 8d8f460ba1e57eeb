"""Prometheus metrics and JSON logs; every service has its own metrics.

If several processes serve, each writes its counts to files in the folder
PROMETHEUS_MULTIPROC_DIR, and the process that is scraped returns the sums.
"""

import json
import logging
import os
import re
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePath
from typing import Any, TextIO

from regard.errors import needs_extra

MULTIPROC_DIR = "PROMETHEUS_MULTIPROC_DIR"
"""The variable of prometheus_client that names the folder of counts."""
LOGGER = "regard.serve"
"""The logger of the service; a program that embeds it attaches its own handler."""
_SERVER = "uvicorn"
_FRAMES = 6  # of a traceback, the last ones
_BATCHES = (1, 2, 4, 8, 16, 32)
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LIVE = re.compile(r"gauge_live\w+_(\d+)\.db")


class ServiceMetrics:
    """Counts of requests, files, batches and decoder exits, and the number of waiting files."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        """Start at 0.

        Args:
            waiting: returns the number of files queued or in progress.

        Raises:
            MissingExtra: prometheus_client is not installed.
        """
        with needs_extra("prometheus_client", "serve", "counting requests"):
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        self._registry = CollectorRegistry()
        count = partial(Counter, registry=self._registry)
        histogram = partial(Histogram, registry=self._registry)
        self._folder = os.environ.get(MULTIPROC_DIR, "")
        self._waiting = waiting
        self._requests = count("regard_requests", "Requests answered.", ["path", "status"])
        self._seconds = histogram(
            "regard_request_seconds", "Time to an answer.", ["path"], buckets=_SECONDS
        )
        self._files = count("regard_pictures", "Files.", ["result"])
        together = "Pictures that went through the network together."
        self._batches = histogram("regard_batch_pictures", together, buckets=_BATCHES)
        self._decoders = count("regard_decoders_ended", "Decoding processes that ended.", ["why"])
        left = "Requests whose sender left before the answer."
        self._disconnects = count("regard_clients_left", left)
        self._gauge = Gauge(
            "regard_waiting_pictures", "Waiting or worked on.", registry=self._registry,
            multiprocess_mode="livesum",
        )  # fmt: skip

    def count_request(self, path: str, status: int, seconds: float, *, disconnected: bool) -> None:
        """Count a request that was answered or whose client disconnected."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)
        self._gauge.set(self._waiting())
        if disconnected:
            self._disconnects.inc()

    def count_file(self, result: str) -> None:
        """Count a file that was "captioned" or "failed"."""
        self._files.labels(result).inc()

    def count_batch(self, size: int) -> None:
        """Count a batch."""
        self._batches.observe(size)
        self._gauge.set(self._waiting())

    def count_decoder_exit(self, why: str) -> None:
        """Count a decoding process that "crashed" or was "late"."""
        self._decoders.labels(why).inc()

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        from prometheus_client import CollectorRegistry, generate_latest, multiprocess

        self._gauge.set(self._waiting())
        if not self._folder:
            return generate_latest(self._registry)
        _remove_dead_gauges(Path(self._folder))
        merged = CollectorRegistry()
        multiprocess.MultiProcessCollector(merged, self._folder)
        return generate_latest(merged)


def _remove_dead_gauges(folder: Path) -> None:
    """Remove the live gauges of processes that ended; their counts stay."""
    for path in folder.glob("gauge_live*.db"):
        found = _LIVE.fullmatch(path.name)
        if found is not None and not _is_alive(int(found[1])):
            path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def log_event(event: str, *, level: int = logging.INFO, **facts: Any) -> None:
    """Log an event with facts that contain no user data."""
    logging.getLogger(LOGGER).log(level, event, extra={"facts": facts})


def traceback_facts(error: BaseException) -> dict[str, Any]:
    """Return an exception's class and where it was raised, without its message."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    where = [f"{PurePath(f.filename).name}:{f.lineno} {f.name}" for f in frames]
    return {"error": type(error).__name__, "where": where}


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; records of other loggers come without the arguments of their text."""
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
        else:  # messages of libraries may contain user data
            line |= {"event": "library", "logger": record.name, "line": record.lineno}
        if facts is None and record.exc_info and record.exc_info[1] is not None:
            line |= traceback_facts(record.exc_info[1])
        return json.dumps(line)


def log_json(stream: TextIO) -> None:
    """Send all logs and warnings of this process to a stream, as lines of JSON.

    Only for processes of the service: it replaces existing handlers.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(LOGGER).setLevel(logging.INFO)
    logging.captureWarnings(True)
