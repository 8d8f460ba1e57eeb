"""Odd entries of lists, Parquet and tars: each is a row with its reason, and the others go on."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow

from regard.bulk import open_run
from regard.bulk.filesystem import Places
from regard.bulk.sources import units_of
from regard.bulk.worker import items_of
from regard.data.shards import load_shards
from regard.errors import DatasetError
from tests.helpers import toys
from tests.helpers.bulk_jobs import job, write_parquet

_MEMORY = 2**27


def _items(source: Path) -> list[Any]:
    """All items of a source in order, as a job reads them; its plan is written as well."""
    open_run(job(source, source.with_suffix(".out")))
    places = Places()
    units = units_of(str(source), places, size=4)
    return [item for unit in units for item in items_of(unit, str(source), places)]


def _check(source: Path, good: int, bad: int) -> None:
    tracemalloc.start()
    found = _items(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    errors = [item.error for item in found if item.error]
    assert (len(found) - len(errors), len(errors)) == (good, bad), [i.error for i in found]
    assert peak < _MEMORY, peak


def urls_of_every_protocol(folder: Path) -> None:
    """Protocols of fsspec that need options, packages or programs; and no protocols at all."""
    names = ["a.jpg"]
    for protocol in ("reference", "filecache", "zip", "tar", "dir", "data", "generic", "nowhere",
                     "simplecache::reference", "blockcache", "libarchive"):  # fmt: skip
        names += [f"{protocol}://x/y.jpg", f"{protocol}://"]
    names += ["http://[bad/x.jpg", "s3:///x.jpg", "s3://a b/x.jpg", "ftp://:x/y", "://x", "\0.jpg"]
    (folder / "a.jpg").write_bytes(toys.jpeg())
    (folder / "list.txt").write_text("\n".join(names))
    found = _items(folder / "list.txt")
    assert len(found) == len(names)
    assert not found[0].error
    source = write_parquet(folder / "p.parquet", {"path": list[object](names)})
    assert len(_items(source)) == len(names)


def odd_lines_of_lists(folder: Path) -> None:
    """Lines that are nested, long, broken, of the wrong kind."""
    nested = "[" * 100_000
    lines = [
        '{"file": "a.jpg"}', nested, '{"file": ' + nested, '{"file": 5}', "5", "null", "[]", '"a"',
        '{"file": {}}', '{"file": "' + "x" * 3_000_000 + '"}', "{" * 2_000_000, '{"file": "b.jpg"}',
    ]  # fmt: skip
    (folder / "list.jsonl").write_text("\n".join(lines))
    _check(folder / "list.jsonl", 2, len(lines) - 2)
    text = "caption,file\na,a.jpg\n" + "b" * 200_000 + ',b.jpg\nc,c.jpg\n"' + "d" * 2_000_000
    (folder / "list.csv").write_text(text + '"\ne,e.jpg\n')
    found = _items(folder / "list.csv")
    assert [item.name for item in found if not item.error][:2] == ["a.jpg", "c.jpg"]
    long = [item.error for item in found if "more than 131,072 characters" in item.error]
    assert [error[-11] for error in long] == ["b", "d"], [item.error for item in found]
    assert [item.name for item in found if not item.error] == ["a.jpg", "c.jpg", "e.jpg"]
    (folder / "list.txt").write_text("a.jpg\n" + "x" * 5_000_000 + "\nb.jpg\n")
    _check(folder / "list.txt", 2, 1)


def odd_values_of_parquet(folder: Path) -> None:
    """Text that is not UTF-8, times out of range, paths and bytes that are numbers."""
    bad = pyarrow.StringArray.from_buffers(
        3,
        pyarrow.py_buffer(b"\0\0\0\0\5\0\0\0\7\0\0\0\14\0\0\0"),
        pyarrow.py_buffer(b"a.jpg\xff\xfeb.jpg"),
    )
    _check(write_parquet(folder / "text.parquet", {"path": bad}), 2, 1)
    times = pyarrow.array([0, 2**62, -(2**62)], pyarrow.timestamp("us"))
    _check(write_parquet(folder / "time.parquet", {"path": times}), 0, 3)
    picture = toys.jpeg()
    structs: list[object] = [
        {"bytes": picture, "path": 5}, {"bytes": None, "path": 5}, {"bytes": picture, "path": None},
    ]  # fmt: skip
    _check(write_parquet(folder / "struct.parquet", {"image": structs}), 2, 1)
    lists: list[object] = [[1], [2], []]
    _check(write_parquet(folder / "list.parquet", {"image": lists}), 0, 3)


def _member(name: str, content: bytes, **values: Any) -> bytes:
    """The header and bytes of a member; `values` replace fields of the header."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in values.items():
        setattr(info, field, value)
    return info.tobuf() + content + bytes(-len(content) % 512)


def tars_of_every_kind(folder: Path) -> None:
    """Sparse members, sizes that lie, endless headers, too many of them, members that go back."""
    good = _member("a.jpg", toys.jpeg())
    sparse = "GNU.sparse.major=1\nGNU.sparse.minor=0\nGNU.sparse.name=b.jpg\n"
    sparse += f"GNU.sparse.realsize={2**36}\n"
    records = b"".join(_pax(line) for line in sparse.splitlines())
    sparse_map = b"1\n68719476735\n1\n".ljust(512, b"\0") + bytes(512)
    negative = bytearray(_member("b.jpg", b""))
    negative[124:136] = b"\xff" * 10 + b"\xfc\0"
    _sign(negative)
    long_names = b"".join(
        _member("././@LongLink", b"x.jpg\0", type=tarfile.GNUTYPE_LONGNAME) for _ in range(3000)
    )
    minus = _pax("size=-5120")
    for name, bad in {
        "sparse": _member("p", records, type=tarfile.XHDTYPE) + _member("b.jpg", sparse_map),
        "large": _member("b.jpg", b"", size=2**36),
        "long": _member("././@LongLink", b"", size=2**40, type=tarfile.GNUTYPE_LONGNAME),
        "pax": _member("p", b"", size=2**36, type=tarfile.XHDTYPE),
        "negative": bytes(negative),
        "pax negative": _member("p", minus, type=tarfile.XHDTYPE) + _member("b.jpg", b""),
        "long names": long_names + good,
        "bad map": _member("p", records, type=tarfile.XHDTYPE) + _member("b.jpg", b"x" * 512),
    }.items():
        content = good + bad + bytes(1024)
        for suffix in ("tar", "tgz"):
            path = folder / f"{name}.{suffix}"
            path.write_bytes(content if suffix == "tar" else _gzipped(content))
            tracemalloc.start()
            found = _items(path)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < _MEMORY, (name, suffix, peak)
            assert not found[0].error, (name, found[0].error)
            assert len(found) > 1, name
            assert any(item.error for item in found[1:]), name
        try:
            load_shards(str(folder / f"{name}.tar"))
        except DatasetError:
            pass
        else:
            raise AssertionError(f"{name} is no shard")


def bombs_in_tgz(folder: Path) -> None:
    """A member that inflates to more than may be read."""
    path = folder / "bomb.tgz"
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, size in (("a.jpg", 1000), ("b.jpg", 2**30 + 1)):
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, _Zeros(size)) if size < 2**20 else tar.addfile(info)
    _check(path, 1, 2)


class _Zeros(io.RawIOBase):
    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int = -1) -> bytes:
        count = self._left if size < 0 else min(size, self._left)
        self._left -= count
        return bytes(count)


def _pax(line: str) -> bytes:
    length = len(line) + 3
    length += len(str(length)) - 1
    while len(f"{length} {line}\n") != length:
        length += 1
    return f"{length} {line}\n".encode()


def _sign(header: bytearray) -> None:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])


def _gzipped(content: bytes) -> bytes:
    import gzip

    return gzip.compress(content)


CASES = [
    urls_of_every_protocol,
    odd_lines_of_lists,
    odd_values_of_parquet,
    tars_of_every_kind,
    bombs_in_tgz,
]
