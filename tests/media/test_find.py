"""Arguments to files."""

import gzip
import io
import os
from pathlib import Path
from typing import Any

import pytest

from regard.errors import MediaError
from regard.media import medium_of, read_image
from regard.media.find import find_files
from regard.media.preprocess import ScanSpec
from regard.media.scan.scan_reader import read_scan


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


def test_a_folder_that_cannot_be_listed_is_an_item_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "closed", "z"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"")
    real = os.scandir

    def scandir(path: Any = ".") -> Any:
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr("os.scandir", scandir)
    found = list(find_files([str(tmp_path)]))
    assert found == [str(tmp_path / name) for name in ("a/1.jpg", "closed", "z/1.jpg")]
    with pytest.raises(MediaError, match="closed cannot be opened: Permission denied"):
        read_scan(found[1], ScanSpec((4, 4, 4), (), "percentile"))


@pytest.mark.parametrize("place", [4, 344])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_scan_is_known_by_its_bytes_alone(tmp_path: Path, place: int, *, zipped: bool) -> None:
    content = bytearray(4096)
    content[place : place + 4] = b"n+2\0" if place == 4 else b"n+1\0"
    path = tmp_path / "scan"
    path.write_bytes(gzip.compress(bytes(content)) if zipped else bytes(content))
    assert medium_of(str(path)) == "volume"
    path.write_bytes(b"\x1f\x8b damaged")
    assert medium_of(str(path)) == "image"


def test_a_pipe_is_not_read_to_tell_its_medium(tmp_path: Path) -> None:
    """What was read of it would be gone for its reader."""
    os.mkfifo(tmp_path / "pipe")
    assert medium_of(str(tmp_path / "pipe")) == "image"  # or it would wait for ever


def test_what_a_telephone_writes_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x20ftypheic" + bytes(64))
    assert list(find_files([str(tmp_path)])) == [str(tmp_path / "IMG_1.HEIC")]
    assert medium_of(str(tmp_path / "IMG_1.HEIC")) == "image"
    with pytest.raises(MediaError, match="not a picture that can be read"):
        read_image(tmp_path / "IMG_1.HEIC")
