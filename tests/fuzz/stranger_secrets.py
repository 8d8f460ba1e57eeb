"""Users, passwords and tokens go to the host that they were given for, and are shown nowhere."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import base64
import io
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

import fsspec

from regard.bulk import filesystem, open_run, worker
from regard.bulk.filesystem import LocalPlace, Place, Places, shown
from regard.bulk.sources import units_of
from regard.bulk.worker import items_of
from regard.cli.main import _report_failure
from regard.cli.output import complain
from regard.config import DataConfig, Recipe
from regard.data.shards import load_shards
from regard.errors import RegardError
from regard.training.setup import _resolve
from regard.util.shown_text import secrets_of, without_secrets
from tests.helpers import toys
from tests.helpers.bulk_jobs import do, job, rows, write_parquet

USER, PASSWORD = "alice", "pa55-w0rd"
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
SCHEMES = ("http", "https", "ftp", "sftp", "memory", "s3", "gs", "abfs", "hdfs", "webhdfs", "smb")


class _Server(ThreadingHTTPServer):
    """Answers with a list, pictures or a redirect, and keeps what clients said of themselves."""

    def __init__(self, files: dict[str, bytes], *, locked: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.locked = files, locked
        self.seen = list[str]()

    @property
    def home(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        self.server.seen.append(f"{self.path} {self.headers.get('Authorization', '')}")
        content = self.server.files.get(self.path)
        if self.server.locked and self.headers.get("Authorization") != f"Basic {BASIC}":
            self.send_error(401)
        elif content is None:
            self.send_error(404)
        elif content.startswith(b"to "):
            self.send_response(302)
            self.send_header("Location", content.decode()[3:])
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def _serving(files: dict[str, bytes], *, locked: bool = False) -> Generator[_Server]:
    with _Server(files, locked=locked) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def passwords_and_other_hosts(folder: Path) -> None:
    """A list that names another host, its own, itself by a redirect, and parts of either."""
    with _serving({"/x.jpg": toys.jpeg()}) as evil, _serving({}, locked=True) as home:
        other = evil.home.replace("127.0.0.1", "localhost")
        names = [f"http://{evil.home}/x.jpg", f"http://{other}/x.jpg", "a.jpg", "away.jpg"]
        names += [f"http://{home.home}/a.jpg", f"http://{home.home}@{evil.home}/x.jpg"]
        names += [f"http://{home.home}#@{evil.home}/x.jpg", f"https://{evil.home}/x.jpg"]
        home.files["/l/list.txt"] = "\n".join(names).encode()
        home.files["/l/a.jpg"] = home.files["/a.jpg"] = toys.jpeg(1)
        home.files["/l/away.jpg"] = f"to http://{other}/x.jpg".encode()
        source = f"http://{USER}:{PASSWORD}@{home.home}/l/list.txt"
        with mock.patch.object(worker, "_PAUSE", 0.0):
            do(job(source, folder / "out", unit=8))
        found = rows(folder / "out")
        assert found[0].get("caption"), found[0]
        assert all(found[n].get("caption") for n in (2, 4)), found
        assert evil.seen
        told = [line for line in evil.seen if BASIC in line]
        assert not told, told
        _assert_clean(folder)


def options_and_other_buckets(folder: Path) -> None:
    """Keys of a bucket and its options do not go to another one, or to another scheme."""
    asked = list[str]()

    def opened(scheme: str, host: str, query: str) -> tuple[Place, str]:
        asked.append(f"{scheme}://{host}/{query}")
        return LocalPlace(), host

    source = "s3://KEYID:s3cr3t@mine/list.txt?region=eu-west-1&endpoint_override=localhost"
    with mock.patch.object(filesystem, "_opened", opened):
        Places().beside(source, "mine/list.txt", "s3://mine/x.jpg")
        assert asked[-1].startswith("s3://KEYID:s3cr3t@mine/?region=eu-west-1&endpoint")
        for other in ("s3://theirs/x.jpg", "gs://mine/x.jpg", "s3://mine.evil/x", "s3://minex/"):
            Places().beside(source, "mine/list.txt", other)
            assert not {"s3cr3t", "endpoint"} & set(re.split(r"\W|_", asked[-1])), asked[-1]


def secrets_of_every_scheme(folder: Path) -> None:
    """Errors, names, units and plans of sources and outputs at places with passwords."""
    told = list[str]()
    for scheme in SCHEMES:
        url = f"{scheme}://{USER}:{PASSWORD}@127.0.0.1:9/f/list.txt?token=t0ken-value"
        listed = folder / f"{scheme}.txt"
        listed.write_text(f"{url}\n{url.replace('list.txt', 'a.jpg')}\n")
        parquet = write_parquet(folder / f"{scheme}.parquet", {"path": [url]})
        told.append(shown(url))
        for source in (str(listed), str(parquet)):
            places = Places()
            with mock.patch.object(filesystem, "_opened", _refused):
                for unit in units_of(source, places, size=4):
                    told.append(unit.to_json())
                    for item in items_of(unit, source, places):
                        told += [item.name, item.error]
        with suppress(RegardError), mock.patch.object(filesystem, "_opened", _refused):
            open_run(job(url, folder / f"{scheme}-out"))
        try:
            load_shards(f"nothing-{scheme}://{USER}:{PASSWORD}@host/shards.json")
        except RegardError as error:
            told.append(str(error))
        told.append(repr(job(url, url)))
    for line in told:
        _assert_no_secret(line)
    assert [line for line in told if "127.0.0.1" in line]


def _refused(scheme: str, host: str, query: str) -> tuple[Place, str]:
    """Fail as libraries do: with the whole address in the message, in several spellings."""
    url = f"{scheme}://{host}/{query}"
    reason = f"cannot parse URI '{url}' ({USER}:{PASSWORD}, Basic {BASIC}, {PASSWORD})"
    raise filesystem.ConfigError(without_secrets(reason, [url]))


def secrets_of_the_plan(folder: Path) -> None:
    """Lists whose entries hold passwords are read again by workers, and resumed."""
    files = fsspec.filesystem("memory")
    names = list[str]()
    for number in range(3):
        names.append(f"memory://{USER}:{PASSWORD}@strangers/{number}.jpg?token=t0ken-value")
        files.pipe(f"/{names[-1].removeprefix('memory://')}", toys.jpeg(number))
    listed = folder / "list.csv"
    listed.write_text("name;photo\n" + "".join(f"a;{name}\n" for name in names))
    out = folder / "out"
    do(job(listed, out, unit=2, column="photo"), units=1)
    do(job(listed, out, unit=2, column="photo"))
    found = rows(out)
    assert [bool(row.get("caption")) for row in found] == [True] * 3, found
    listed.unlink()
    _assert_clean(folder)


def secrets_of_a_recipe(folder: Path) -> None:
    """A run's folder keeps the recipe, so an address with a password is refused."""
    for url in ("http://alice:pa55-w0rd@h/shards.json", "https://h/s.json?sig=pa55-w0rd"):
        try:
            _resolve(Recipe(data=DataConfig(annotations=url)))
        except RegardError as error:
            _assert_no_secret(str(error))
        else:
            raise AssertionError(url)


def secrets_in_messages(folder: Path) -> None:
    """Spellings of addresses in messages of libraries; names that are no secrets are kept."""
    for text in (
        f"GET http://{USER}:{PASSWORD}@h/x failed",
        f"<ClientResponse(https://{USER}:{PASSWORD}@h:80/x?a=1) [404]>",
        f"simplecache::https://{USER}:{PASSWORD}@h/x",
        f"'s3://{USER}:{PASSWORD}/with/slashes@bucket/x'",
        f"s3://{USER}:{PASSWORD}@with@bucket/x",
        f"https://h/x?X-Amz-Signature={PASSWORD}&X-Amz-Credential={USER}/2026",
        f"https://h/x?se=2026&sig={PASSWORD}; https://h/?api_key={PASSWORD}#top",
        f"hdfs://{USER}@h/x, https://{PASSWORD}@github.com/x",
    ):
        _assert_no_secret(without_secrets(text))
        _assert_no_secret(str(RegardError(text)))
    kept = "https://h/get?id=1&design=2", "https://h:80/a@2x.jpg", "s3://b/me@home.jpg", "a@b"
    for text in kept:
        assert without_secrets(text) == text
    assert "a%2Fb" in secrets_of(["s3://KEY:a%2Fb@bucket"])
    assert "a/b" in secrets_of(["s3://KEY:a%2Fb@bucket"])


def secrets_in_tracebacks(folder: Path) -> None:
    """What --debug and unforeseen errors print, of a library that repeats the password alone."""
    url, text = f"ftp://{USER}:{PASSWORD}@h/x", io.StringIO()
    with mock.patch("sys.argv", ["regard", "bulk", url]), redirect_stderr(text):
        try:
            try:
                raise OSError(f"login of {USER} with {PASSWORD} failed")
            except OSError as error:
                raise RegardError(f"{url} cannot be read") from error
        except RegardError as error:
            _report_failure(RegardError, error, None)
            complain(str(error.__cause__))
    assert "Traceback" in text.getvalue()
    _assert_no_secret(text.getvalue())


def _assert_no_secret(text: str) -> None:
    for secret in (USER, PASSWORD, BASIC, "t0ken-value"):
        assert secret not in text, text


def _assert_clean(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            _assert_no_secret(path.read_bytes().decode("utf-8", "replace"))


CASES = [
    passwords_and_other_hosts,
    options_and_other_buckets,
    secrets_of_every_scheme,
    secrets_of_the_plan,
    secrets_of_a_recipe,
    secrets_in_messages,
    secrets_in_tracebacks,
]
