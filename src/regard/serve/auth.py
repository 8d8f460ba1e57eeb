"""Authentication by hashed API keys, and a rate limit for each client.

An API key is a long random text, so one round of SHA-256 protects it: it cannot be guessed. The
service stores only the hashes, and compares all of them in constant time.
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
_MAX_CLIENTS = 10_000  # the least recently seen client is forgotten


class ApiKeys:
    """The hashes of the keys that give access."""

    def __init__(self, lines: Iterable[str]) -> None:
        """Read lines `name:sha256 in hexadecimal`; empty lines and comments (#) are skipped.

        Raises:
            ConfigError: a line is malformed, or a name occurs twice. The message does not
                repeat the line, which may be a key.
        """
        self._hashes: dict[str, bytes] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            found = _LINE.fullmatch(line.strip())
            if found is None:
                raise ConfigError(
                    f"API key {number} is not `name:hash`: a name of letters, digits, '.', '_' and "
                    "'-', then the key's SHA-256 as 64 hexadecimal digits."
                )
            if found[1] in self._hashes:
                raise ConfigError(f"the API key name {found[1]!r} occurs twice; rename one.")
            self._hashes[found[1]] = bytes.fromhex(found[2])

    @classmethod
    def read(cls, lines: Iterable[str], file: str) -> ApiKeys:
        """Read keys from settings, and from a file unless its name is "".

        Raises:
            ConfigError: the file cannot be read or holds no key; see `ApiKeys`.
        """
        if not file:
            return cls(lines)
        try:
            written = Path(file).read_text("utf-8").splitlines()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ConfigError(f"the file of API keys {file} cannot be read: {reason}.") from error
        if not cls(written):  # otherwise an empty file would open the service to everyone
            raise ConfigError(
                f"the file of API keys {file} holds no keys; add one, or leave the file out."
            )
        return cls([*written, *lines])

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def name_of(self, key: str) -> str | None:
        """Return the name of a key, or None if it is unknown.

        Every hash is compared, in constant time, even after a match.
        """
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = None
        for name, stored in self._hashes.items():
            if hmac.compare_digest(digest, stored):
                found = name
        return found


class RateLimiter:
    """A token bucket for each client: a request takes a token, and time refills the bucket."""

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start with full buckets.

        Args:
            rate: tokens per second; 0: unlimited.
            burst: tokens of a full bucket.
            clock: in seconds.
        """
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> int:
        """Take a token; return 0, or the seconds until the next one is available."""
        if not self._rate:
            return 0
        now = self._clock()
        tokens, then = self._left.pop(client, (float(self._burst), now))
        tokens = min(float(self._burst), tokens + (now - then) * self._rate)
        had = tokens >= 1
        self._left[client] = (tokens - had, now)
        if len(self._left) > _MAX_CLIENTS:
            self._left.popitem(last=False)
        return 0 if had else max(1, math.ceil((1 - tokens) / self._rate))
