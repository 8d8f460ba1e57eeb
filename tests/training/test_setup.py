"""What a run does before its first step."""

from dataclasses import replace
from pathlib import Path

import pytest

from regard.config import DataConfig, TrainingConfig
from regard.data import load_dataset
from regard.errors import ConfigError, DatasetError
from regard.training.batches import Splits, check_batching
from regard.training.devices import Devices
from regard.training.setup import check_unchanged, cut_captions, load_splits


def test_captions_that_are_cut_are_counted() -> None:
    captions = [[[4, 5, 6, 7], [4, 5]], [[4, 5, 6]]]
    cut, remark = cut_captions(captions, 3)
    assert cut == [[[4, 5, 6], [4, 5]], [[4, 5, 6]]]
    assert remark.startswith("1 of 3 training captions have more than data.max_length = 3 tokens")
    assert "the longest has 4" in remark
    assert cut_captions(captions, 4) == (captions, "")


def splits_of(folder: Path, *names: str) -> Splits:
    """Return the splits of a CSV whose pictures 0.jpg, 1.jpg, ... name these."""
    lines = [f"{i}.jpg,a dog,{name}" for i, name in enumerate(names)]
    (folder / "c.csv").write_text("\n".join(["file,caption,split", *lines]))
    return load_splits(DataConfig(annotations=str(folder / "c.csv")), 0, 0, Devices())


def keys(splits: Splits) -> tuple[list[str], list[str]]:
    return [i.key for i in splits.train], [i.key for i in splits.val]


def test_a_test_set_is_never_trained_on_however_its_name_is_written(tmp_path: Path) -> None:
    found = splits_of(tmp_path, "Train", "TRAINING", "Val", "Test", "testing", "test ")
    assert keys(found) == (["0.jpg", "1.jpg"], ["2.jpg"])
    drawn = splits_of(tmp_path, "Train", "Train", "Test", "testing", "test ", "unused")
    train, val = keys(drawn)
    assert sorted(train + val) == ["0.jpg", "1.jpg"]


def test_the_held_out_rows_alone_may_be_marked(tmp_path: Path) -> None:
    assert keys(splits_of(tmp_path, "", "val", "", "test")) == (["0.jpg", "2.jpg"], ["1.jpg"])


@pytest.mark.parametrize("names", [("train", "train", "holdout"), ("train", "val", "holdout")])
def test_a_split_of_an_unknown_name_is_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"the split 'holdout' for 2\.jpg \(1 such.*train, val"):
        splits_of(tmp_path, *names)


@pytest.mark.parametrize("others", ["2.jpg,a dog,val\n", ""])  # "": none would be held out
def test_a_picture_in_two_splits_is_refused(others: str, tmp_path: Path) -> None:
    rows = "".join(f"{i}.jpg,a dog,train\n{i}.jpg,a cat,Val\n{i}.jpg,a man,\n" for i in (0, 1))
    captions = tmp_path / "c.csv"
    captions.write_text(f"file,caption,split\n{rows}{others}")
    wanted = r"the splits train and val for 0\.jpg \(2 such.*`regard data check` lists"
    with pytest.raises(DatasetError, match=wanted):
        load_splits(DataConfig(annotations=str(captions)), 0, 0, Devices())
    assert len(load_dataset(captions)) == 2 + bool(others)  # but for training it can be read


def test_a_picture_in_two_splits_may_be_absent(tmp_path: Path) -> None:
    rows = "a.jpg,a dog,train\nb.jpg,a cat,val\ngone.jpg,a dog,train\ngone.jpg,a dog,val\n"
    captions = tmp_path / "c.csv"
    captions.write_text(f"file,caption,split\n{rows}")
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"")
    config = DataConfig(annotations=str(captions), present_only=True)
    assert keys(load_splits(config, 0, 0, Devices())) == (["a.jpg"], ["b.jpg"])


def test_a_run_goes_on_with_the_same_captions_and_splits_only(tmp_path: Path) -> None:
    began = splits_of(tmp_path, "train", "train", "val")
    check_unchanged(splits_of(tmp_path, "train", "training", "validation"), began.digest)
    check_unchanged(began, None)  # of a run that an older regard began
    item = began.train.items[0]
    said = replace(began.train, items=(replace(item, captions=("a cat",)), began.train.items[1]))
    for now in (
        splits_of(tmp_path, "train", "val", "train"),
        splits_of(tmp_path, "train", "train", "val", "val"),
        replace(began, train=said),
    ):
        with pytest.raises(DatasetError, match="no longer has the captions and splits"):
            check_unchanged(now, began.digest)


def test_batches_of_one_length_need_every_caption_by_itself() -> None:
    with pytest.raises(
        ConfigError, match=r"captions_per_image is 5.*Set training\.captions_per_image"
    ):
        check_batching(TrainingConfig(batching="equal"))
    check_batching(TrainingConfig(batching="equal", captions_per_image=1))
