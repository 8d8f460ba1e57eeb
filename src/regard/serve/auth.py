"""Who may use the service, and how often: hashed keys, and a bucket of tokens for each.

A key is a long random text, so one round of SHA-256 keeps it: there is nothing to guess. The
service holds hashes alone, and compares all of them in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path

from regard.errors import ConfigError

_LINE = re.compile(r"([A-Za-z0-9._-]{1,64}):([0-9a-fA-F]{64})")
_MOST_BUCKETS = 10_000  # of addresses; the one that was used longest ago is forgotten


class Keys:
    """The hashes of the keys that open the service."""

    def __init__(self, lines: Iterable[str]) -> None:
        """Read `name:sha256 in hexadecimal`; empty lines and those after # are left out.

        Raises:
            ConfigError: a line has another form, or a name comes twice. What stands there is not
                repeated: it may be a key.
        """
        self._hashes: dict[str, bytes] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            found = _LINE.fullmatch(line.strip())
            if found is None:
                raise ConfigError(
                    f"API key {number} is no `name:hash`: a name of letters, digits, '.', '_' and "
                    "'-', then the key's SHA-256 as 64 hexadecimal digits."
                )
            if found[1] in self._hashes:
                raise ConfigError(f"the API key name {found[1]!r} comes twice; name them apart.")
            self._hashes[found[1]] = bytes.fromhex(found[2])

    @classmethod
    def read(cls, lines: Iterable[str], file: str) -> Keys:
        """Read keys from settings and from a file, where one is named.

        Raises:
            ConfigError: the file cannot be read or holds no key; see `Keys`.
        """
        if not file:
            return cls(lines)
        try:
            written = Path(file).read_text("utf-8").splitlines()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise ConfigError(f"the file of API keys {file} cannot be read: {reason}.") from error
        if not Keys(written):
            # Else an empty file would open the service to all.
            raise ConfigError(f"the file of API keys {file} holds none; leave it out, or fill it.")
        return cls([*written, *lines])

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def name_of(self, key: str) -> str | None:
        """Return the name of a key; None where it is none of them.

        Every hash is compared, in constant time, whichever fits.
        """
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = None
        for name, stored in self._hashes.items():
            if hmac.compare_digest(digest, stored):
                found = name
        return found


class Buckets:
    """A bucket of tokens for each name: a request takes one, and they come back with time."""

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with full buckets.

        Args:
            rate: tokens per second; 0: as many as are wanted.
            burst: tokens of a full bucket.
            clock: in seconds.
        """
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> int:
        """Take a token; return 0, or the seconds after which there will be one."""
        if not self._rate:
            return 0
        now = self._clock()
        tokens, then = self._left.pop(name, (float(self._burst), now))
        tokens = min(float(self._burst), tokens + (now - then) * self._rate)
        had = tokens >= 1
        self._left[name] = (tokens - had, now)
        if len(self._left) > _MOST_BUCKETS:
            self._left.popitem(last=False)
        return 0 if had else max(1, math.ceil((1 - tokens) / self._rate))


__all__ = ["Buckets", "Keys"]
