"""Every kind of source to the same units, in one order, with nothing left out."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import fsspec
import pytest

from regard.bulk.containers import Unit
from regard.bulk.filesystem import Places, shown
from regard.bulk.sources import units_of
from regard.bulk.worker import Item, items_of
from regard.errors import ConfigError, DatasetError
from regard.media.find import find_files
from tests.helpers import bulk_jobs, toys
from tests.helpers.bulk_jobs import write_parquet, write_tar


def units(source: object, size: int = 3, column: str | None = None) -> list[Unit]:
    return list(units_of(str(source), Places(), size=size, column=column))


def items(source: object, size: int = 3, column: str | None = None) -> list[Item]:
    places = Places()
    found: list[Item] = []
    for unit in units(source, size, column):
        of_unit = list(items_of(unit, str(source), places))
        assert unit.count in (None, len(of_unit))
        found += of_unit
    return found


def content(item: Item) -> bytes:
    assert item.source is not None
    given = item.source.fetch()
    return given if isinstance(given, bytes) else Path(str(given)).read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight pictures, two of them in folders that sort between files, and what is none."""
    made = bulk_jobs.pictures(tmp_path / "pictures", 6)
    for inner in ("002", "003.x"):
        bulk_jobs.pictures(made / inner, 1)
    (made / "notes.txt").write_text("000.jpg\n")
    (made / ".hidden.jpg").write_bytes(b"")
    return made


def test_a_folder_gives_what_captioning_it_gives_in_units(folder: Path) -> None:
    found = units(folder)
    paths = [path for unit in found for path, _ in unit.entries]
    assert paths == list(find_files([str(folder)]))
    assert [unit.count for unit in found] == [3, 3, 2]
    assert found[0].size == sum(Path(path).stat().st_size for path in paths[:3])


def test_units_survive_being_written(folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "list.jsonl"
    bad.write_bytes(
        b'{"file": "\xed\xb3\xbf.jpg"}\n'.replace(b"\xed\xb3\xbf", b"\\udcff") + b"{}\n"
    )
    for unit in [*units(folder), *units(bad)]:
        assert Unit.from_json(unit.to_json()) == unit


def test_a_pattern_gives_its_matches(folder: Path) -> None:
    assert [i.name for i in items(folder / "00[0-2].jpg")] == [
        str(folder / f"00{n}.jpg") for n in range(3)
    ]
    assert len(items(folder / "**" / "*.jpg")) == 8


@pytest.mark.parametrize("source", ["nothing", "no*.jpg", "empty"])
def test_no_source_is_said(tmp_path: Path, source: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="to caption. Name a folder or pattern"):
        units(tmp_path / source)


LISTS = {
    "list.txt": "000.jpg\n\n001.jpg\r\n",
    "list.csv": "caption,file\na dog,000.jpg\n,001.jpg\n",
    "list.tsv": "file\tcaption\n000.jpg\ta dog\n001.jpg\t\n",
    "list.jsonl": '{"path": "000.jpg"}\n{"path": "001.jpg", "x": 1}\n',
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_name_files_from_where_they_lie(folder: Path, name: str) -> None:
    (folder / name).write_text(LISTS[name], "utf-8", newline="")
    found = items(folder / name)
    assert [i.name for i in found] == ["000.jpg", "001.jpg"]
    assert [content(i) for i in found] == [(folder / f"00{n}.jpg").read_bytes() for n in range(2)]


def test_a_line_that_names_nothing_is_an_item_that_failed(folder: Path) -> None:
    made = folder / "list.jsonl"
    made.write_text('{"file": "000.jpg"}\n{oh\n{"file": 3}\n[]\n{"file": "001.jpg"}\n')
    found = items(made)
    assert [bool(i.error) for i in found] == [False, True, True, True, False]
    assert [i.name for i in found[1:4]] == [f"{made}#{n}" for n in (2, 3, 4)]
    (folder / "list.csv").write_text("file,x\n000.jpg,1\n,2\n")
    assert [i.error for i in items(folder / "list.csv")] == ["", "its column 'file' is empty."]


def test_another_column_is_asked_for(folder: Path) -> None:
    made = folder / "list.csv"
    made.write_text("picture,size\n000.jpg,1\n")
    with pytest.raises(DatasetError, match="It has picture, size: name one of them by --column"):
        units(made)
    assert [i.name for i in items(made, column="picture")] == ["000.jpg"]
    with pytest.raises(DatasetError, match="no column 'photo'"):
        units(made, column="photo")


@pytest.mark.parametrize("kind", ["bytes", "paths", "structs"])
def test_parquet_holds_files_or_names_them(folder: Path, tmp_path: Path, kind: str) -> None:
    files = [folder / f"00{n}.jpg" for n in range(6)]
    values: dict[str, list[object]] = {
        "bytes": [f.read_bytes() for f in files],
        "paths": [f"pictures/{f.name}" for f in files],
        "structs": [{"bytes": f.read_bytes(), "path": f.name} for f in files],
    }
    made = write_parquet(tmp_path / "data.parquet", {"x": [0] * 7, "image": [*values[kind], None]})
    found = items(made)
    assert [(u.group, u.at, u.first, u.count) for u in units(made)] == [
        (0, 0, 0, 3), (0, 3, 3, 1), (1, 0, 4, 3)
    ]  # fmt: skip
    assert [content(i) for i in found[:6]] == [f.read_bytes() for f in files]
    assert found[6].error == "its column 'image' is empty."
    assert found[6].name == f"{made}#6"


def test_parquet_that_is_none_is_an_item_that_failed(folder: Path, tmp_path: Path) -> None:
    (folder / "x.parquet").write_bytes(b"PAR1 or not")
    found = items(folder)
    assert len(found) == 9
    assert "cannot be read as Parquet" in found[-1].error
    number = items(write_parquet(tmp_path / "n.parquet", {"image": [1, 2]}))
    assert "holds int; bytes or paths were expected" in number[0].error
    assert len(number) == 2


def test_a_tar_is_cut_between_samples_and_read_from_each_cut(tmp_path: Path) -> None:
    made = write_tar(tmp_path / "shard.tar")
    found = items(made)
    assert [u.count for u in units(made)] == [4, 3, 2]
    names = ["0000.jpg", "0001.jpg", "0002.jpg", "0002.right.png", "0003.jpg"]
    assert [i.name for i in found[:5]] == [f"{made}#{name}" for name in names]
    assert [i.error for i in found if i.error] == ["its sample holds no picture, clip or scan."]
    assert found[5].name.startswith(f"{made}#0004.")
    assert content(found[8]) == toys.jpeg(7, (16, 24))
    whole = [(i.name, i.error) for i in items(made, size=100)]
    assert whole == [(i.name, i.error) for i in found]
    assert [u.at for u in units(made, size=100)] == [0]


def test_a_compressed_tar_is_one_unit(tmp_path: Path) -> None:
    plain = write_tar(tmp_path / "shard.tar")
    with tarfile.open(tmp_path / "shard.tgz", "w:gz") as packed, tarfile.open(plain) as tar:
        for member in tar:
            packed.addfile(member, tar.extractfile(member))
    (found,) = units(tmp_path / "shard.tgz")
    assert found.count is None
    ours = [i.name.partition("#")[2] for i in items(tmp_path / "shard.tgz")]
    assert ours == [i.name.partition("#")[2] for i in items(plain)]


@pytest.mark.parametrize("name", ["shard.tar", "shard.tgz"])
def test_a_damaged_tar_ends_with_an_item_that_says_so(tmp_path: Path, name: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz" if name.endswith("z") else "w") as tar:
        for i in range(4):
            info = tarfile.TarInfo(f"{i}.jpg")
            content = toys.jpeg(i, (300, 300))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    whole = buffer.getvalue()
    (tmp_path / name).write_bytes(whole[: len(whole) * 6 // 10])
    found = items(tmp_path / name, size=100)
    assert 1 < len(found) < 5
    assert "the tar is damaged after" in found[-1].error
    assert not any(i.error for i in found[:-1])


def test_links_in_a_tar_are_no_files(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    assert [i.error for i in items(tmp_path / "a.tar")] == [
        "it is a link or a device; a file was expected."
    ]


def test_shards_of_a_folder_are_units_of_their_own(tmp_path: Path) -> None:
    bulk_jobs.pictures(tmp_path / "in", 2)
    write_tar(tmp_path / "in" / "a.tar", 2)
    write_tar(tmp_path / "in" / "b.tar", 2)
    assert [u.kind for u in units(tmp_path / "in")] == ["files", "tar", "tar"]
    assert [u.kind for u in units(tmp_path / "in" / "*.tar")] == ["tar", "tar"]


def test_what_bulk_work_wrote_is_no_source(tmp_path: Path) -> None:
    bulk_jobs.pictures(tmp_path, 2)
    before = [item.name for item in items(tmp_path)]
    out = tmp_path / "out"
    out.mkdir()
    write_parquet(out / "part-000000.parquet", {"image": [toys.jpeg(1, (16, 24))] * 2})
    (out / "_plan.json").write_text("{}")
    assert [item.name for item in items(tmp_path)] == before
    assert [item.name for item in items(tmp_path / "**" / "*.*")] == before
    assert len(items(out / "part-000000.parquet")) == 2  # asked for by name, it is one


def test_any_file_system_of_fsspec_is_a_source() -> None:
    files = fsspec.filesystem("memory")
    for name in ("b.jpg", "in/a.jpg", "in/list.txt"):
        files.pipe(f"/bulk/{name}", b"x.jpg" if name.endswith("txt") else toys.jpeg(1, (16, 24)))
    found = items("memory://bulk")
    assert [i.name for i in found] == ["memory://bulk/b.jpg", "memory://bulk/in/a.jpg"]
    assert content(found[1]) == toys.jpeg(1, (16, 24))
    assert [i.name for i in items("memory://bulk/**/a.*")] == ["memory://bulk/in/a.jpg"]
    (gone,) = items("memory://bulk/in/list.txt")
    assert gone.name == "x.jpg"


def test_passwords_are_shown_to_nobody() -> None:
    url = "s3://key:secret@bucket/folder/*.jpg?endpoint_override=localhost&scheme=http"
    assert shown(url) == "s3://bucket/folder/*.jpg"
    assert shown("/data/a?b=c.jpg") == "/data/a?b=c.jpg"


def test_a_place_that_nobody_knows_is_said() -> None:
    with pytest.raises(ConfigError, match="nowhere://x cannot be opened"):
        units("nowhere://x/y")


def test_json_of_lists_may_name_what_no_file_system_takes(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text(json.dumps({"file": "nowhere://x/y.jpg"}) + "\n")
    (found,) = items(tmp_path / "list.jsonl")
    assert "cannot be opened" in found.error


def test_the_query_of_a_url_tells_files_apart_where_it_is_no_option(tmp_path: Path) -> None:
    """As photo services have it; the fake file system takes any name, a query in it too."""
    files = fsspec.filesystem("memory")
    for number in (1, 2):
        files.pipe(f"/photos/get?id={number}", toys.jpeg(number, (16, 24)))
    urls = [f"memory://ann:secret@photos/get?id={number}" for number in (1, 2)]
    (tmp_path / "list.txt").write_text("\n".join(urls))
    places = Places()
    assert [places.find(url)[1].rpartition("/")[2] for url in urls] == ["get?id=1", "get?id=2"]
    assert len(places._open) == 1  # type: ignore[reportPrivateUsage]
    found = items(tmp_path / "list.txt")
    assert [i.name for i in found] == [f"memory://photos/get?id={n}" for n in (1, 2)]
    assert shown("https://host/get?id=1") == "https://host/get?id=1"


def test_a_clip_is_one_whatever_the_query_of_its_url(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("https://host/clip.mp4?v=1\n")
    (found,) = items(tmp_path / "list.txt")
    assert found.medium == "video"


@pytest.mark.parametrize("delimiter", [";", "\t", ","])
def test_a_csv_may_have_other_delimiters_as_captions_may(folder: Path, delimiter: str) -> None:
    text = f'caption{delimiter}file\n"a{delimiter} b"{delimiter}b.jpg\n'
    (folder / "list.csv").write_text(text)
    (found,) = items(folder / "list.csv")
    assert found.name == "b.jpg"
    assert not found.error


def test_a_tsv_has_tabs_whatever_else_its_header_holds(folder: Path) -> None:
    (folder / "list.tsv").write_text('"what, who; when, where"\tfile\na\tb.jpg\n')
    (found,) = items(folder / "list.tsv")
    assert found.name == "b.jpg"


@pytest.mark.timeout(20)
def test_special_files_and_what_is_no_medium_are_left_out_with_a_line(tmp_path: Path) -> None:
    source, other = tmp_path / "source", tmp_path / "other"
    for path in (source / "b.png", source / "notes.md", other / "c.png"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    (source / "IMG").write_bytes(toys.jpeg())
    (source / "linked").symlink_to(other)
    (source / "loop").symlink_to(source)
    os.mkfifo(source / "a.jpg")
    (source / "zero.png").symlink_to("/dev/zero")
    said: list[str] = []
    found = [
        Path(entry[0]).name
        for unit in units_of(str(source), Places(), size=9, report=said.append)
        for entry in unit.entries
    ]
    assert found == ["IMG", "b.png", "c.png"]
    assert [line.partition(": ")[2] or line for line in said[2:]] == [
        "left out 1 file, neither picture, clip nor scan (1 .md)."
    ]
    assert "a.jpg is a pipe" in said[0]
    assert "zero.png is a device" in said[1]
    assert sorted(found) == sorted(Path(f).name for f in find_files([str(source)]))
    (tmp_path / "list.txt").write_text("source/a.jpg\nsource/b.png\nsource/zero.png\n")
    errors = [item.error for item in items(tmp_path / "list.txt")]
    assert "is a pipe, not a file" in errors[0]
    assert errors[1] == ""
    assert "is a device, not a file" in errors[2]


def test_quotes_swallow_no_files_of_a_list(folder: Path) -> None:
    made = folder / "list.csv"
    made.write_text('File,caption\n000.jpg,"a dog\n001.jpg,two\n002.jpg,"a" cat\n003.jpg,x"\n')
    found = items(made)
    assert [(i.name, bool(i.error)) for i in found] == [
        (f"{made}#2", True),
        ("001.jpg", False),
        (f"{made}#4", True),
        ("003.jpg", False),
    ]
    made.write_text("file,caption,file\n000.jpg,a,001.jpg\n")
    with pytest.raises(DatasetError, match="'file' occurs 2 times"):
        units(made)
    (folder / "list.jsonl").write_text('{"file": "000.jpg", "file": "001.jpg"}\n')
    assert [bool(i.error) for i in items(folder / "list.jsonl")] == [True]
