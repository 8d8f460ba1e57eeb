"""What a service counts, in Prometheus' form; every service has counts of its own.

Where several processes serve, each writes its counts to files of a folder, which the variable
PROMETHEUS_MULTIPROC_DIR names, and whichever is asked answers with the sums.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

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


__all__ = ["FOLDER", "Meters"]
