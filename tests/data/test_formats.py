"""Every caption file, and the report on what is wrong with one."""

import json
from pathlib import Path

import pytest

import toys
from regard.data import load_dataset
from regard.data.check import check_dataset
from regard.errors import DatasetError, UnknownName

# ruff: noqa: E501
KARPATHY = json.dumps({"images": [
    {"filename": "a.jpg", "split": "restval", "sentences": [{"raw": "A dog ."}, {"raw": "Ein Hünd"}]},
    {"filename": "b.jpg", "filepath": "val", "split": "val", "sentences": [{"tokens": ["a", "cat"]}]},
]})  # fmt: skip
COCO = json.dumps({
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
    "annotations": [{"image_id": 8, "caption": "a cat"}, {"image_id": 7, "caption": "A dog ."},
                    {"image_id": 7, "caption": "Ein Hünd"}],
})  # fmt: skip
ROWS = [("a.jpg", "A dog ."), ("a.jpg", "Ein Hünd"), ("b.jpg", "a cat")]
CSV = "file,caption\n" + "\n".join(f'{f},"{c}"' for f, c in ROWS)
JSONL = "\n".join(json.dumps({"file": f, "caption": c, "split": "dev"}) for f, c in ROWS)
TOKENS = "\n".join(f"{f}#{i}\t{c}" for i, (f, c) in enumerate(ROWS))


@pytest.mark.parametrize(
    ("name", "text"),
    [("d.json", KARPATHY), ("c.json", COCO), ("c.csv", CSV), ("c.tsv", CSV.replace(",", "\t")),
     ("c.jsonl", JSONL), ("c.token.txt", TOKENS), ("bom.csv", "\ufeff" + CSV)],
)  # fmt: skip
def test_every_kind_gives_the_same_captions(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    dataset = load_dataset(tmp_path / name, tmp_path / "images")
    found = {Path(key).name: sorted(value) for key, value in dataset.references().items()}
    assert found == {"a.jpg": ["A dog .", "Ein Hünd"], "b.jpg": ["a cat"]}
    splits = {Path(i.key).name: i.split for i in dataset}
    wanted = {"d.json": ("train", "val"), "c.jsonl": ("val", "val")}.get(name, ("", ""))
    assert (splits["a.jpg"], splits["b.jpg"]) == wanted
    assert all(item.file.startswith(str(tmp_path / "images")) for item in dataset)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", b"{", "no whole"),
        ("a.csv", b"picture,text\nx,y\n", "wanted file, caption"),
        ("a.jsonl", b'{"file": 3, "caption": "x"}', "no file"),
        ("a.xml", b"<x/>", "no known kind"),
        ("a.csv", "file,caption\nx,é".encode("latin-1"), "UTF-8"),
        ("a.json", b'{"images": 3}', "no whole karpathy"),
    ],
)
def test_bad_files(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=says):
        load_dataset(tmp_path / name)


def test_missing_files_and_unknown_kinds(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be opened"):
        load_dataset(tmp_path / "nowhere.csv")
    (tmp_path / "a.csv").write_text(CSV)
    with pytest.raises(UnknownName, match="karpathy"):
        load_dataset(tmp_path / "a.csv", kind="karpaty")


def test_the_split_is_by_picture_and_does_not_depend_on_order(tmp_path: Path) -> None:
    captions, images = toys.write_data(tmp_path, 20)
    dataset = load_dataset(captions, images)
    one = dataset.with_split(0.25, seed=1)
    assert len(one.split("val")) == 5
    assert len(one.split("train")) == 15
    backwards = type(dataset)(dataset.items[::-1], dataset.source).with_split(0.25, seed=1)
    assert {i.key for i in one.split("val")} == {i.key for i in backwards.split("val")}
    assert {i.key for i in one.split("val")} != {
        i.key for i in dataset.with_split(0.25, seed=2).split("val")
    }


def test_the_report_names_every_fault(tmp_path: Path) -> None:
    captions, images = toys.write_data(tmp_path)
    assert check_dataset(captions, images).problems == ()
    (images / "1.jpg").unlink()
    (images / "2.jpg").write_text("no picture")
    (images / "3.jpg").write_bytes((images / "0.jpg").read_bytes())
    with captions.open("a") as file:
        file.write("4.jpg,...,train\n5.jpg,a dog runs,val\n9.jpg,,train\n0.jpg,a cat runs,train\n")
    report = check_dataset(captions, images)
    found = {(p.kind, p.where) for p in report.problems}
    assert found == {
        ("missing file", "1.jpg"),
        ("unreadable image", "2.jpg"),
        ("same picture in two splits", "3.jpg"),
        ("empty caption", "4.jpg"),
        ("in two splits", "5.jpg"),
        ("duplicate caption", "5.jpg"),
        ("empty caption", "9.jpg"),
        ("no caption", "9.jpg"),
        ("duplicate caption", "0.jpg"),
    }
    assert report.counts["pictures"] == 8
    assert "missing file: 1.jpg" in report.text()
    assert json.loads(json.dumps(report.to_json()))["counts"]["captions"] == 19
