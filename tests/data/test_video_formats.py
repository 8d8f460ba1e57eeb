"""Captions of clips: MSVD's files, its corpus table, MSR-VTT and a plain list."""

import json
from pathlib import Path

import pytest

from regard.data import load_dataset
from regard.data.formats import read_caption_file
from regard.errors import DatasetError

MAPPING = "-4wsuPCjDBc_5_15 vid1\nabc_0_9 vid2\nxyz_1_2 vid1201\nlast_3_4 vid1301\n"
SENTENCES = {
    "train": "vid1\ta squirrel is eating\nvid1\ta chipmunk is eating\nvid2\ta man runs\n",
    "val": "vid1201\ta man fills a bag\n",
    "test": "vid1301\ta boy plays with a dog\n",
}


@pytest.fixture
def msvd(tmp_path: Path) -> Path:
    """MSVD's folder with two of its four clips, one of them in another container."""
    (tmp_path / "youtube_mapping.txt").write_text(MAPPING)
    for split, text in SENTENCES.items():
        (tmp_path / f"sents_{split}_lc_nopunc.txt").write_text(text)
    (tmp_path / "clips").mkdir()
    for name in ("-4wsuPCjDBc_5_15.avi", "xyz_1_2.mp4", "xyz_1_2.txt"):
        (tmp_path / "clips" / name).touch()
    return tmp_path


def test_the_folder_of_msvd_stands_for_all_of_it(msvd: Path) -> None:
    dataset = load_dataset(msvd)
    assert {item.key: item.split for item in dataset} == {
        "-4wsuPCjDBc_5_15.avi": "train",
        "abc_0_9.avi": "train",
        "xyz_1_2.mp4": "val",  # the suffix of the file that is there
        "last_3_4.avi": "test",
    }
    assert dataset.items[0].captions == ("a squirrel is eating", "a chipmunk is eating")
    assert dataset.items[0].file == str(msvd / "clips" / "-4wsuPCjDBc_5_15.avi")


def test_one_file_of_msvd_and_a_folder_of_clips(msvd: Path, tmp_path: Path) -> None:
    dataset = load_dataset(msvd / "sents_val_lc_nopunc.txt", tmp_path / "elsewhere")
    assert [(i.file, i.split) for i in dataset] == [
        (str(tmp_path / "elsewhere" / "xyz_1_2.avi"), "val")
    ]


def test_only_the_clips_that_are_there(msvd: Path) -> None:
    dataset = load_dataset(msvd, present_only=True)
    assert [item.key for item in dataset] == ["-4wsuPCjDBc_5_15.avi", "xyz_1_2.mp4"]
    for clip in (msvd / "clips").iterdir():
        clip.unlink()
    with pytest.raises(DatasetError, match=r"names 4 files, and none of them exists"):
        load_dataset(msvd, present_only=True)


def test_msvd_without_its_mapping_or_with_a_wrong_one(msvd: Path) -> None:
    (msvd / "youtube_mapping.txt").write_text("abc_0_9 vid2\n")
    with pytest.raises(DatasetError, match=r"does not name 'vid1'"):
        load_dataset(msvd)
    assert len(read_caption_file(msvd).faults) == 4
    (msvd / "youtube_mapping.txt").write_text("abc_0_9\n")
    with pytest.raises(DatasetError, match="not a mapping; expected lines"):
        load_dataset(msvd)
    (msvd / "youtube_mapping.txt").unlink()
    with pytest.raises(DatasetError, match=r"youtube_mapping\.txt, which maps"):
        load_dataset(msvd)


def test_a_line_of_msvd_without_a_tab_is_named(msvd: Path) -> None:
    (msvd / "sents_val_lc_nopunc.txt").write_text("vid1201\ta man\nvid1201 a man fills\n")
    with pytest.raises(DatasetError, match=r"sents_val_lc_nopunc.txt line 2: no tab"):
        load_dataset(msvd)


CORPUS = """VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description
-4wsuPCjDBc,5,15,1,clean,10,English,"A squirrel, eating"
-4wsuPCjDBc,5,15,2,unverified,10,English,A chipmunk eats
-4wsuPCjDBc,5,15,3,clean,10,German,Ein Eichhörnchen frisst
xyz,1,2,4,clean,10,English,A man fills a bag
new,7,8,4,clean,10,English,Nobody maps this
last,3,4,4,clean,10,English,
"""


def test_the_corpus_table_takes_english_and_the_official_split(msvd: Path) -> None:
    path = msvd / "corpus.csv"
    path.write_text(CORPUS, "utf-8")
    dataset = load_dataset(path)
    assert {i.key: (i.split, i.captions) for i in dataset} == {
        "-4wsuPCjDBc_5_15.avi": ("train", ("A squirrel, eating", "A chipmunk eats")),
        "xyz_1_2.mp4": ("val", ("A man fills a bag",)),
        "new_7_8.avi": ("unused", ("Nobody maps this",)),
    }
    (msvd / "youtube_mapping.txt").unlink()
    assert {i.split for i in load_dataset(path)} == {""}


def test_a_corpus_table_that_is_not_whole(msvd: Path) -> None:
    path = msvd / "corpus.csv"
    path.write_text("VideoID,Start,Description\na,1,b\n")
    with pytest.raises(DatasetError, match=r"line 1.*expected VideoID, Start, End"):
        load_dataset(path)
    path.write_text(CORPUS.splitlines()[0] + "\nabc,1\n")
    with pytest.raises(DatasetError, match="line 2: fewer fields"):
        load_dataset(path)


MSRVTT = {
    "info": {"year": "2016"},
    "videos": [
        {"video_id": "video0", "split": "train", "start time": 1.0, "id": 0},
        {"video_id": "video1", "split": "validate", "id": 1},
        {"video_id": "video2", "split": "test", "id": 2},
    ],
    "sentences": [
        {"caption": "a car is shown", "video_id": "video0", "sen_id": 0},
        {"caption": "a man drives", "video_id": "video1", "sen_id": 1},
        {"caption": "a red car", "video_id": "video0", "sen_id": 2},
    ],
}


def test_msrvtt(tmp_path: Path) -> None:
    path = tmp_path / "videodatainfo.json"
    path.write_text(json.dumps(MSRVTT))
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "video1.webm").touch()
    found = read_caption_file(path)
    assert {i.key: (i.split, i.captions) for i in found.dataset} == {
        "video0.mp4": ("train", ("a car is shown", "a red car")),
        "video1.webm": ("val", ("a man drives",)),
    }
    assert [p.key for p in found.pictures if not p.captions] == ["video2.mp4"]
    assert found.dataset.items[0].file == str(tmp_path / "videos" / "video0.mp4")
    lost = MSRVTT | {"sentences": [{"caption": "a", "video_id": "video9"}]}
    path.write_text(json.dumps(lost))
    with pytest.raises(DatasetError, match=r"sentence 1: its video_id 'video9'"):
        load_dataset(path)


def test_a_list_of_clips_and_their_captions(tmp_path: Path) -> None:
    path = tmp_path / "clips_captions.json"
    entries = [
        {"file": "a.avi", "vid": "vid1", "split": "train", "captions": ["a dog", "a cat"]},
        {"file": "b.avi", "captions": ["a man"]},
        {"file": "c.avi", "captions": []},
    ]
    path.write_text(json.dumps(entries))
    found = read_caption_file(path)
    assert [(i.key, i.split, i.captions) for i in found.dataset] == [
        ("a.avi", "train", ("a dog", "a cat")),
        ("b.avi", "", ("a man",)),
    ]
    assert found.pictures[-1].captions == ()


def test_a_clip_s_captions_are_a_list(tmp_path: Path) -> None:
    path = tmp_path / "clips_captions.json"
    path.write_text(json.dumps([{"file": "a.avi", "captions": "a red dog"}]))
    with pytest.raises(DatasetError, match=r"captions of a\.avi are 'a red dog'; expected a list"):
        load_dataset(path)


@pytest.mark.data
def test_the_real_msvd(shared_data: Path) -> None:
    dataset = load_dataset(shared_data / "msvd")
    assert {name: len(dataset.split(name)) for name in ("train", "val", "test")} == {
        "train": 1200,
        "val": 100,
        "test": 670,
    }
    assert sum(len(item.captions) for item in dataset) == 80827
    present = load_dataset(shared_data / "msvd", present_only=True)
    listed = load_dataset(shared_data / "msvd" / "clips_captions.json")
    assert {i.file: sorted(i.captions) for i in present} == {
        i.file: sorted(i.captions) for i in listed
    }
