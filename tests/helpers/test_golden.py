"""The golden record itself: two records of one tree are equal, and what changed is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import digests, golden
from tests.helpers.golden_captions import SAMPLES, captions_of


def one_photograph(folder: Path) -> dict[str, object]:
    (folder / "dog.jpg").write_bytes((SAMPLES / "dog.jpg").read_bytes())
    return captions_of("flickr8k-soft", "image", ("dog.jpg",), "onnx")


def broken(folder: Path) -> dict[str, object]:
    raise ValueError("no such thing")


@pytest.fixture
def sections(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {name: f"{__name__}:{name}" for name in ("one_photograph", "broken")}
    monkeypatch.setattr(golden, "SECTIONS", here)


@pytest.mark.usefixtures("sections")
def test_what_is_recorded_twice_is_equal_and_a_change_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = tmp_path / "one.json", tmp_path / "other.json"
    made = [golden.record(["one_photograph"]) for _ in paths]
    for path, held in zip(paths, made, strict=True):
        path.write_text(json.dumps(held), "utf-8")
    arguments = ["--compare", *map(str, paths)]
    assert golden.main(arguments) == 0
    made[1]["one_photograph"]["greedy expected"]["dog.jpg"]["alpha"] = "0123456789abcdef"
    paths[1].write_text(json.dumps(made[1]), "utf-8")
    capsys.readouterr()
    assert golden.main(arguments) == 1
    first, count = capsys.readouterr().out.splitlines()
    assert first.startswith("one_photograph/greedy expected/dog.jpg/alpha: ")
    assert count == "1 differences"


@pytest.mark.usefixtures("sections")
def test_a_section_that_fails_is_recorded_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = golden.record(["broken", "one_photograph"])
    assert made["broken"] == {"error": "ValueError: no such thing"}
    assert "greedy expected" in made["one_photograph"]
    assert "no such thing" in capsys.readouterr().err


def test_every_kind_of_difference_is_one_line() -> None:
    one = {"a": 1, "text": "x\ny\nz", "list": [1, 2], "gone": None, "same": {"b": 0.1}, "kind": 1}
    other = {"a": 2, "text": "x\nY\nz", "list": [1, 3], "new": "", "same": {"b": 0.1}, "kind": 1.0}
    assert list(golden.differences(one, other)) == [
        "a: 1 != 2",
        "gone: only in the first: null",
        "kind: 1 != 1.0",
        "list[1]: 2 != 3",
        'new: only in the second: ""',
        'text: line 2: "y" != "Y"',
    ]
    assert list(golden.differences([1, 2], [1])) == [": [1, 2] != [1]"]
    assert list(golden.differences("x\ny", "x\ny\nz")) == [': line 3: (the end) != "z"']


def test_digests_count_bits_shapes_and_types_but_no_times(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32)
    others = (array.reshape(2, 3), array.astype(np.float64), np.nextafter(array, np.float32(9)))
    assert len({digests.of_array(each) for each in (array, *others)}) == 4
    assert digests.of_array(array[::2]) == digests.of_array(array[::2].copy())
    for name, seconds in (("one", 0.25), ("other", 1e-05)):
        (tmp_path / name).mkdir()
        record = {"seconds": seconds, "file": f"{tmp_path / name}/x"}
        (tmp_path / name / "a.json").write_text(json.dumps(record), "utf-8")
    assert digests.of_folder(tmp_path / "one") == digests.of_folder(tmp_path / "other")
