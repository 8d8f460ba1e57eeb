"""What a service counts, in Prometheus' form; every service has counts of its own."""

from __future__ import annotations

from collections.abc import Callable

from regard.errors import MissingExtra

_BATCHES = (1, 2, 4, 8, 16, 32)


class Meters:
    """Requests, pictures, batches, and who waits."""

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
        self._requests = Counter(
            "regard_requests", "Requests answered.", ["path", "status"], registry=here
        )
        self._seconds = Histogram(
            "regard_request_seconds", "Time to an answer.", ["path"], registry=here
        )
        self._pictures = Counter("regard_pictures", "Pictures.", ["result"], registry=here)
        self._batches = Histogram(
            "regard_batch_pictures",
            "Pictures that went through the network together.",
            buckets=_BATCHES,
            registry=here,
        )
        gauge = Gauge("regard_waiting_pictures", "Waiting or worked on.", registry=here)
        gauge.set_function(lambda: float(waiting()))

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def picture(self, result: str) -> None:
        """Count a picture that was "captioned" or "failed"."""
        self._pictures.labels(result).inc()

    def batch(self, size: int) -> None:
        """Count a batch."""
        self._batches.observe(size)

    def text(self) -> bytes:
        """Return all counts in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)
