"""The reading test: who is drawn, what the reader gets, what comes of the answers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from regard.audit.human_eval import (
    RatingItem,
    count_ratings,
    rating_sheets,
    rating_table,
    sample_items,
    wilson_interval,
)
from regard.cli.main import app
from regard.data.dataset import CaptionDataset, CaptionedItem
from regard.errors import ConfigError, DatasetError
from tests.helpers import toys

HEAD = "number,picture,caption,content,grammatical,note\n"


def dataset(*keys: str) -> CaptionDataset:
    return CaptionDataset(tuple(CaptionedItem(k, ("a dog",), "val", k) for k in keys), "d.csv")


def test_a_seed_draws_the_same_pictures_whatever_their_order() -> None:
    keys = [f"{i}.jpg" for i in range(50)]
    drawn = [item.key for item in sample_items(dataset(*keys), pictures=10, seed=3)]
    assert drawn == [i.key for i in sample_items(dataset(*keys[::-1]), pictures=10, seed=3)]
    assert drawn != [i.key for i in sample_items(dataset(*keys), pictures=10, seed=4)]
    assert len(set(drawn)) == 10
    # A larger test begins with the smaller one's pictures.
    assert [i.key for i in sample_items(dataset(*keys), pictures=20, seed=3)][:10] == drawn


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(DatasetError, match="has 1 pictures in the split 'val', but 2"):
        sample_items(dataset("a.jpg"), pictures=2)
    with pytest.raises(ConfigError, match="sample of 0 pictures"):
        sample_items(dataset("a.jpg"), pictures=0)


def test_sheets_hold_twenty_captions_each() -> None:
    shown = [RatingItem(n, f"{n}.jpg", "a dog $runs", toys.picture()) for n in range(1, 22)]
    shown[0] = RatingItem(1, "1.jpg", "", None)
    shown[1] = RatingItem(2, "2.jpg", " ".join(["long"] * 60), toys.picture())
    first, second = rating_sheets(shown, "21 of val, seed 0")
    assert [len(first.axes), len(second.axes)] == [20, 1]
    texts = [text.get_text() for text in first.texts]
    assert texts[0] == "1. (no caption)"
    assert texts[1].endswith("…")
    assert texts[1].count("\n") == 3
    assert texts[2] == "3. a dog $runs"
    assert texts[-1] == "sheet 1 of 2 · 21 of val, seed 0"
    assert [text.get_text()[:4] for text in second.texts[:1]] == ["21. "]
    width, height = first.get_size_inches()
    for axis in first.axes:  # all lie on the sheet
        box = axis.get_position()
        assert box.x0 >= 0
        assert box.x1 * width <= width
        assert 0 <= box.y0 * height < height


def test_answers_are_counted_and_gaps_are_told() -> None:
    rows = ["1,a.jpg,a dog,Right,yes,", "2,b.jpg,a dog, partly ,no,odd", "3,c.jpg,a dog,wrong,yes,",
            "4,d.jpg,a dog,,yes,", "5,e.jpg,a dog,right,yes,"]  # fmt: skip
    found = count_ratings(HEAD + "\n".join(rows), "j.csv")
    assert found.counts["content"] == {"right": 2, "partly": 1, "wrong": 1}
    assert found.counts["grammatical"] == {"yes": 3, "no": 1}
    assert (found.rated, found.unrated) == (4, 1)


def test_an_empty_table_is_unread() -> None:
    shown = [RatingItem(1, "=a.jpg", "a dog, red", None), RatingItem(2, "b.jpg", "a cat", None)]
    table = rating_table(shown)
    assert table.splitlines()[1] == '1,\'=a.jpg,"a dog, red",,,'
    found = count_ratings(table, "j.csv")
    assert (found.rated, found.unrated) == (0, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "7,a.jpg,a dog,good,yes,", "number 7 has 'good' in content"),
        (HEAD + "7,a.jpg,a dog,right,maybe,", "'maybe' in grammatical"),
        ("number;content\n1;right", "no column number, content, grammatical"),
        ("", "no column"),
    ],
)
def test_other_tables_are_refused(text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        count_ratings(text, "j.csv")


def test_intervals_are_wilsons() -> None:
    assert wilson_interval(0, 10) == pytest.approx((0, 0.2775), abs=1e-3)
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1), abs=1e-3)
    low, high = wilson_interval(60, 100)
    assert (low, high) == pytest.approx((0.502, 0.691), abs=1e-3)


def test_a_split_may_be_named_as_a_file_names_it(tmp_path: Path) -> None:
    captions, images = toys.write_data(tmp_path, 4)
    draw = ["reading", "draw", "--annotations", str(captions), "--images", str(images),
            "--out", str(tmp_path / "out"), "--pictures", "2", "--split", "Dev"]  # fmt: skip
    done = CliRunner().invoke(app, draw)
    assert "has 1 pictures in the split 'val'" in str(done.exception)


def test_from_the_command_line_and_back(tmp_path: Path) -> None:
    captions, images = toys.write_data(tmp_path, 12)
    toys.captioner().save(tmp_path / "model")
    out = tmp_path / "out"
    draw = ["reading", "draw", "--annotations", str(captions), "--images", str(images), "--model",
            str(tmp_path / "model"), "--out", str(out), "--pictures", "3",
            "--beam", "1"]  # fmt: skip
    done = CliRunner().invoke(app, draw)
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in out.iterdir()) == ["judgements.csv", "sheet-1.png"]
    assert np.asarray(Image.open(out / "sheet-1.png")).std() > 0
    table = out / "judgements.csv"
    table.write_text(table.read_text("utf-8").replace(",,,", ",right,yes,", 2), "utf-8")
    counted = CliRunner().invoke(app, ["reading", "count", str(table)])
    assert counted.exit_code == 0, counted.output
    assert "2 (34% to 100%)" in counted.stdout
    assert "1 captions lack an answer" in counted.stderr
    again = CliRunner().invoke(app, draw)
    assert again.exit_code != 0
    assert "filled it in" in str(again.exception)
