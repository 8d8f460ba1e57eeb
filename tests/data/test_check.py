"""One report holds everything that is wrong with a data set."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regard.cli.data_command import app
from regard.cli.main import app as main_app
from regard.config import EncoderConfig
from regard.data.check import DatasetReport, check_dataset
from regard.data.formats import load_dataset, read_caption_file
from regard.errors import DatasetError
from regard.recipes import FINE_TUNE, OWN, find_recipe, override
from regard.training import train
from regard.training.logs import Silent
from tests.helpers import toys


def kinds(report: DatasetReport) -> list[tuple[str, str]]:
    return sorted((p.kind, p.where) for p in report.problems)


def test_a_clean_data_set_is_counted(tmp_path: Path) -> None:
    report = check_dataset(*toys.write_data(tmp_path))
    assert report.problems == ()
    assert report.counts == {
        "pictures": 8,
        "captions": 16,
        "words": 8 * 3 + 8 * 6,
        "distinct_words": 8,
        # Of the six training pictures four show a cat.
        "vocabulary_at_min_count_5": 7,
        "vocabulary_at_min_count_3": 8,
        "vocabulary_at_min_count_2": 8,
        "pictures_by_split": {"train": 6, "val": 2},
    }
    assert report.text().endswith("0 errors, 0 remarks")
    assert "pictures by split: train 6, val 2\n" in report.text()


def test_the_vocabularies_of_own_data_are_counted_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(toys.jpeg())
    captions = ["a,a dog", "a,a cat", "a,the dog"]
    lines = [line.replace("a,", "a.jpg,", 1) for line in captions]
    (tmp_path / "c.csv").write_text("\n".join(["file,caption", *lines, "a.jpg,a dog runs"]))
    text = check_dataset(tmp_path / "c.csv").text()
    assert "vocabulary at min count 5 (the recipes of Flickr8k): 0\n" in text
    assert "vocabulary at min count 3 (`regard train --data`): 2\n" in text
    assert "vocabulary at min count 2 (with `--init`): 2\n" in text
    for name in OWN.values():
        assert find_recipe(name).data.min_count == 3
    assert find_recipe(FINE_TUNE).data.min_count == 2
    assert find_recipe("flickr8k-soft").data.min_count == 5


def spoiled(folder: Path) -> tuple[Path, Path]:
    """Write a data set with one fault of every kind that a CSV can have."""
    captions, images = toys.write_data(folder)
    (images / "1.jpg").unlink()
    (images / "2.jpg").write_text("no picture")
    (images / "3.jpg").write_bytes((images / "0.jpg").read_bytes())
    with captions.open("a", encoding="utf-8") as file:
        file.write(
            "4.jpg,...,train\n"
            "0.jpg,,train\n"
            "5.jpg,a dog runs,train\n"
            "6.jpg,a third one,test\n"
            "9.jpg,?!,train\n"
            "10.jpg,of no use,dev2\n"
            "7.jpg\n"
            "7.jpg,one, two, three,val\n"
        )
    (images / "10.jpg").write_bytes(toys.jpeg(10))
    return captions, images


def test_every_fault_is_in_one_report(tmp_path: Path) -> None:
    report = check_dataset(*spoiled(tmp_path))
    assert kinds(report) == [
        ("duplicate caption", "5.jpg"),
        ("empty caption", "0.jpg"),
        ("empty caption", "4.jpg"),
        ("empty caption", "9.jpg"),
        ("in two splits", "6.jpg"),
        ("missing file", "1.jpg"),
        ("missing file", "9.jpg"),
        ("no caption", "9.jpg"),
        ("same picture in two splits", "3.jpg"),
        ("unknown split", "10.jpg"),
        ("unreadable image", "2.jpg"),
        ("wrong line", "line 24"),
        ("wrong line", "line 25"),
    ]
    text = report.text()
    assert all(p.what in text for p in report.problems)
    assert "12 errors, 1 remark" in text
    assert text.index("error: missing file (2)") < text.index("remark: duplicate caption (1)")
    assert report.to_json()["problems"][0].keys() == {"kind", "where", "what", "level"}


def test_splits_are_read_as_training_reads_them(tmp_path: Path) -> None:
    lines = ["0.jpg,a dog,Train", "0.jpg,a cat,training", "1.jpg,a man,VAL", "1.jpg,a boy,"]
    lines += ["2.jpg,a tree,", "3.jpg,a car,unused", "4.jpg,a bus,holdout"]
    for i in range(5):
        (tmp_path / f"{i}.jpg").write_bytes(toys.jpeg(i))
    (tmp_path / "c.csv").write_text("\n".join(["file,caption,split", *lines]))
    report = check_dataset(tmp_path / "c.csv")
    assert kinds(report) == [("unknown split", "4.jpg")]
    assert "'holdout' is none of train, val, test and unused; training refuses it" in report.text()
    splits = {"train": 2, "val": 1, "unused": 1, "holdout": 1}
    assert report.counts["pictures_by_split"] == splits


@pytest.mark.parametrize(
    ("first", "second", "other", "kind"),
    [
        ("", "", "", "same picture twice"),
        ("train", "train", "test", "same picture twice"),
        ("", "train", "unused", "same picture twice"),
        ("", "test", "", "same picture in two splits"),
        ("", "", "val", ""),  # both are trained on
        ("test", "test", "", ""),
        ("train", "val", "", "same picture in two splits"),
    ],
)
def test_a_picture_that_is_there_twice(
    first: str, second: str, other: str, kind: str, tmp_path: Path
) -> None:
    for name, number in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / f"{name}.jpg").write_bytes(toys.jpeg(number))
    rows = [f"a.jpg,a dog,{first}", f"b.jpg,a cat,{second}", f"c.jpg,a man,{other}"]
    (tmp_path / "c.csv").write_text("\n".join(["file,caption,split", *rows]))
    report = check_dataset(tmp_path / "c.csv")
    assert kinds(report) == ([(kind, "b.jpg")] if kind else [])
    if kind == "same picture twice":
        assert "the same bytes as a.jpg" in report.text()
        assert "scores what was learned" in report.text()
    status = CliRunner().invoke(app, ["check", str(tmp_path / "c.csv")]).exit_code
    assert status == bool(kind)


def test_wrong_columns_are_a_problem_and_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("picture,text\na.jpg,a dog\n")
    report = check_dataset(tmp_path / "c.csv")
    assert kinds(report) == [("wrong line", "line 1")]
    assert "picture" in report.problems[0].what


def test_duplicate_ids(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(toys.jpeg(i))
    coco = {
        "images": [{"id": min(i, 1), "file_name": f"{i}.jpg"} for i in range(3)],
        "annotations": [{"id": 7, "image_id": i, "caption": f"dog {i}"} for i in (0, 1)],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    found = check_dataset(tmp_path / "coco.json")
    assert [p.what.partition(":")[0] for p in found.problems] == [
        "image id 1 occurs 2 times",
        "caption id 7 occurs 2 times",
    ]
    image = {"filename": "0.jpg", "imgid": 0, "split": "train"}
    images = [
        image | {"sentences": [{"raw": "a dog", "sentid": 0}]},
        image | {"sentences": [{"raw": "a cat", "sentid": 0}], "split": "val"},
    ]
    (tmp_path / "karpathy.json").write_text(json.dumps({"images": images}))
    found = check_dataset(tmp_path / "karpathy.json")
    assert kinds(found) == [("duplicate id", "0.jpg")] * 3 + [("in two splits", "0.jpg")]
    (tmp_path / "tokens.txt").write_text("0.jpg#0\ta dog\n0.jpg#0\ta cat\n")
    assert kinds(check_dataset(tmp_path / "tokens.txt")) == [("duplicate id", "0.jpg")]


def test_pictures_without_captions(tmp_path: Path) -> None:
    coco = {"images": [{"id": 0, "file_name": "0.jpg"}], "annotations": []}
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    assert ("no caption", "0.jpg") in kinds(check_dataset(tmp_path / "coco.json"))
    assert (
        load_dataset(tmp_path / "coco.json")
        .notes[0]
        .startswith("pictures without a caption, left out: 1, ")
    )


def test_pictures_without_captions_are_opened_too(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no picture")
    (tmp_path / "c.csv").write_text("file,caption\nbad.jpg,\ngone.jpg,\n")
    assert kinds(check_dataset(tmp_path / "c.csv")) == [
        ("empty caption", "bad.jpg"),
        ("empty caption", "gone.jpg"),
        ("missing file", "gone.jpg"),
        ("no caption", "bad.jpg"),
        ("no caption", "gone.jpg"),
        ("unreadable image", "bad.jpg"),
    ]


def test_a_caption_of_no_picture_is_a_problem_and_the_rest_is_checked(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(toys.jpeg())
    coco = {
        "images": [{"id": 1, "file_name": "0.jpg"}, {"id": 2, "file_name": "gone.jpg"}],
        "annotations": [{"image_id": i, "caption": f"dog {i}"} for i in (1, 9, 2)],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    report = check_dataset(tmp_path / "coco.json")
    assert kinds(report) == [("missing file", "gone.jpg"), ("wrong line", "annotation 2")]
    assert "image_id 9" in report.text()
    with pytest.raises(DatasetError, match="annotation 2: its image_id 9"):
        load_dataset(tmp_path / "coco.json")


def test_a_file_of_no_captions_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("")
    report = check_dataset(tmp_path / "c.jsonl")
    assert kinds(report) == [("no caption", str(tmp_path / "c.jsonl"))]
    assert report.text().endswith("1 error, 0 remarks")
    assert "pictures by split: none" in report.text()


def test_unreadable_annotations(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be opened"):
        check_dataset(tmp_path / "gone.csv")


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_and_its_status(as_json: bool, tmp_path: Path) -> None:
    runner = CliRunner()
    captions, images = toys.write_data(tmp_path / "clean")
    options = ["--images", str(images), *(["--json"] if as_json else [])]
    clean = runner.invoke(app, ["check", str(captions), *options])
    assert clean.exit_code == 0
    captions, images = spoiled(tmp_path / "spoiled")
    options[1] = str(images)
    wrong = runner.invoke(app, ["check", str(captions), *options])
    assert wrong.exit_code == 1
    if as_json:
        assert len(json.loads(wrong.stdout)["problems"]) == 13
    else:
        assert "unreadable image: 2.jpg" in wrong.stdout


@pytest.mark.data
def test_flickr8k_has_no_wrong_line_or_id(shared_data: Path) -> None:
    found = read_caption_file(shared_data / "flickr8k" / "dataset_flickr8k.json")
    assert found.faults == ()
    assert len(set(found.ids)) == len(found.ids)
    assert {n: len(found.dataset.split(n)) for n in ("train", "val")} == {
        "train": 6000,
        "val": 1000,
    }
    assert all(len(item.captions) == 5 for item in found.dataset)


def test_half_a_character_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(toys.jpeg())
    rows = [
        '{"file": "a.jpg", "caption": "a dog \\ud83d runs"}',
        '{"file": "a.jpg", "caption": "a \\ud83d\\ude00 dog"}',
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(rows) + "\n")
    report = check_dataset(tmp_path / "c.jsonl", tmp_path)
    assert kinds(report) == [("broken character", "a.jpg")]
    report.text().encode()


def written(folder: Path, *rows: str) -> Path:
    (folder / "c.csv").write_text("\n".join(["file,caption,split", *rows]) + "\n", "utf-8")
    return folder / "c.csv"


def test_remarks_are_counted_and_five_of_a_kind_are_shown(tmp_path: Path) -> None:
    for i in range(8):
        (tmp_path / f"{i}.jpg").write_bytes(toys.jpeg(i))
    captions = written(tmp_path, *(f"{i}.jpg,a dog,train" for i in range(8) for _ in range(2)))
    runner = CliRunner()
    found = runner.invoke(app, ["check", str(captions)])
    assert found.exit_code == 0
    assert "remark: duplicate caption (8)" in found.stdout
    assert found.stdout.count("is given 2 times") == 5
    assert "... and 3 more; --all lists them" in found.stdout
    assert found.stdout.endswith("0 errors, 8 remarks\n")
    found = runner.invoke(app, ["check", str(captions), "--all"])
    assert found.stdout.count("is given 2 times") == 8
    assert "--all" not in found.stdout


@pytest.mark.parametrize(
    ("caption", "kind"),
    [
        ("nan", "placeholder"),
        ("N/A", "placeholder"),
        ("#REF!", "placeholder"),
        ("None", "placeholder"),
        ("\"['a dog', 'two dogs']\"", "list as text"),
        ('"[""a dog"", ""two dogs""]"', "list as text"),
        ("\"{'raw': 'a dog'}\"", "list as text"),
        ("...", "empty caption"),
        ("—!?", "empty caption"),
    ],
)
def test_what_is_hardly_a_caption_is_said(caption: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(toys.jpeg())
    captions = written(tmp_path, "a.jpg,a dog in a none too large [red] coat,", f"a.jpg,{caption},")
    assert kinds(check_dataset(captions)) == [(kind, "a.jpg")]
    (note,) = load_dataset(captions).notes
    assert note.startswith("captions that ")
    assert note.endswith("of 'a.jpg'")


def test_a_folder_that_is_forgotten_is_asked_for(tmp_path: Path) -> None:
    captions = written(tmp_path, "a.jpg,a dog,", "b.jpg,a cat,")
    report = check_dataset(captions)
    assert "Did you forget --images" in report.problems[0].what
    found = CliRunner().invoke(app, ["check", str(captions)])
    assert found.exit_code == 1
    assert "Did you forget --images" in found.stdout
    for command in ("evaluate", "audit", "faithfulness"):
        given = [command, "--annotations", str(captions), "--split", ""]
        given += ["--out", str(tmp_path / "out")] if command == "audit" else []
        found = CliRunner().invoke(main_app, given)
        assert "Did you forget --images" in str(found.exception)
    own = [f"data.annotations={captions}", "data.min_count=1"]
    with pytest.raises(DatasetError, match="Did you forget --images"):
        train(override(toys.recipe(), own), tmp_path / "run")


NEARLY = [
    ("Dog.JPG", "dog.jpg", "letter case"),
    ("dog.jpg ", "dog.jpg", "spaces at its ends"),
    ("sub\\dog.jpg", "sub/dog.jpg", "backslashes"),
    ("SUB/dog.jpg", "sub/dog.jpg", "letter case"),
    ("do\u200bg.jpg", "dog.jpg", r"U+200B (zero width space)"),
    ("caf\u00e9.jpg", "cafe\u0301.jpg", "NFC, NFD"),
    ("cafe\u0301.jpg", "caf\u00e9.jpg", "NFC, NFD"),
    ("a\u00a0dog.jpg", "a dog.jpg", "U+00A0 (no-break space)"),
]


@pytest.mark.parametrize(("name", "file", "how"), NEARLY)
def test_a_name_that_fits_one_file_is_found(name: str, file: str, how: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / file).write_bytes(toys.jpeg())
    (tmp_path / "other.jpg").write_bytes(toys.jpeg(1))
    line = json.dumps({"file": name, "caption": "a dog"})
    (tmp_path / "c.jsonl").write_text(line + "\n")
    dataset = load_dataset(tmp_path / "c.jsonl")
    assert [(i.file, i.key) for i in dataset] == [(str(tmp_path / file), name)]
    assert how in dataset.notes[0]
    report = check_dataset(tmp_path / "c.jsonl")
    assert kinds(report) == [("other spelling", name)]
    assert how in report.problems[0].what
    assert not report.errors


@pytest.mark.parametrize(
    ("name", "files", "hint"),
    [
        ("DOG.jpg", ["dog.jpg", "Dog.jpg"], "letter case"),
        ("dog.jpeg", ["dog.jpg"], "'dog.jpg' (another suffix)"),
        ("Dog.png", ["dog.jpg"], "'dog.jpg' (another suffix)"),
    ],
)
def test_else_what_it_could_be_is_said(
    name: str, files: list[str], hint: str, tmp_path: Path
) -> None:
    for number, file in enumerate([*files, "x.jpg"]):
        (tmp_path / file).write_bytes(toys.jpeg(number))
    report = check_dataset(written(tmp_path, f"{name},a dog,", "x.jpg,a cat,"))
    assert kinds(report) == [("missing file", name)]
    assert hint in report.problems[0].what
    assert repr(str(tmp_path / name)) in report.problems[0].what


def test_two_spellings_of_one_file_are_one_picture(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(toys.jpeg())
    for other in ("A.jpg", "./a.jpg", ".\\a.jpg"):
        captions = written(tmp_path, "a.jpg,a dog,train", f"{other},a cat,val")
        found = read_caption_file(captions)
        assert [item.captions for item in found.dataset] == [("a dog", "a cat")]
        assert found.dataset.in_two_splits == (("a.jpg", ("train", "val")),)


def test_training_says_that_a_val_picture_was_learned(tmp_path: Path) -> None:
    captions, images = toys.write_data(tmp_path)
    for val, learned in (("3.jpg", "0.jpg"), ("7.jpg", "1.jpg")):
        (images / val).write_bytes((images / learned).read_bytes())
    recipe = replace(toys.recipe(), encoder=EncoderConfig("small_cnn", 64, "stride8"))
    own = [f"data.annotations={captions}", f"data.images={images}", "data.min_count=1"]
    said: list[str] = []
    reporter = Silent()
    reporter.message = said.append  # type: ignore[method-assign]
    train(override(recipe, [*own, "training.epochs=1"]), tmp_path / "run", report=reporter)
    (twins,) = [text for text in said if "same bytes" in text]
    assert twins.startswith("val pictures with the same bytes as training pictures: 2, such as")
    assert "'3.jpg' (in train '0.jpg')" in twins
