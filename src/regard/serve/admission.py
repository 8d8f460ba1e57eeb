"""Admission control: limits on queued files, bytes and pixels."""

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager

from regard.serve.requests import RequestError
from regard.serve.settings import Settings

_MAX_RETRY = 60  # seconds: the longest Retry-After
Add = Callable[[int], None]


class Admission:
    """Counts queued and running work, and refuses requests beyond the limits.

    Attributes:
        files: number of files queued or in progress.
        pixels: number of their decoded pixels.
        bytes: total size of request bodies.
    """

    def __init__(self, settings: Settings, pace: Callable[[], float] = lambda: 0.0) -> None:
        """Start with all counts at 0.

        Args:
            settings: limits.
            pace: returns the current seconds per file.
        """
        self._settings, self._pace = settings, pace
        self.files = self.pixels = self.bytes = 0

    def check_capacity(self) -> None:
        """Refuse a request before its body is read.

        Raises:
            RequestError: the queue of files is full.
        """
        if self.files >= self._settings.waiting:
            raise self._busy()

    @contextmanager
    def admit_body(self) -> Generator[Add]:
        """Count the bytes of a request's body; yields the function that adds them.

        Raises:
            RequestError: the total exceeds the limit.
        """
        mine = 0

        def add(count: int) -> None:
            nonlocal mine
            if self.bytes and self.bytes + count > self._settings.waiting_bytes:
                raise self._busy()
            mine += count
            self.bytes += count

        try:
            yield add
        finally:
            self.bytes -= mine

    @contextmanager
    def admit_files(self, files: int) -> Generator[Add]:
        """Count the files of a request; yields the function that adds the pixels of each.

        Raises:
            RequestError: the total exceeds the limit, or this request has too many pixels.
        """
        if self.files and self.files + files > self._settings.waiting:
            raise self._busy()
        self.files += files
        mine = 0

        def add(pixels: int) -> None:
            nonlocal mine
            most = self._settings.waiting_pixels
            if mine + pixels > most:
                raise RequestError(413, f"the pictures have more than {most} pixels; send fewer.")
            if self.pixels + pixels > most:
                raise self._busy()
            mine += pixels
            self.pixels += pixels

        try:
            yield add
        finally:
            self.files -= files
            self.pixels -= mine

    def _busy(self) -> RequestError:
        wait = min(_MAX_RETRY, max(1, math.ceil(self.files * self._pace())))
        return RequestError(429, f"too much is waiting; try again in {wait} s.", retry=wait)
