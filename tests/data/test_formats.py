"""Captions from every kind of file, and one clear error for each that is wrong."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.data import CaptionDataset, CaptionedItem, load_dataset
from regard.data.formats import read_caption_file
from regard.errors import DatasetError, UnknownName

CAPTIONS = {"a.jpg": ["A dog, running.", "Ein Hund läuft"], "b.jpg": ["two cats", "二匹の猫"]}
SPLITS = {"a.jpg": "train", "b.jpg": "val"}


def karpathy() -> str:
    images = [
        {"filename": f, "split": SPLITS[f], "sentences": [{"raw": c} for c in captions]}
        for f, captions in CAPTIONS.items()
    ]
    return json.dumps({"images": images, "dataset": "toy"})


def coco() -> str:
    ids = {f: 10 + i for i, f in enumerate(CAPTIONS)}
    images = [{"id": i, "file_name": f} for f, i in ids.items()]
    notes = [{"image_id": ids[f], "id": 0, "caption": c} for f, cs in CAPTIONS.items() for c in cs]
    return json.dumps({"images": images, "annotations": notes}, ensure_ascii=False)


def flickr8k() -> str:
    return "".join(f"{f}#{i}\t{c}\n" for f, cs in CAPTIONS.items() for i, c in enumerate(cs))


def table(delimiter: str) -> str:
    rows = [f'{f}{delimiter}"{c}"{delimiter}{SPLITS[f]}' for f, cs in CAPTIONS.items() for c in cs]
    return "\r\n".join([delimiter.join(("file", "caption", "split")), *rows])


def jsonl() -> str:
    rows = [{"file": f, "caption": c, "split": SPLITS[f]} for f, cs in CAPTIONS.items() for c in cs]
    return "\n".join(json.dumps(row) for row in rows) + "\n\n"


FILES = {
    "karpathy.json": karpathy(),
    "coco.json": coco(),
    "Flickr8k.token.txt": flickr8k(),
    "comma.csv": table(","),
    "semicolon.csv": table(";"),
    "tab.tsv": table("\t"),
    "lines.jsonl": jsonl(),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_every_kind_reads_the_same(name: str, bom: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(bom + FILES[name], "utf-8", newline="")
    dataset = load_dataset(path, "pictures")
    assert dataset.references() == CAPTIONS
    assert [item.file for item in dataset] == ["pictures/a.jpg", "pictures/b.jpg"]
    if name not in ("coco.json", "Flickr8k.token.txt"):
        assert {item.key: item.split for item in dataset} == SPLITS
    assert dataset.source == str(path)


def test_without_a_folder_pictures_lie_beside_the_captions(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("file,caption\nsub/a.jpg,a dog\n")
    assert load_dataset(tmp_path / "c.csv").items[0].file == str(tmp_path / "sub" / "a.jpg")


def test_karpathys_folders_tokens_and_restval(tmp_path: Path) -> None:
    image = {
        "filepath": "val2014",
        "filename": "x.jpg",
        "split": "restval",
        "sentences": [{"tokens": ["a", "dog"]}],
    }
    (tmp_path / "d.json").write_text(json.dumps({"images": [image]}))
    dataset = load_dataset(tmp_path / "d.json")
    assert dataset.items == (
        CaptionedItem(str(tmp_path / "val2014" / "x.jpg"), ("a dog",), "train", "val2014/x.jpg"),
    )


def test_a_caption_may_hold_the_delimiter_quotes_and_line_breaks(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text('file,caption\na.jpg,"a ""red"", wet;\ndog"\n')
    assert load_dataset(tmp_path / "c.csv").items[0].captions == ('a "red", wet;\ndog',)


def test_an_unknown_suffix_is_read_by_the_kind_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "captions").write_text('{"file": "a.jpg", "caption": "a dog"}\n')
    with pytest.raises(DatasetError, match="unknown kind"):
        load_dataset(tmp_path / "captions")
    assert len(load_dataset(tmp_path / "captions", kind="jsonl")) == 1
    with pytest.raises(UnknownName, match="karpathy"):
        load_dataset(tmp_path / "captions", kind="karpaty")


WRONG = {
    "broken.json": '{"images": [',
    "list.json": "[1, 2]",
    "no-sentences.json": '{"images": [{"filename": "a.jpg"}]}',
    "numbers.json": '{"images": [{"filename": "a.jpg", "sentences": [{"raw": 3}]}]}',
    "lost-image.json": '{"images": [], "annotations": [{"image_id": 1, "caption": "a"}]}',
    "columns.csv": "picture,text\na.jpg,a dog\n",
    "short-row.csv": "file,caption\na.jpg\n",
    "long-row.csv": "file,caption\na.jpg,a dog, a cat\n",
    "quote.csv": 'file,caption\na.jpg,"a dog\n',
    "line.jsonl": '{"file": "a.jpg", "caption": "a"}\n{"file": "b.jpg"\n',
    "list.jsonl": "[1]\n",
    "number.jsonl": '{"file": "a.jpg", "caption": 3}\n',
    "tokens.txt": "a.jpg#0\ta dog\nb.jpg#0 a cat\n",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_not_whole_is_one_error(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(WRONG[name])
    with pytest.raises(DatasetError, match=name.replace(".", r"\.")):
        load_dataset(tmp_path / name)


def test_the_error_says_where(tmp_path: Path) -> None:
    for name, place in (
        ("line.jsonl", "line 2"),
        ("short-row.csv", "line 2"),
        ("tokens.txt", "line 2"),
    ):
        (tmp_path / name).write_text(WRONG[name])
        with pytest.raises(DatasetError, match=place):
            load_dataset(tmp_path / name)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be opened"):
        load_dataset(tmp_path / "gone.csv")
    with pytest.raises(DatasetError, match="cannot be opened"):
        load_dataset(tmp_path)
    (tmp_path / "latin.csv").write_bytes("file,caption\na.jpg,ein Bär\n".encode("latin-1"))
    with pytest.raises(DatasetError, match="UTF-8"):
        load_dataset(tmp_path / "latin.csv")


@given(st.lists(st.text(min_size=1).filter(lambda t: t.strip()), min_size=1, max_size=5))
def test_any_text_survives_jsonl(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("any") / "any.jsonl"
    lines = [json.dumps({"file": "a.jpg", "caption": text}) for text in texts]
    path.write_text("\n".join(lines), "utf-8")
    found = read_caption_file(path)
    assert [row.caption for row in found.rows] == texts
    assert found.dataset.items[0].captions == tuple(texts)


def test_ambiguous_image_ids_are_refused(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}]
    annotations = [{"id": 0, "image_id": 1, "caption": "a dog"}]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    with pytest.raises(DatasetError, match=r"both a\.jpg and b\.jpg"):
        load_dataset(path)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Train", "train"),
        ("training", "train"),
        ("restval", "train"),
        (" VAL ", "val"),
        ("Validation", "val"),
        ("dev", "val"),
        ("TEST", "test"),
        ("test ", "test"),
        ("Testing", "test"),
        ("Unused", "unused"),
        ("Extra", "Extra"),
    ],
)
def test_a_split_may_be_written_otherwise(written: str, meant: str, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(f"file,caption,split\na.jpg,a dog,{written}\n")
    image = {"filename": "a.jpg", "split": written, "sentences": [{"raw": "a dog"}]}
    (tmp_path / "k.json").write_text(json.dumps({"images": [image]}))
    for name in ("c.csv", "k.json"):
        assert [i.split for i in load_dataset(tmp_path / name)] == [meant]


def test_who_marks_val_alone_means_to_train_on_the_rest(tmp_path: Path) -> None:
    lines = ["a.jpg,one,", "b.jpg,two,", "b.jpg,three,val", "c.jpg,four,test", "d.jpg,five,unused"]
    path = tmp_path / "c.csv"
    path.write_text("\n".join(["file,caption,split", *lines]))
    wanted = {"a.jpg": "train", "b.jpg": "val", "c.jpg": "test", "d.jpg": "unused"}
    assert {i.key: i.split for i in load_dataset(path)} == wanted
    path.write_text(path.read_text().replace("val", ""))
    parted = load_dataset(path)
    assert [i.split for i in parted] == ["", "", "test", "unused"]
    assert sorted(i.split for i in parted.with_split(0.5, 0)) == ["test", "train", "unused", "val"]


@pytest.mark.parametrize("sentence", [{"tokens": "a red dog"}, {"tokens": ["a", 3]}])
def test_tokens_are_no_letters(sentence: dict[str, object], tmp_path: Path) -> None:
    image = {"filename": "a.jpg", "sentences": [sentence]}
    (tmp_path / "k.json").write_text(json.dumps({"images": [image]}))
    with pytest.raises(DatasetError, match=r"the tokens of a\.jpg are .* a list of strings"):
        load_dataset(tmp_path / "k.json")


def items(count: int, split: str = "") -> tuple[CaptionedItem, ...]:
    return tuple(CaptionedItem(f"{i}.jpg", ("a",), split, f"{i}.jpg") for i in range(count))


@given(
    count=st.integers(2, 60),
    fraction=st.floats(0.0, 0.9),
    seed=st.integers(0, 5),
    order=st.randoms(use_true_random=False),
)
def test_a_split_is_by_picture_and_deaf_to_order(
    count: int, fraction: float, seed: int, order: object
) -> None:
    whole = CaptionDataset(items(count), "x")
    parted = whole.with_split(fraction, seed)
    keys = [{i.key for i in parted.split(name)} for name in ("train", "val")]
    assert keys[0] | keys[1] == {i.key for i in whole}
    assert not keys[0] & keys[1]
    assert len(keys[1]) == max(1, round(count * fraction))
    shuffled = list(whole)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    again = CaptionDataset(tuple(shuffled), "x").with_split(fraction, seed)
    assert {i.key for i in again.split("val")} == keys[1]


def test_a_split_leaves_test_pictures_alone() -> None:
    mixed = CaptionDataset(items(3, "test") + items(1), "x").with_split(0.5, 0)
    assert [i.split for i in mixed] == ["test", "test", "test", "train"]


READ_BY_MEANING = {
    "image.json": '[{"image": "dog.jpg", "caption": "a dog"}, {"img": "b.jpg", "text": "two"}]',
    "mapping.json": '{"dog.jpg": ["a dog"], "b.jpg": "two"}',
    "records.json": '{"dog.jpg": {"captions": ["a dog"], "split": "train"}, "b.jpg": ["two"]}',
    "captions.txt": "image,caption\ndog.jpg,a dog\nb.jpg,two\n",
    "capitals.csv": "File,Caption\ndog.jpg,a dog\nb.jpg,two\n",
    "spaces.csv": 'file, caption\ndog.jpg, a dog\nb.jpg, "two"\n',
    "bar.csv": "image_name| comment_number| comment\ndog.jpg| 0| a dog\nb.jpg| 1| two\n",
    "metadata.csv": "file_name,text\ndog.jpg,a dog\nb.jpg,two\n",
    "metadata.jsonl": '{"file_name": "dog.jpg", "text": "a dog"}\n'
    '{"image_path": "b.jpg", "description": "two"}\n',
    "lines.json": '{"filename": "dog.jpg", "sentence": "a dog"}\n'
    '{"Image": "b.jpg", "sentences": ["two"]}\n',
    "both.csv": "text,file,caption\nx,dog.jpg,a dog\ny,b.jpg,two\n",
    "tail.csv": "file,caption,,\ndog.jpg,a dog,,\nb.jpg,two,,\n",
    "karpathy.json": '{"images": [{"file_name": "dog.jpg", "sentences": [{"raw": "a dog"}]}, '
    '{"filename": "b.jpg", "sentences": ["two"]}]}',
}


@pytest.mark.parametrize("name", READ_BY_MEANING)
def test_keys_are_read_where_their_meaning_is_plain(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(READ_BY_MEANING[name])
    assert load_dataset(tmp_path / name).references() == {"dog.jpg": ["a dog"], "b.jpg": ["two"]}


REFUSED = {
    "keys.json": (
        '[{"image": "dog.jpg", "title": "a dog"}]',
        "entry 1 has image, title; expected file, caption",
    ),
    "results.json": ('[{"image_id": 1, "caption": "a"}]', "entry 1 has image_id, caption"),
    "doubled.csv": ("file,caption,caption\na.jpg,a,b\n", "'caption' occurs 2 times"),
    "doubled2.csv": ("File,caption,file\na.jpg,a,b\n", "'file' occurs 2 times"),
    "doubled.jsonl": ('{"file": "a.jpg", "caption": "a", "caption": "b"}\n', "line 1: .*twice"),
    "doubled.json": ('[{"file": "a.jpg", "caption": "a", "caption": "b"}]', "'caption' occurs"),
    "doubled2.json": ('{"dog.jpg": ["a"], "dog.jpg": ["b"]}', "'dog.jpg' occurs twice"),
    "doubled3.json": ('{"images": [{"filename": "a", "filename": "b"}]}', "'filename' occurs"),
    "either.csv": ("image,filename,caption\na.jpg,b.jpg,a\n", "each could be the file"),
    "instances.json": (
        '{"images": [{"id": 1, "file_name": "a.jpg"}], '
        '"annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1], "category_id": 3}]}',
        "hold no caption. Name the captions instead",
    ),
    "info.json": ('{"images": [{"id": 1, "file_name": "a.jpg"}]}', "image 1 has id, file_name"),
    "other.json": ('{"data": [{"file": "a.jpg"}]}', "has data; expected images"),
    "number.json": ("[3]", "entry 1: 3 is not an object"),
    "text.json": ('"a"', "expected a list or an object"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_keys_are_named(name: str, tmp_path: Path) -> None:
    text, said = REFUSED[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=said) as caught:
        load_dataset(tmp_path / name)
    assert "KeyError" not in str(caught.value)


FAULTY = {
    "quote.csv": ('file,caption\na.jpg,"a dog" runs\nb.jpg,two\n', ["line 2"], {"b.jpg": ["two"]}),
    "open.csv": (
        'file,caption\na.jpg,"a dog\nb.jpg,two\nc.jpg,"three"\n',
        ["line 2"],
        {"b.jpg": ["two"], "c.jpg": ["three"]},
    ),
    "swallowed.csv": (
        'file,caption\na.jpg,"a dog\nb.jpg,two\nc.jpg,three"\n',
        ["line 2"],
        {"b.jpg": ["two"], "c.jpg": ['three"']},
    ),
    "end.csv": ('file,caption\nb.jpg,two\na.jpg,"a dog\n', ["line 3"], {"b.jpg": ["two"]}),
    "twice.csv": (
        'file,caption\na.jpg,"a dog\nb.jpg,two\nc.jpg,"a cat\n',
        ["line 2", "line 4"],
        {"b.jpg": ["two"]},
    ),
    "tab.tsv": ('file\tcaption\na.jpg\t"a" dog\nb.jpg\ttwo\n', ["line 2"], {"b.jpg": ["two"]}),
    "entry.json": (
        '[{"file": "a.jpg", "caption": 3}, {"file": "b.jpg", "caption": "two"}, 5]',
        ["entry 1", "entry 3"],
        {"b.jpg": ["two"]},
    ),
    "image.json": (
        '{"images": [{"filename": "a.jpg"}, {"filename": "b.jpg", "sentences": [{"raw": "two"}]}]}',
        ["image 1"],
        {"b.jpg": ["two"]},
    ),
    "annotation.json": (
        '{"images": [{"id": 1, "file_name": "b.jpg"}, {"id": 2}], "annotations": '
        '[{"image_id": 1, "caption": "two"}, {"image_id": 1, "caption": null}]}',
        ["image 2", "annotation 2"],
        {"b.jpg": ["two"]},
    ),
    "value.json": ('{"a.jpg": [3], "b.jpg": ["two"]}', ["entry 'a.jpg'"], {"b.jpg": ["two"]}),
}


@pytest.mark.parametrize("name", FAULTY)
def test_a_bad_entry_is_named_and_the_others_are_read(name: str, tmp_path: Path) -> None:
    text, where, others = FAULTY[name]
    (tmp_path / name).write_text(text)
    found = read_caption_file(tmp_path / name)
    assert [fault.where for fault in found.faults] == where
    assert found.dataset.references() == others
    assert not any("Error(" in str(fault) for fault in found.faults)


def test_captions_of_several_lines_are_no_fault(tmp_path: Path) -> None:
    text = 'file,caption\na.jpg,"a dog,\nwhich runs"\nb.jpg,"two\n\n""cats"""\n'
    (tmp_path / "c.csv").write_text(text)
    found = read_caption_file(tmp_path / "c.csv")
    assert found.faults == ()
    wanted = {"a.jpg": ["a dog,\nwhich runs"], "b.jpg": ['two\n\n"cats"']}
    assert found.dataset.references() == wanted


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_table_that_excel_saved_as_unicode(encoding: str, tmp_path: Path) -> None:
    bom = "" if encoding == "utf-16" else "\ufeff"
    text = bom + "File\tCaption\r\na.jpg\tein Bär\r\n"
    (tmp_path / "c.txt").write_bytes(text.encode(encoding))
    assert load_dataset(tmp_path / "c.txt").references() == {"a.jpg": ["ein Bär"]}
    (tmp_path / "c.csv").write_text("sep=;\nfile;caption\na.jpg;ein, Bär\n", "utf-8")
    assert load_dataset(tmp_path / "c.csv").references() == {"a.jpg": ["ein, Bär"]}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("c.tar.gz", b"\x1f\x8b\x08\x00\xff", "packed by gzip"),
        ("c.xlsx", b"PK\x03\x04\xff\xfe\x80", "Excel workbook"),
        ("c.parquet", b"PAR1\xff\x15", "Parquet"),
        ("c.tar", b"x", "a shard, which"),
    ],
)
def test_what_is_no_text_is_named(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=said):
        load_dataset(tmp_path / name)


@pytest.mark.parametrize("text", ["file,caption\n,a dog\n", "file,caption\n  ,a dog\n"])
def test_a_caption_of_no_file_is_a_fault(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(text)
    (tmp_path / "c.json").write_text('[{"file": " ", "caption": "a"}]')
    (tmp_path / "m.json").write_text('{"": ["a dog"], "b.jpg": ["a"]}')
    for name in ("c.csv", "c.json", "m.json"):
        found = read_caption_file(tmp_path / name)
        assert [fault.what for fault in found.faults] == ["it names no file"]
