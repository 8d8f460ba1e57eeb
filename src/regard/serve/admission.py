"""How much is in the house: files, bytes and pixels, and what there is no room for."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager

from regard.serve.requests import Refused
from regard.serve.settings import Settings

_LONGEST = 60  # seconds that anybody is told to wait
Add = Callable[[int], None]


class Room:
    """Counts what waits or is worked on, and refuses what there is no room for."""

    def __init__(self, settings: Settings, pace: Callable[[], float] = lambda: 0.0) -> None:
        """Begin with nobody.

        Args:
            settings: limits.
            pace: says how many seconds a file takes at the moment.
        """
        self._settings, self._pace = settings, pace
        self.pictures = 0
        self.pixels = 0
        self.bytes = 0

    def refuse_when_full(self) -> None:
        """Refuse a request before its body costs anything.

        Raises:
            Refused: as many files wait as may.
        """
        if self.pictures >= self._settings.waiting:
            raise self._busy()

    @contextmanager
    def body(self) -> Generator[Add]:
        """Take room for a request's body; call what is given with the bytes that came.

        Raises:
            Refused: more have come than may in all.
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
    def claim(self, pictures: int) -> Generator[Add]:
        """Take room for some files; call what is given with each one's pixels.

        Raises:
            Refused: there is none, or a request alone would need more than there is.
        """
        if self.pictures and self.pictures + pictures > self._settings.waiting:
            raise self._busy()
        self.pictures += pictures
        mine = 0

        def add(pixels: int) -> None:
            nonlocal mine
            most = self._settings.waiting_pixels
            if mine + pixels > most:
                raise Refused(413, f"the pictures have more than {most} pixels; send fewer.")
            if self.pixels + pixels > most:
                raise self._busy()
            mine += pixels
            self.pixels += pixels

        try:
            yield add
        finally:
            self.pictures -= pictures
            self.pixels -= mine

    def _busy(self) -> Refused:
        wait = min(_LONGEST, max(1, math.ceil(self.pictures * self._pace())))
        return Refused(429, f"too much is waiting; try again in {wait} s.", retry=wait)


__all__ = ["Room"]
