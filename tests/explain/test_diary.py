"""The learning diary: one page, whole at any moment, that a resumed run goes on with."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from regard.errors import CheckpointError
from regard.explain.diary import Diary, DiaryCaption, DiaryEntry, DiaryPicture, write_diary
from regard.types import Grid
from tests.helpers import toys

GRID = Grid(("rows", "cols"), (2, 2), (40, 60), ((0.0, 40.0), (0.0, 60.0)))
ALPHA = np.array([[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]], np.float32)


def pictures(*keys: str) -> list[DiaryPicture]:
    return [DiaryPicture(key, toys.picture(), GRID) for key in keys]


def said(words: tuple[str, ...] = ("a", "dog")) -> DiaryCaption:
    return DiaryCaption(words, ALPHA[: len(words)])


def add(diary: Diary, epoch: int, **captions: DiaryCaption) -> None:
    """Add an evaluation of pictures such as `dog=`, of dog.jpg."""
    keyed = {f"{key}.jpg": value for key, value in captions.items()}
    diary.add(DiaryEntry(epoch, {"bleu4": float(epoch)}, keyed), pictures(*keyed))


def entry(epoch: int, score: float = 1.0) -> DiaryEntry:
    return DiaryEntry(epoch, {"bleu4": score}, {"dog.jpg": said()})


def test_an_entry_survives_its_line() -> None:
    captions = {"犬": DiaryCaption(("a", "\u2028"), ALPHA, cells=[0, 3]), "猫": said()}
    first = DiaryEntry(3, {"bleu4": 20.5, "meteor": math.nan}, captions)
    line = first.to_json()
    assert "\n" not in line
    again = DiaryEntry.from_json(line)
    assert again.epoch == 3
    assert again.scores["bleu4"] == 20.5
    assert math.isnan(again.scores["meteor"])
    assert again.captions["犬"].words == ("a", "\u2028")
    assert again.captions["犬"].cells == [0, 3]
    assert again.captions["猫"].cells is None
    np.testing.assert_allclose(again.captions["犬"].alpha, ALPHA, atol=1e-5)
    assert again.to_json() == line


@pytest.mark.parametrize("line", ["{", "[]", '{"epoch": 1}', '{"epoch": 1, "captions": {"a": 1}}'])
def test_a_damaged_line_says_what_to_do(line: str) -> None:
    with pytest.raises(CheckpointError, match=r"Move the diary's \.jsonl file away"):
        DiaryEntry.from_json(line)


def test_the_page_holds_every_evaluation_and_each_picture_once(tmp_path: Path) -> None:
    both = pictures("dog.jpg", "cat.jpg")
    write_diary(tmp_path / "d.html", "My <diary>", both, [entry(1, 5.0), entry(2, 7.5)])
    page = (tmp_path / "d.html").read_text("utf-8")
    assert page.count("data:image/jpeg;base64,") == 2
    assert re.findall(r"<li><b>(\d)</b>", page) == ["1", "2"]
    assert "My &lt;diary&gt;" in page
    assert page.count("7.50") >= 2  # beside the curve and in the table
    assert "<polyline" in page
    assert "http:" not in page
    assert "https:" not in page
    assert not re.search(r"\b(why|because)\b", page.lower())


def test_maps_are_in_multiples_of_uniform_with_one_scale_a_caption(tmp_path: Path) -> None:
    write_diary(tmp_path / "d.html", "d", pictures("dog.jpg"), [entry(1)])
    page = (tmp_path / "d.html").read_text("utf-8")
    assert "&quot;map&quot;:[2.8,0.4,0.4,0.4]" in page
    assert "&quot;map&quot;:[1.0,1.0,1.0,1.0]" in page
    (top,) = re.findall(r"data-tops='\{\"map\": \[([\d.]+)\]\}'", page)
    assert float(top) == pytest.approx(2.8)


def test_scores_that_are_missing_leave_no_hole(tmp_path: Path) -> None:
    entries = [entry(1, math.nan), entry(2, math.nan), DiaryEntry(3, {}, {})]
    write_diary(tmp_path / "d.html", "d", pictures("dog.jpg"), entries)
    page = (tmp_path / "d.html").read_text("utf-8")
    assert "nan" not in re.sub(r"base64,[^']+", "", page).lower()
    assert "<polyline" not in page


def test_words_are_escaped(tmp_path: Path) -> None:
    diary = Diary(tmp_path / "d.html", up_to_epoch=None)
    told = DiaryEntry(1, {"bleu4": 1.0}, {"<i>.jpg": said(("<b>", "'\""))})
    diary.add(told, pictures("<i>.jpg"))
    page = (tmp_path / "d.html").read_text("utf-8")
    assert "<b>," not in page
    assert ">&lt;b&gt;</button>" in page
    assert "<i>.jpg" not in page


def test_a_killed_and_resumed_run_writes_the_same_page(tmp_path: Path) -> None:
    whole = Diary(tmp_path / "whole.html", up_to_epoch=None)
    for epoch in (1, 2, 3):
        add(whole, epoch, dog=said())
    killed = Diary(tmp_path / "killed.html", up_to_epoch=None)
    for epoch, words in ((1, ("a", "dog")), (2, ("other",)), (3, ("other",))):
        add(killed, epoch, dog=said(words))
    resumed = Diary(tmp_path / "killed.html", up_to_epoch=1)  # later weights were not saved
    add(resumed, 2, dog=said())
    assert len((tmp_path / "killed.jsonl").read_text("utf-8").splitlines()) == 2
    add(resumed, 3, dog=said())
    for suffix in ("html", "jsonl"):
        expected = (tmp_path / f"whole.{suffix}").read_bytes()
        assert (tmp_path / f"killed.{suffix}").read_bytes() == expected
    assert not list(tmp_path.glob("*.tmp"))


def test_a_new_run_begins_a_new_diary(tmp_path: Path) -> None:
    add(Diary(tmp_path / "d.html", up_to_epoch=None), 1, dog=said())
    add(Diary(tmp_path / "d.html", up_to_epoch=None), 1, dog=said())
    assert len((tmp_path / "d.jsonl").read_text("utf-8").splitlines()) == 1


def test_a_run_resumed_in_its_first_epoch_keeps_what_was_said_before_it(tmp_path: Path) -> None:
    diary = Diary(tmp_path / "d.html", up_to_epoch=None)
    add(diary, 0, dog=said(("before",)))
    add(diary, 1, dog=said(("lost",)))
    resumed = Diary(tmp_path / "d.html", up_to_epoch=0)
    add(resumed, 1, dog=said())
    page = (tmp_path / "d.html").read_text("utf-8")
    assert re.findall(r"<li><b>(\d)</b>", page) == ["0", "1"]
    assert ">before</button>" in page
    assert ">lost</button>" not in page


def test_an_empty_caption_and_an_absent_picture_are_no_fault(tmp_path: Path) -> None:
    diary = Diary(tmp_path / "d.html", up_to_epoch=None)
    add(diary, 1, dog=DiaryCaption((), np.zeros((0, 4))))
    add(diary, 2, dog=said(), cat=said())
    again = Diary(tmp_path / "d.html", up_to_epoch=2)
    add(again, 3, dog=said(), cat=said())
    page = (tmp_path / "d.html").read_text("utf-8")
    assert re.findall(r"<li><b>(\d)</b>", page) == ["1", "2", "3", "2", "3"]


def test_the_cells_that_hard_attention_chose_are_framed(tmp_path: Path) -> None:
    hard = DiaryEntry(1, {}, {"dog.jpg": DiaryCaption(("a", "dog"), ALPHA, cells=[0, 3])})
    write_diary(tmp_path / "hard.html", "d", pictures("dog.jpg"), [hard])
    page = (tmp_path / "hard.html").read_text("utf-8")
    assert re.findall(r"&quot;cell&quot;:(\w+)", page) == ["0", "3"]
    assert "framed: the chosen cell" in page
    write_diary(tmp_path / "soft.html", "d", pictures("dog.jpg"), [entry(1)])
    page = (tmp_path / "soft.html").read_text("utf-8")
    assert re.findall(r"&quot;cell&quot;:(\w+)", page) == ["null", "null"]
    assert "framed" not in page
