"""Text that people will read: without the secrets of URLs, and without codes that change a screen.

Every message, row, plan and log that names a place goes through `without_secrets`, and what is
printed goes through `printable`.
"""

import base64
import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

_USER = re.compile(
    r"([A-Za-z][\w+.-]*:/{2,})"
    # A name, or a name and a password; one with a slash shows in what is no port.
    r"(?:[^\s/?#'\"<>]*@|[^\s/?#:@'\"<>]*:(?!\d*(?:[/?#\s'\"]|$))[^\s'\"<>]*@)"
)
_SENSITIVE = (
    r"(?:sig|sas|jwt|auth|code|pass|pw|pwd|pass(?:word|wd|phrase)|(?:[\w.-]*[-_.])?key"
    r"|[\w.-]*(?:signature|token|secret|password|credential|apikey|accesskey|accountkey)[\w.-]*)"
)
_QUERY = re.compile(rf"([?&;](?:amp;)?{_SENSITIVE})=[^&;\s#'\"<>]+", re.I)
_NAMED = re.compile(rf"[?&]{_SENSITIVE}=([^&#]+)", re.I)
_HIDDEN = "***"
_LONG = 6  # characters of a secret that is replaced within words, too
_LEAST = 3  # characters of a user's name or key that is replaced wherever it stands

_UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
)
"""Control characters except tab and line feed, and those that reorder text."""


def without_secrets(text: str, urls: Iterable[str] = ()) -> str:
    """Return a text without users, passwords and tokens of the URLs in it.

    Args:
        text: such as a URL, or the message of a library.
        urls: addresses that the message is about; their secrets are left out in any spelling.
    """
    if "://" in text:
        text = _QUERY.sub(rf"\1={_HIDDEN}", _USER.sub(r"\1", text))
    for secret in sorted(secrets_of(urls), key=len, reverse=True):
        apart = ("", "") if len(secret) >= _LONG else (r"(?<!\w)", r"(?!\w)")
        text = re.sub(re.escape(secret).join(apart), _HIDDEN, text)
    return text


def secrets_of(urls: Iterable[str]) -> set[str]:
    """Return users, passwords and tokens of URLs, as written, decoded and encoded."""
    found = set[str]()
    for url in urls:
        for match in _USER.finditer(url):
            pair = match[0].removeprefix(match[1]).removesuffix("@")
            user, _, password = pair.partition(":")
            spelled = f"{unquote(user)}:{unquote(password)}".encode("utf-8", "surrogateescape")
            found |= {pair, base64.b64encode(spelled).decode()} if password else set()
            found |= _spellings(password)
            found |= {one for one in _spellings(user) if len(one) >= _LEAST}
        for value in _NAMED.findall(url):
            found |= _spellings(value)
    return found - {""}


def holds_secret(url: str) -> bool:
    """Return whether a URL names a password or a token, and not just a user."""
    users = (found[0].removeprefix(found[1]) for found in _USER.finditer(url))
    return any(":" in user for user in users) or _NAMED.search(url) is not None


def _spellings(value: str) -> set[str]:
    return {value, unquote(value), quote(unquote(value), safe="", errors="surrogateescape")}


def printable(text: str) -> str:
    """Return a text whose control characters and those that reorder text are escaped.

    They could change the terminal's title, colours or clipboard. Tabs and line feeds are kept.
    """
    return _UNSAFE.sub(lambda found: _escape(found[0]), text)


def printable_json(text: str) -> str:
    """Return JSON in which these characters are escaped as JSON does; its values are the same."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"
