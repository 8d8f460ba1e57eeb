"""Sources and outputs on an S3-compatible server, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from regard.bulk import open_run
from regard.bulk.filesystem import ArrowPlace, Places
from regard.bulk.sources import units_of
from regard.bulk.worker import items_of
from regard.errors import ConfigError
from tests.helpers import bulk_jobs
from tests.helpers.bulk_jobs import do, job, rows, shards, write_parquet, write_tar


class Server:
    """An S3 server of the tests' own, and URLs of what lies there."""

    def __init__(self, port: int) -> None:
        self.options = f"scheme=http&endpoint_override=127.0.0.1%3A{port}&region=us-east-1"
        self.files = fs.S3FileSystem(
            access_key="k", secret_key="s", scheme="http",
            endpoint_override=f"127.0.0.1:{port}", region="us-east-1", allow_bucket_creation=True,
        )  # fmt: skip

    def url(self, path: str) -> str:
        return f"s3://k:s@{path}?{self.options}"

    def put(self, folder: Path, place: str) -> None:
        self.files.create_dir(place.partition("/")[0])
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            with self.files.open_output_stream(f"{place}/{path.relative_to(folder)}") as file:
                file.write(path.read_bytes())

    def get(self, place: str, folder: Path) -> Path:
        folder.mkdir()
        for found in self.files.get_file_info(fs.FileSelector(place)):
            (folder / found.base_name).write_bytes(self.files.open_input_file(found.path).read())
        return folder


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    made.start()
    yield Server(made.get_host_and_port()[1])
    made.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = bulk_jobs.pictures(tmp_path / "in", 6, bad=(2,))
    (made / "sub").mkdir()
    bulk_jobs.pictures(made / "sub", 3)
    return made


def captions(found: list[dict[str, Any]]) -> list[Any]:
    return [(r.get("caption"), r.get("digest"), r.get("words")) for r in found]


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_rows_are_those_of_local_files(
    server: Server, folder: Path, tmp_path: Path, form: str
) -> None:
    server.put(folder, f"bucket-{form}/in")
    do(job(folder, tmp_path / "local", form=form))
    made = job(server.url(f"bucket-{form}/in"), server.url(f"bucket-{form}/out"), form=form)
    assert len(do(made, units=1)) == 1
    todo = open_run(made)
    assert list(todo.missing) == [1, 2]
    assert todo.there == (1, 4, 1)
    do(made)
    out = server.get(f"bucket-{form}/out", tmp_path / "out")
    assert sorted(p.name for p in out.iterdir()) == sorted(
        p.name for p in (tmp_path / "local").iterdir()
    )
    here, there = rows(tmp_path / "local"), rows(out)
    assert captions(there) == captions(here)
    assert there[0]["file"] == f"s3://bucket-{form}/in/000.jpg"
    plan = (out / "_plan.json").read_text("utf-8")
    assert "k:s@" not in plan
    assert f'"s3://bucket-{form}/in"' in plan
    before = shards(out)
    server.files.delete_file(f"bucket-{form}/out/part-000001.{form}")
    do(made)
    assert shards(server.get(f"bucket-{form}/out", tmp_path / "again")) == before


def test_patterns_tars_and_lists_lie_there_too(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    write_tar(folder / "shard.tar")
    write_parquet(folder / "list.parquet", {"path": ["000.jpg", "sub/001.jpg", "gone.jpg"]})
    (folder / "list.txt").write_text("000.jpg\ns3://kinds/in/sub/001.jpg\ngone.jpg\n")
    server.put(folder, "kinds/in")
    for source, count in (("*.jpg", 6), ("**/00[01].jpg", 4), ("shard.tar", 9)):
        places, url = Places(), server.url(f"kinds/in/{source}")
        found = [i for u in units_of(url, places, size=4) for i in items_of(u, url, places)]
        assert len(found) == count
        assert all(i.name.startswith("s3://kinds/in/") for i in found)
    for name in ("list.txt", "list.parquet"):
        do(job(server.url(f"kinds/in/{name}"), tmp_path / name))
        found = rows(tmp_path / name)
        assert [bool(r.get("caption")) for r in found] == [True, True, False]
        assert "gone.jpg does not exist" in found[2]["error"]


def test_what_a_place_drops_is_asked_for_again(
    server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put(folder, "flaky/in")
    asked: dict[str, int] = {}
    real = ArrowPlace.read

    def read(self: ArrowPlace, path: str) -> bytes:
        asked[path] = asked.get(path, 0) + 1
        if path.endswith("000.jpg") or (path.endswith("001.jpg") and asked[path] < 3):
            raise OSError("connection reset")
        return real(self, path)

    monkeypatch.setattr(ArrowPlace, "read", read)
    monkeypatch.setattr("regard.bulk.worker._PAUSE", 0.0)
    do(job(server.url("flaky/in/*.jpg"), tmp_path / "out"))
    found = rows(tmp_path / "out")
    assert "could not be fetched, tried 3 times: connection reset" in found[0]["error"]
    assert found[1]["caption"]
    assert asked["flaky/in/000.jpg"] == asked["flaky/in/001.jpg"] == 3


def test_a_bucket_that_is_not_there_is_said(server: Server, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"s3://nobody/x is not there"):
        open_run(job(server.url("nobody/x"), tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"s3://nobody/out cannot be written") as found:
        open_run(job(folder, server.url("nobody/out")))
    assert "k:s@" not in str(found.value)
