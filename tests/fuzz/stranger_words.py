"""Words and names that write to a terminal or reorder a page, and requests with false origins."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import io
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from regard.cli.output import print_table, say
from regard.cli.progress import ProgressDisplay
from regard.errors import ConfigError
from regard.explain.html import escaped
from regard.serve.middleware import RequestMiddleware, _is_foreign, client_of
from regard.serve.requests import RequestError
from regard.serve.settings import Settings

_TRICKS = (
    "\x1b]0;title\x07", "\x1b[31mred", "\x1b]52;c;YQ==\x07", "a\u202egpj.exe", "\x9b31m",
    "\u2066a\u2069", "a\rb", "\u200fא", "\x7f",
)  # fmt: skip
_FORBIDDEN = set("\x1b\x07\x9b\r\x7f\u202e\u2066\u2069\u200f")


def words_on_a_terminal(folder: Path) -> None:
    """Lines, tables that fit or not, and progress: no code that changes a terminal."""
    for trick in _TRICKS:
        wide, narrow = io.StringIO(), io.StringIO()
        with redirect_stdout(io.StringIO()) as line:
            say(f"{trick}.jpg: {trick}")
        for stream, width in ((wide, 200), (narrow, 8)):
            table = Table("a", "b", title=trick, show_header=False)
            table.add_row(trick, Text(f"{trick} and a long text of many words"))
            print_table(table, Console(file=stream, width=width))
        said: list[str] = []
        display = ProgressDisplay(None, write=said.append)
        display._last_line = -1e9
        display.show("x", trick, 1, 2)
        shown = (line.getvalue(), wide.getvalue(), narrow.getvalue(), *said, escaped(trick))
        assert len(shown) == 5
        for text in shown:
            assert not _FORBIDDEN & set(text), (trick, text)


def _request(peer: str = "127.0.0.1", **headers: str) -> Any:
    lines = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]

    def header(name: bytes) -> str:
        return next((v.decode() for k, v in lines if k == name), "")

    return SimpleNamespace(scope={"client": (peer, 1), "headers": lines}, header=header)


def pages_of_other_sites(folder: Path) -> None:
    """Origin alone tells a plain-http page; ports and names must agree with Host."""
    for origin, host, allowed, foreign in (
        ("http://evil.example", "localhost:8000", (), True),
        ("null", "localhost:8000", (), True),
        ("http://localhost:9000", "localhost:8000", (), True),
        ("http://localhost:8000.evil", "localhost:8000", (), True),
        ("http://localhost:8000", "", (), True),
        ("http://localhost:8000", "localhost:8000", (), False),
        ("https://Captions.example", "captions.example", (), False),
        ("http://friend.example", "localhost", ("http://friend.example",), False),
        ("http://any.example", "localhost", ("*",), False),
        ("", "localhost", (), False),
    ):
        request = _request(origin=origin, host=host)
        assert _is_foreign(request, allowed) is foreign, (origin, host)
    assert _is_foreign(_request(sec_fetch_site="cross-site", host="x"), ())


def addresses_that_are_counted(folder: Path) -> None:
    """IPv6 by network, IPv4 in IPv6 as IPv4, forwarded addresses of named proxies alone."""
    near = Settings(proxies=("10.0.0.0/8", "::1")).proxy_networks
    for peer, forwarded, proxies, counted in (
        ("2001:db8::1", "", (), "2001:db8::/64"),
        ("2001:db8:0:0:ffff::9", "", (), "2001:db8::/64"),
        ("2001:db8:0:1::9", "", (), "2001:db8:0:1::/64"),
        ("::ffff:1.2.3.4", "", (), "1.2.3.4"),
        ("1.2.3.4", "5.6.7.8", (), "1.2.3.4"),
        ("1.2.3.4", "5.6.7.8", near, "1.2.3.4"),
        ("10.0.0.1", "5.6.7.8", near, "5.6.7.8"),
        ("10.0.0.1", "9.9.9.9, 5.6.7.8, 10.1.1.1", near, "5.6.7.8"),
        ("10.0.0.1", "[2001:db8::7]:80", near, "2001:db8::/64"),
        ("10.0.0.1", "5.6.7.8:99", near, "5.6.7.8"),
        ("10.0.0.1", "unknown", near, "10.0.0.1"),
        ("", "5.6.7.8", near, ""),
    ):
        found = client_of(_request(peer, x_forwarded_for=forwarded), proxies)
        assert found == counted, (peer, forwarded, found)
    with pytest.raises(ConfigError, match="network"):
        Settings(proxies=("nowhere",))


def names_that_lead_here(folder: Path) -> None:
    """On loopback the service answers to loopback's names alone; elsewhere to all."""
    for host, hosts, name, good in (
        ("127.0.0.1", (), "localhost:8000", True), ("127.0.0.1", (), "evil.example", False),
        ("::1", (), "[::1]:8000", True), ("localhost", (), "evil.example:8000", False),
        ("127.0.0.1", ("*",), "any.example", True), ("192.0.2.7", (), "any.example", True),
        ("127.0.0.1", ("mine",), "localhost", False), ("127.9.9.9", (), "evil.example", False),
    ):  # fmt: skip
        settings = Settings(host=host, hosts=hosts).listening()
        service: Any = SimpleNamespace(settings=settings, keys=None)
        request = _request(host=name)
        request.scope |= {"path": "/", "method": "GET"}
        refused = nullcontext() if good else pytest.raises(RequestError, match="host name")
        with refused:
            RequestMiddleware(None, service)._check_access(request)


CASES = [
    words_on_a_terminal,
    pages_of_other_sites,
    addresses_that_are_counted,
    names_that_lead_here,
]
