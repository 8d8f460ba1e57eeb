"""Shards: what is written is read again, from wherever it lies, and nothing that is damaged."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from typer.testing import CliRunner

from regard.cli.data_command import app
from regard.config import EncoderConfig
from regard.data import CaptionDataset, CaptionedItem, load_dataset
from regard.data.check import check_dataset
from regard.data.shards import load_captions, load_shards, names_shards, read_item, write_shards
from regard.errors import ConfigError, DatasetError
from regard.media import read_image
from regard.recipes import override
from regard.training import train
from tests.helpers import toys


@pytest.fixture
def dataset(tmp_path: Path) -> CaptionDataset:
    captions, images = toys.write_data(tmp_path)
    return load_dataset(captions, images)


def said(dataset: CaptionDataset) -> dict[str, tuple[tuple[str, ...], str]]:
    return {item.key: (item.captions, item.split) for item in dataset}


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_pictures_captions_and_splits_come_back(
    where: str, dataset: CaptionDataset, tmp_path: Path
) -> None:
    out = str(tmp_path / "shards") if where == "folder" else "memory://bucket/shards"
    made: list[tuple[int, int]] = []
    manifest = write_shards(dataset, out, size=6000, report=lambda *done: made.append(done))
    assert made[-1] == (8, 8)
    for name in (manifest, out, f"{out}/"):
        assert names_shards(name)
        found = load_captions(name)
        assert said(found) == said(dataset)
    for item, original in zip(sorted(found, key=lambda i: i.key), dataset, strict=True):
        media = read_item(item, read_image)
        assert media.name == original.key
        assert (media.pixels == read_image(original.file).pixels).all()
    files, folder = fsspec.url_to_fs(out)
    tars = [name.rpartition("/")[2] for name in files.ls(folder, detail=False)]
    assert {"train-000000.tar", "train-000001.tar", "val-000000.tar", "shards.json"} <= set(tars)
    if where == "memory":
        files.rm(folder, recursive=True)


@pytest.mark.parametrize("pattern", ["{train,val}-{000000..000000}.tar", "*.tar"])
def test_tars_without_a_list_are_read_through(
    pattern: str, dataset: CaptionDataset, tmp_path: Path
) -> None:
    write_shards(dataset, str(tmp_path / "shards"))
    (tmp_path / "shards" / "shards.json").unlink()
    found = load_shards(str(tmp_path / "shards" / pattern))
    assert said(found) == said(dataset)
    assert read_item(found.items[0], read_image).size == (40, 60)


def test_webdataset_reads_what_is_written(dataset: CaptionDataset, tmp_path: Path) -> None:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    write_shards(dataset, str(tmp_path / "shards"))
    with (tmp_path / "shards" / "train-000000.tar").open("rb") as file:
        samples = list(group_by_keys(tar_file_expander([{"url": "train", "stream": file}])))
    assert [sorted(k for k in s if "_" not in k) for s in samples] == [["jpg", "json"]] * 6
    assert json.loads(samples[0]["json"])["captions"] == list(dataset.items[0].captions)


def tar(path: Path, **files: bytes) -> None:
    with tarfile.open(path, "w") as made:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("__", "."))
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))


def test_shards_of_others_name_captions_in_json_or_text(tmp_path: Path) -> None:
    tar(
        tmp_path / "others.tar",
        a__jpg=toys.jpeg(1),
        a__txt=b"a dog\n",
        b__json=json.dumps({"caption": "a cat", "split": "val"}).encode(),
        b__jpg=toys.jpeg(2),
        c__json=b"{}",  # of no picture
        d__jpg=toys.jpeg(3),  # without a caption
    )
    found = load_shards(str(tmp_path / "others.tar"))
    assert said(found) == {"a": (("a dog",), "train"), "b": (("a cat",), "val")}
    assert (read_item(found.items[1], read_image).pixels == read_image(toys.jpeg(2)).pixels).all()


def test_captions_in_shards_are_a_list(dataset: CaptionDataset, tmp_path: Path) -> None:
    about = json.dumps({"captions": "a red dog"}).encode()
    tar(tmp_path / "others.tar", a__jpg=toys.jpeg(1), a__json=about)
    with pytest.raises(DatasetError, match="captions of a are 'a red dog'; expected a list"):
        load_shards(str(tmp_path / "others.tar"))
    tar(tmp_path / "two.tar", a__jpg=toys.jpeg(1), a__json=about, b__jpg=b"x", b__txt=b"two")
    found = load_shards(str(tmp_path / "two.tar"))
    assert said(found) == {"b": (("two",), "")}
    assert "captions of a are 'a red dog'" in found.notes[0]
    manifest = Path(write_shards(dataset, str(tmp_path / "shards")))
    values = json.loads(manifest.read_text())
    values["shards"][0]["samples"][0]["captions"] = "a red dog"
    manifest.write_text(json.dumps(values))
    with pytest.raises(DatasetError, match=r"captions of 0\.jpg are 'a red dog'; expected a list"):
        load_shards(str(manifest))


def test_splits_in_shards_may_be_written_otherwise(tmp_path: Path) -> None:
    files = {f"{key}__jpg": toys.jpeg(i) for i, key in enumerate("abc")}
    for key, split in zip("abc", ("Validation", None, "test "), strict=True):
        files[f"{key}__json"] = json.dumps({"caption": "a dog", "split": split}).encode()
    tar(tmp_path / "others.tar", **dict(sorted(files.items())))
    found = load_shards(str(tmp_path / "others.tar"))
    assert {item.key: item.split for item in found} == {"a": "val", "b": "train", "c": "test"}


def test_what_is_damaged_is_refused(dataset: CaptionDataset, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    write_shards(dataset, str(out))
    with pytest.raises(ConfigError, match="exists already"):
        write_shards(dataset, str(out))
    first = load_shards(str(out)).items[0]
    shard = out / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DatasetError, match="bytes of 0.jpg in .* differ from its list"):
        read_item(first, read_image)
    shard.write_bytes(content[:600])
    with pytest.raises(DatasetError, match="differ from its list"):
        read_item(first, read_image)
    with pytest.raises(DatasetError, match="damaged"):
        load_shards(str(shard))
    shard.unlink()
    with pytest.raises(DatasetError, match="cannot be read"):
        read_item(first, read_image)
    for text, match in (("{}", "damaged"), ('{"format_version": 9}', "of regard reads 1")):
        (out / "shards.json").write_text(text)
        with pytest.raises(DatasetError, match=match):
            load_shards(str(out))
    (out / "shards.json").unlink()
    for source in (f"{out}/shards.json", f"{out}/*.tar.tar", "nosuch://bucket/shards.json"):
        with pytest.raises(DatasetError):
            load_shards(source)


def test_a_name_twice_and_files_that_cannot_go_in(dataset: CaptionDataset, tmp_path: Path) -> None:
    twice = replace(dataset, items=(*dataset.items, dataset.items[0]))
    write_shards(twice, str(tmp_path / "twice"))
    with pytest.raises(DatasetError, match="two pictures of the name 0.jpg"):
        load_shards(str(tmp_path / "twice"))
    for file, match in ((tmp_path / "gone.jpg", "missing"), (tmp_path, "folder of slices")):
        item = CaptionedItem(str(file), ("a dog",), "", "x")
        with pytest.raises(DatasetError, match=match):
            write_shards(CaptionDataset((item,), "toy"), str(tmp_path / "no"))


def test_a_picture_of_two_splits_goes_into_no_shard(tmp_path: Path) -> None:
    _, images = toys.write_data(tmp_path)
    name = sorted(p.name for p in images.glob("*.*"))[0]
    captions = tmp_path / "two.csv"
    captions.write_text(f"file,caption,split\n{name},a dog,train\n{name},a cat,val\n")
    with pytest.raises(DatasetError, match=f"the splits train and val for {name}"):
        write_shards(load_dataset(captions, images), str(tmp_path / "shards"))
    assert not (tmp_path / "shards").exists()


def test_training_on_shards_is_training_on_the_files(tmp_path: Path) -> None:
    captions, images = toys.write_data(tmp_path)
    write_shards(load_dataset(captions, images), "memory://toy", size=5000)
    recipe = replace(toys.recipe(), encoder=EncoderConfig("small_cnn", 32, level="stride8"))
    recipe = override(recipe, ["data.min_count=1", "training.epochs=1", "training.batch_size=4"])
    of_files = override(recipe, [f"data.annotations={captions}", f"data.images={images}"])
    train(of_files, tmp_path / "files")
    train(override(recipe, ["data.annotations=memory://toy"]), tmp_path / "shards")
    train(recipe, tmp_path / "shards", resume=True)  # the URL is kept as it is
    fsspec.filesystem("memory").rm("/toy", recursive=True)
    one, other = ((tmp_path / run / "last/training.pt").read_bytes() for run in ("files", "shards"))
    assert one == other
    assert "data:image" in (tmp_path / "shards" / "diary.html").read_text()


def pack(path: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as made:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return str(path)


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (["a.1.png", "a.1.txt", "a.2.png", "a.2.txt"], ["a.1", "a.2"]),
        (["002.PNG", "002.TXT"], ["002"]),
        (["a.jpg", "b.jpg", "a.txt", "b.txt"], ["a", "b"]),
        (["a.jpg", "a.caption.txt"], ["a"]),
        (["a.jpg", "a.jpg.txt"], ["a"]),
        (["x/a.1.jpg", "x/a.txt"], ["x/a.1"]),
        (["a.txt", "a.jpg", "._a.jpg", "a.cls", "README.md"], ["a"]),
    ],
)
def test_names_of_other_shards_are_read(
    files: list[str], wanted: list[str], tmp_path: Path
) -> None:
    content = {f: b"a dog" if f.lower().endswith("txt") else toys.jpeg() for f in files}
    found = load_shards(pack(tmp_path / "x.tar", content))
    assert {key: texts for key, (texts, _) in said(found).items()} == {
        key: ("a dog",) for key in wanted
    }
    assert found.notes == ()


@pytest.mark.parametrize(
    ("files", "where"),
    [
        ({"a.jpg": b"x", "a.json": b"{oh"}, "a.json"),
        ({"a.jpg": b"x", "a.json": b"[1]"}, "a.json"),
        ({"a.jpg": b"x", "a.json": b'{"caption": "a", "caption": "b"}'}, "a.json"),
        ({"a.jpg": b"x", "a.txt": b"\xff\xfe"}, "a.txt"),
        ({"a.jpg": b"x", "a.json": b'{"captions": 3}'}, "a"),
        ({"a.txt": b"a dog"}, "a"),
        ({"a.jpg": b"x"}, "a"),
        ({"b.png": b"x"}, "b.png"),
    ],
)
def test_one_bad_entry_leaves_the_shard(
    files: dict[str, bytes], where: str, tmp_path: Path
) -> None:
    good = {"b.jpg": toys.jpeg(), "b.txt": b"a dog"}
    source = pack(tmp_path / "x.tar", good | files)
    found = load_shards(source)
    assert said(found) == {"b": (("a dog",), "")}
    assert found.notes
    assert where in " ".join(found.notes)
    report = check_dataset(source)
    assert report.errors
    assert where in report.text()
    assert CliRunner().invoke(app, ["check", source]).exit_code == 1


def test_shards_are_checked(dataset: CaptionDataset, tmp_path: Path) -> None:
    manifest = write_shards(dataset, str(tmp_path / "shards"))
    assert check_dataset(manifest).problems == ()
    twice = {"a.jpg": toys.jpeg(), "a.txt": b"a", "b.jpg": toys.jpeg(), "b.txt": b"..."}
    source = pack(tmp_path / "x.tar", twice | {"c.jpg": b"no picture", "c.txt": b"c"})
    kinds = [problem.kind for problem in check_dataset(source).problems]
    assert kinds == ["empty caption", "no caption", "same picture twice", "unreadable image"]
