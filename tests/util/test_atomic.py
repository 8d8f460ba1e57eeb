"""Files that are written whole or not at all; folders are tested with checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from regard.util.atomic import whole_file


def test_a_file_takes_the_place_of_the_old_one_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "map.nii.gz"
    path.write_text("old")
    with whole_file(path) as new:
        assert new.parent == tmp_path
        assert new.name.endswith(".nii.gz")
        new.write_text("half")
        assert path.read_text() == "old"
    assert path.read_text() == "half"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with whole_file(path) as new:
            new.write_text("half")
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_long_names_links_and_devices(tmp_path: Path) -> None:
    long = tmp_path / f"{'x' * 250}.txt"
    with whole_file(long) as new:
        new.write_text("long")
    assert long.read_text() == "long"
    link = tmp_path / "link"
    link.symlink_to(long)
    with whole_file(link) as new:
        new.write_text("through")
    assert link.is_symlink()
    assert long.read_text() == "through"
    with whole_file(Path(os.devnull)) as new:
        new.write_text("nothing")
    assert not Path(os.devnull).is_file()
