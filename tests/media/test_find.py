"""Arguments to files."""

import gzip
import io
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from regard.data.check import check_dataset
from regard.data.formats import load_dataset
from regard.errors import DatasetError, MediaError
from regard.media import medium_of, medium_of_bytes, read_image
from regard.media.find import find_files
from regard.media.preprocess import ScanSpec
from regard.media.scan.scan_reader import read_scan
from regard.types import MEDIA
from tests.helpers import clips, toys


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


def find(*arguments: Path, stdin: str | None = None) -> tuple[list[str], list[str]]:
    """Return the names of what is found, and the lines about what is left out."""
    said: list[str] = []
    lines = io.StringIO(stdin) if stdin is not None else None
    found = list(find_files([str(a) for a in arguments], stdin=lines, report=said.append))
    return [Path(f).name for f in found], said


def make_special(folder: Path) -> None:
    """Make a pipe, a socket and two links to devices beside a picture."""
    (folder / "a.png").write_bytes(b"")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "null.mp4").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(folder / "socket.nii"))


@pytest.mark.timeout(20)
def test_special_files_of_folders_patterns_and_lists_are_left_out_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_special(tmp_path)
    listed = "".join(f"{path}\n" for path in sorted(tmp_path.iterdir()))
    for argument, stdin in ((tmp_path, None), (tmp_path / "*", None), (Path("-"), listed)):
        found, said = find(argument, stdin=stdin)
        assert found == ["a.png"]
        assert [line.split("/")[-1] for line in said] == [
            "null.mp4 is a device, not a file: left out.",
            "pipe.jpg is a pipe, not a file: left out.",
            "socket.nii is a socket, not a file: left out.",
            "zero.png is a device, not a file: left out.",
        ]
    assert find(tmp_path / "pipe.jpg") == (["pipe.jpg"], [])  # named by itself


@pytest.mark.timeout(20)
def test_a_pipe_that_is_named_is_read_as_a_picture_alone(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(toys.jpeg()))
    writer.start()
    assert read_image(path).size == (40, 60)
    writer.join()
    with pytest.raises(MediaError, match="is a pipe, not a regular file"):
        read_scan(path, ScanSpec((4, 4, 4), (), "percentile"))


@pytest.mark.timeout(20)
def test_special_files_of_a_data_set_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_special(tmp_path)
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    names = ("a.png", "pipe.jpg", "zero.png", "socket.nii", "gone.jpg")
    rows = "".join(f"{name},a dog\n" for name in names)
    (tmp_path / "c.csv").write_text("file,caption\n" + rows)
    said = [p.what for p in check_dataset(tmp_path / "c.csv").problems if p.kind == "missing file"]
    assert said == [
        f"no file '{tmp_path}/pipe.jpg' (it is a pipe)",
        f"no file '{tmp_path}/zero.png' (it is a device)",
        f"no file '{tmp_path}/socket.nii' (it is a socket)",
        f"no file '{tmp_path}/gone.jpg'",
    ]
    with pytest.raises(DatasetError, match="is a pipe, not a file"):
        load_dataset(tmp_path / "c.csv")


def test_the_table_holds_every_suffix_of_the_formats_that_are_read() -> None:
    from regard.media.image import _FORMATS

    Image.init()
    known = {s for s, kind in Image.registered_extensions().items() if kind in _FORMATS}
    assert known <= MEDIA["image"].suffixes


@pytest.mark.parametrize("suffix", ["jpe", "tga", "mpo", "ico", "pcx", "j2k", "JPE", "dib", "pnm"])
def test_pictures_of_rarer_names_are_taken(tmp_path: Path, suffix: str) -> None:
    kinds = {"jpe": "JPEG", "j2k": "JPEG2000", "pnm": "PPM"}
    buffer = io.BytesIO()
    picture = Image.fromarray(toys.picture())
    picture.save(buffer, kinds.get(suffix.lower(), suffix.upper()))
    (tmp_path / f"x.{suffix}").write_bytes(buffer.getvalue())
    (tmp_path / "notes.txt").write_text("a list")
    found, said = find(tmp_path)
    assert found == [f"x.{suffix}"]
    assert said == [f"{tmp_path}: left out 1 file, neither picture, clip nor scan (1 .txt)."]
    assert medium_of(str(tmp_path / found[0])) == "image"


@pytest.mark.parametrize("suffix", ["3g2", "qt", "m2ts", "asf", "y4m", "vob", "F4V", "mpe"])
def test_clips_of_rarer_names_are_taken(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"x.{suffix}").write_bytes(b"?")
    assert find(tmp_path) == ([f"x.{suffix}"], [])
    assert medium_of(str(tmp_path / f"x.{suffix}")) == "video"


def test_the_content_says_what_the_name_does_not(tmp_path: Path) -> None:
    clip = clips.clip_bytes(2)
    contents = {
        "IMG_0001": toys.jpeg(),
        "photo.bak": toys.jpeg(),
        "clip.download": clip,
        "scan": bytes(344) + b"n+1\0" + bytes(99),
        "song.m4a": clips.sound_bytes(),
        "raw.nef": b"II*\0" + bytes(99),
        "Citywide": b"Citywide report, and all that follows it",
        "data.json": b"{}",
        "empty": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    found, (said,) = find(tmp_path)
    assert sorted(found) == ["IMG_0001", "clip.download", "photo.bak", "scan"]
    assert "left out 5 files" in said
    assert "2 without a suffix" in said
    media = [medium_of(str(tmp_path / name)) for name in found]
    assert media == [medium_of_bytes(n, contents[n][:352]) for n in found]
    assert sorted(media) == ["image", "image", "video", "volume"]


def test_a_wrong_name_does_not_hide_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(clips.clip_bytes(2))
    assert medium_of(str(tmp_path / "x.jpg")) == "video"
    (tmp_path / "x.mp4").write_bytes(toys.jpeg())
    assert medium_of(str(tmp_path / "x.mp4")) == "image"


def test_linked_folders_are_searched_once(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    for path in (root / "a" / "1.png", other / "2.png", other / "deep" / "3.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for link, target in (
        (root / "linked", other),
        (root / "again", other),
        (root / "within", other / "deep"),
        (root / "a" / "loop", root),
        (root / "up", tmp_path),
        (other / "back", root),
    ):
        link.symlink_to(target)
    found, said = find(root)
    assert sorted(found) == ["1.png", "2.png", "3.png"]
    assert said == []
