"""Arguments to files."""

import io
from pathlib import Path

import pytest

from regard.media import find_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = ("b.JPG", "a.png", "in/c.webp", "notes.txt", ".hidden.png", "._a.png", ".git/d.png")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "no pictures").mkdir()
    return tmp_path


def names_of(found: object, folder: Path) -> list[str]:
    return [str(Path(f).relative_to(folder)) for f in found]  # type: ignore[attr-defined]


def test_a_folder_gives_its_pictures_sorted(folder: Path) -> None:
    assert names_of(find_files([str(folder)]), folder) == ["a.png", "b.JPG", "in/c.webp"]


def test_a_pattern_gives_what_it_matches_whatever_the_suffix(folder: Path) -> None:
    assert names_of(find_files([f"{folder}/*"]), folder) == ["a.png", "b.JPG", "notes.txt"]
    assert names_of(find_files([f"{folder}/**/*.webp"]), folder) == ["in/c.webp"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(folder: Path) -> None:
    (folder / "a[1].png").touch()
    assert names_of(find_files([f"{folder}/a[1].png"]), folder) == ["a[1].png"]


@pytest.mark.parametrize("name", ["gone.jpg", "gone*.jpg", "no pictures", "no pic*", "x" * 5000])
def test_what_gives_nothing_is_given_as_it_is(folder: Path, name: str) -> None:
    argument = str(folder / name)
    assert list(find_files([argument])) == [argument]


def test_arguments_keep_their_order_and_may_repeat() -> None:
    assert list(find_files(["b.jpg", "a.jpg", "b.jpg"])) == ["b.jpg", "a.jpg", "b.jpg"]


def test_a_dash_reads_standard_input_line_by_line() -> None:
    stdin = io.StringIO("x y.jpg\r\n\n  \nz.jpg")
    found = find_files(["first.jpg", "-", "last.jpg"], stdin=stdin)
    assert next(found) == "first.jpg"
    assert next(found) == "x y.jpg"
    assert stdin.tell() < len("x y.jpg\r\n\n  \nz.jpg")  # the rest is not read yet
    assert list(found) == ["z.jpg", "last.jpg"]
    assert list(find_files(["-"])) == ["-"]
