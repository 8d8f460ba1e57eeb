"""Facts by hand-made masks, captions and their parser, the data set as it is written."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from projects.hippocampus.__main__ import app
from projects.hippocampus.data import load_facts, read_marked_scan, split_scans, write_data
from projects.hippocampus.facts import (
    FACTS,
    MAJORITY_LIMIT,
    MarkedScan,
    classify,
    fit_thresholds,
    measure_facts,
    most_frequent_classes,
)
from projects.hippocampus.tests.toys import boxes, write_task04
from projects.hippocampus.text import (
    CONTRADICTION,
    EXAMPLE,
    SENTENCES,
    Clause,
    stated_facts,
    write_caption,
)
from projects.hippocampus.warp import warp_scan
from regard import ConfigError, DatasetError
from regard.data import load_dataset


def test_facts_by_hand() -> None:
    found = measure_facts(boxes())
    assert found["volume"] == 64 + 96
    assert (found["anterior_volume"], found["posterior_volume"]) == (96, 64)
    assert found["larger_part"] == found["margin"] == 1.5
    assert (found["height"], found["length"], found["breadth"]) == (7, 10, 6)
    # Centres: posterior (6.5, 3.5, 4.5), anterior (3.5, 8.5, 6.5).
    assert found["drop"] == pytest.approx(3)
    assert found["turn"] == pytest.approx(2)
    assert found["border"] == pytest.approx(0.6)  # 6 of 10 rows, from the front
    assert found["brightness"] == pytest.approx(1.5)
    mean = (96 * 30 + 64 * 20) / 160
    assert found["contrast"] == pytest.approx(mean / 10)
    assert found["texture"] == pytest.approx(np.sqrt(0.6 * 0.4) * 10 / mean)
    # Faces: 2 (4·6 + 4·6 + 4·4) + 2 · 3 · 16, less twice the 1 × 2 voxels where they touch.
    surface = 2 * (24 + 24 + 16) + 96 - 2 * 2
    assert found["surface"] == pytest.approx(np.pi ** (1 / 3) * 960 ** (2 / 3) / surface)


def test_the_axes_of_one_box() -> None:
    mask = np.zeros((6, 14, 8), np.uint8)
    mask[1:3, 1:7, 1:5] = 2
    mask[1:3, 7:13, 1:5] = 1  # together 2 × 12 × 4 voxels, whose variances are n² - 1
    found = measure_facts(MarkedScan(mask, np.ones(mask.shape, np.float32) + mask, (1.0, 1.0, 1.0)))
    assert found["elongation"] == pytest.approx(np.sqrt(143 / 15))
    assert found["flatness"] == pytest.approx(np.sqrt(15 / 3))
    assert found["tilt"] == pytest.approx(0, abs=1e-6)


def test_a_falling_axis_has_a_positive_tilt() -> None:
    mask = np.zeros((20, 20, 5), np.uint8)
    for row in range(1, 19):
        mask[19 - row, row, 2:4] = 1 if row > 9 else 2
        mask[19 - row, row - 1, 2:4] = 1 if row > 9 else 2
    values = np.ones(mask.shape, np.float32)
    assert measure_facts(MarkedScan(mask, values, (1.0, 1.0, 1.0)))["tilt"] == pytest.approx(
        45, abs=0.5
    )


def test_facts_are_in_millimetres() -> None:
    found = measure_facts(boxes((2.0, 1.0, 0.5)))
    assert found["volume"] == 160
    assert (found["height"], found["length"], found["breadth"]) == (14, 10, 3)
    assert (found["drop"], found["turn"]) == (pytest.approx(6), pytest.approx(1))


def test_a_mask_without_a_part_is_refused() -> None:
    marked = boxes()
    with pytest.raises(DatasetError, match=r"no posterior part.*\[0, 1\]"):
        measure_facts(MarkedScan(np.where(marked.mask == 1, 1, 0), marked.values, marked.spacing))


def test_thresholds_are_rounded_terciles_of_training() -> None:
    rows = [dict.fromkeys((f.name for f in FACTS), float(v)) for v in range(101)]
    cuts = fit_thresholds(rows)
    assert cuts["volume"] == (30, 70)  # 33.3 and 66.7, to 10 mm³
    assert cuts["length"] == (33, 67)
    assert cuts["larger_part"] == (1.0,)
    volume = FACTS[0]
    assert [volume.class_of(v, (30, 70)) for v in (29.9, 30, 69, 70)] == [
        "small", "medium", "medium", "large"]  # fmt: skip


def test_majorities() -> None:
    rows = [dict.fromkeys((f.name for f in FACTS), c) for c in "aab"]
    assert most_frequent_classes(rows)["tilt"] == ("a", pytest.approx(2 / 3))


def test_a_caption_states_every_fact_and_is_read_back() -> None:
    draw = random.Random(0)
    texts = set()
    for _ in range(300):
        classes = {fact.name: draw.choice(fact.classes) for fact in FACTS}
        text = write_caption(classes, EXAMPLE, draw)
        assert stated_facts(text, EXAMPLE) == classes
        texts.add(text)
    assert len(texts) == 300


WORDINGS = [way for ways in SENTENCES for way in ways]


@pytest.mark.parametrize("way", WORDINGS, ids=lambda way: " ".join(
    p.text if isinstance(p, Clause) else p for p in way)[:60])  # fmt: skip
def test_every_wording_states_its_own_facts_and_no_other(way: tuple[Clause | str, ...]) -> None:
    facts = {f.name: f for f in FACTS}
    for at in (0, 1, -1):
        said, wanted = [], {}
        for part in way:
            if isinstance(part, Clause):
                wanted[part.fact] = facts[part.fact].classes[at]
                part = part.text.format(part.gaps(EXAMPLE[part.fact])[at])
            said.append(part)
        assert stated_facts(" ".join(said), EXAMPLE) == wanted


def test_every_fact_has_two_wordings_or_more() -> None:
    for ways in SENTENCES:
        assert len(ways) >= 2
    spoken = {p.fact for way in WORDINGS for p in way if isinstance(p, Clause)}
    assert spoken == {fact.name for fact in FACTS}


def test_what_is_said_twice_must_agree() -> None:
    once = "a small hippocampus"
    assert stated_facts(f"{once}, the hippocampus is small", EXAMPLE) == {"volume": "small"}
    assert stated_facts(f"{once}, the hippocampus is large", EXAMPLE) == {"volume": CONTRADICTION}
    assert stated_facts("a hippocampus that runs", EXAMPLE) == {}


def test_a_warped_copy_has_other_facts_and_the_same_parts() -> None:
    marked = boxes()
    made = warp_scan(marked, np.random.default_rng(0))
    again = warp_scan(marked, np.random.default_rng(0))
    assert np.array_equal(made.values, again.values)
    assert np.array_equal(made.mask, again.mask)
    before, after = measure_facts(marked), measure_facts(made)
    assert 0.5 < after["volume"] / before["volume"] < 1.6
    assert after["drop"] > 0
    assert after["brightness"] == pytest.approx(1.5, rel=0.3)
    for axis in range(3):  # the hippocampus lies whole inside its crop
        assert np.ptp(np.argwhere(made.mask)[:, axis]) < made.mask.shape[axis] - 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten scans in the Decathlon's layout."""
    return write_task04(tmp_path_factory.mktemp("task04"), 10)


def test_the_data_set_as_it_is_written(folder: Path, tmp_path: Path) -> None:
    path = write_data(folder, tmp_path, captions=5, copies=2, seed=3)
    dataset = load_dataset(path, tmp_path)
    counts = {s: len(dataset.split(s).items) for s in ("train", "val", "test")}
    assert counts == {"train": 7 * 3, "val": 1, "test": 2}
    assert "rule-made text on real scans" in json.loads(path.read_text())["dataset"].lower()
    book = load_facts(tmp_path / "facts.json")
    for item in dataset.items:
        name = Path(item.key).name
        is_copy = "_copy" in name
        assert len(item.captions) == (2 if is_copy else 5)
        marked = read_marked_scan(tmp_path / "scans" / name, tmp_path / "masks" / name)
        assert book.classes[name] == classify(measure_facts(marked), book.thresholds)
        for text in item.captions:
            assert stated_facts(text, book.thresholds) == book.classes[name]
    first = path.read_bytes()
    assert write_data(folder, tmp_path, captions=5, copies=2, seed=3).read_bytes() == first


def test_a_folder_of_something_else_is_left_as_it_is(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "scans" / "scan_00.nii.gz"
    own.parent.mkdir()
    own.write_bytes(b"somebody's")
    with pytest.raises(ConfigError, match="something other than"):
        write_data(folder, tmp_path)
    assert own.read_bytes() == b"somebody's"


def test_thresholds_know_nothing_of_the_scans_held_out(folder: Path, tmp_path: Path) -> None:
    write_data(folder, tmp_path, copies=0)
    facts = json.loads((tmp_path / "facts.json").read_text())
    rows = [s["values"] for s in facts["scans"].values() if s["split"] == "train"]
    assert {k: tuple(v) for k, v in facts["thresholds"].items()} == fit_thresholds(rows)


def test_the_split_is_by_scan_and_seed() -> None:
    names = [f"{i}.nii.gz" for i in range(260)]
    found = split_scans(names, 0)
    assert found == split_scans(names[::-1], 0)
    assert found != split_scans(names, 1)
    assert [list(found.values()).count(s) for s in ("train", "val", "test")] == [179, 29, 52]


def test_the_command(folder: Path, tmp_path: Path) -> None:
    arguments = ["data", str(folder), str(tmp_path / "out"), "--copies", "0"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert done.stdout.strip().replace("\n", "") == str(tmp_path / "out" / "dataset.json")


def test_a_folder_of_something_else_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no images/\*\.nii\.gz"):
        write_data(tmp_path, tmp_path / "out")
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    (tmp_path / "images" / "a.nii.gz").write_bytes((folder / "images/scan_00.nii.gz").read_bytes())
    with pytest.raises(DatasetError, match=r"no mask labels/a\.nii\.gz"):
        write_data(tmp_path, tmp_path / "out")
    (tmp_path / "labels" / "a.nii.gz").write_bytes((folder / "labels/scan_01.nii.gz").read_bytes())
    with pytest.raises(DatasetError, match="a mask must lie on its scan's own voxels"):
        read_marked_scan(tmp_path / "images" / "a.nii.gz", tmp_path / "labels" / "a.nii.gz")


def test_facts_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text('{"thresholds": {}, "scans": {}}')
    with pytest.raises(DatasetError, match="another version"):
        load_facts(path)
    path.write_text("[]")
    with pytest.raises(DatasetError, match=r"projects\.hippocampus data"):
        load_facts(path)


@pytest.mark.data
def test_no_fact_of_the_real_scans_is_nearly_always_the_same(
    shared_data: Path, tmp_path: Path
) -> None:
    write_data(shared_data / "hippocampus3d", tmp_path, copies=0)
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert len(facts["scans"]) == 260
    shares = {name: share for name, (_, share) in facts["majorities"]["train"].items()}
    assert len(shares) == 18
    assert max(shares.values()) <= MAJORITY_LIMIT
