"""`regard explain` and `regard faithfulness`."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from regard.cli.main import app, main
from regard.cli.output import OutputFolder
from regard.errors import ConfigError
from regard.explain import outputs
from tests.helpers import scans, toys
from tests.helpers.clips import clip_bytes
from tests.helpers.toy_models import captioner


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    toys.captioner().save(folder / "soft")
    captioner(attention="hard").save(folder / "hard")
    toys.captioner(scores="uniform").save(folder / "control")
    scans.captioner().save(folder / "scans")
    return folder


def run(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_a_picture_gets_a_sheet_an_animation_a_page_and_numbers(
    models: Path, tmp_path: Path
) -> None:
    _, images = toys.write_data(tmp_path, 1)
    out = tmp_path / "out"
    found = run("explain", images / "0.jpg", images / "gone.jpg", "--out", out, "--model",
                models / "soft", "--beam", 1, "--grids")  # fmt: skip
    assert found.exit_code == 1, found.output
    assert "gone.jpg" in found.stderr
    assert sorted(p.name for p in out.iterdir()) == [
        "0.html", "0.json", "0.npy", "0.png", "0.webp"
    ]  # fmt: skip
    record = json.loads((out / "0.json").read_text("utf-8"))
    grids = np.load(out / "0.npy")
    assert grids.shape == (len(record["words"]), 2, 2)
    np.testing.assert_allclose(grids.reshape(len(grids), 4), record["alpha"], atol=1e-6)
    assert len(record["occlusion"]["falls"]) == len(record["words"])
    assert found.stdout == f"{images / '0.jpg'}: {record['caption']}\n"


def test_a_clip_gets_a_strip_a_player_and_numbers_by_frames(models: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(clip_bytes(30))
    out = tmp_path / "out"
    found = run("explain", tmp_path / "a.mp4", "--out", out, "--model", models / "soft",
                "--compare", models / "hard", "--beam", 1, "--grids", "--animation", "none",
                )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert sorted(p.name for p in out.iterdir()) == ["a.html", "a.json", "a.npy", "a.png"]
    record = json.loads((out / "a.json").read_text("utf-8"))
    words = len(record["words"])
    assert np.load(out / "a.npy").shape == (words, 12, 2, 2)
    assert record["occlusion"]["covered"] == "frame"
    assert np.shape(record["occlusion"]["falls"]) == (words, 12)
    assert record["compared"]["occlusion"]["covered"] == "frame"
    page = (out / "a.html").read_text("utf-8")
    assert page.count("<video ") == 2
    assert page.count("data:video/mp4;base64,") == 1
    found = run("caption", tmp_path / "a.mp4", "--explain", out, "--model", models / "soft")
    assert found.exit_code == 0, found.output
    assert (out / "a.png").stat().st_size > 10_000


def test_two_models_are_compared(models: Path, tmp_path: Path) -> None:
    _, images = toys.write_data(tmp_path, 1)
    found = run("explain", images, "--out", tmp_path / "out", "--model", models / "soft",
                "--compare", models / "hard", "--no-occlusion", "--animation", "none",
                "--beam", 1)  # fmt: skip
    assert found.exit_code == 0, found.output
    record = json.loads((tmp_path / "out" / "0.json").read_text("utf-8"))
    assert record["compared"]["words"]
    assert "occlusion" not in record
    assert (tmp_path / "out" / "0.html").read_text("utf-8").count("class='regard'") == 2
    assert not list((tmp_path / "out").glob("*.webp"))


def test_an_unknown_animation_is_wrong_usage(tmp_path: Path) -> None:
    found = run("explain", "x.jpg", "--out", tmp_path, "--animation", "mp4")
    assert found.exit_code == 2


def test_faithfulness_prints_and_writes_all_tables(models: Path, tmp_path: Path) -> None:
    captions, images = toys.write_data(tmp_path, 12)
    found = run("faithfulness", "--annotations", captions, "--images", images, "--model",
                models / "soft", "--control", models / "control", "--probed", 1, "--beam", 1,
                "--json", tmp_path / "f.json")  # fmt: skip
    assert found.exit_code == 0, found.output
    for part in ("deletion", "insertion", "occlusion", "permuted", "control: toy"):
        assert part in found.stdout
    record = json.loads((tmp_path / "f.json").read_text("utf-8"))
    assert set(record) >= {"settings", "deletion", "insertion", "agreement", "swaps", "control"}
    assert record["regions"] == {}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_lies_beside_a_source_is_never_written_over(models: Path, tmp_path: Path) -> None:
    for name in ("pic.png", "anim.webp", "photo.jpg"):
        Image.fromarray(toys.picture()).save(tmp_path / name)
    for name in ("pic.json", "pic.html", "pic.npy", "photo.json"):
        (tmp_path / name).write_text("somebody's own")
    before = content(tmp_path)
    sources = [tmp_path / name for name in ("pic.png", "anim.webp", "photo.jpg")]
    found = run("explain", *sources, "--out", tmp_path, "--model", models / "soft", "--beam", 1,
                "--grids", "--no-occlusion")  # fmt: skip
    assert found.exit_code == 0, found.output
    after = content(tmp_path)
    assert {name: after[name] for name in before} == before
    suffixes = ("html", "json", "npy", "png", "webp")
    made = {f"{stem}-2.{suffix}" for stem in ("anim", "photo", "pic") for suffix in suffixes}
    assert set(after) - set(before) == made
    found = run("caption", tmp_path / "pic.png", "--explain", tmp_path, "--model", models / "soft")
    assert found.exit_code == 0, found.output
    assert {name: content(tmp_path)[name] for name in after} == after
    assert (tmp_path / "pic-3.png").is_file()


def test_a_later_source_in_the_output_folder_is_not_written_over(
    models: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "pic.jpg").write_bytes(toys.jpeg())
    Image.fromarray(toys.picture(1)).save(out / "pic.png")
    before = (out / "pic.png").read_bytes()
    found = run("caption", tmp_path / "pic.jpg", out / "pic.png", "--explain", out, "--model",
                models / "soft", "--beam", 1)  # fmt: skip
    assert found.exit_code == 0, found.output
    assert (out / "pic.png").read_bytes() == before
    assert sorted(p.name for p in out.iterdir()) == ["pic-2.png", "pic-3.png", "pic.png"]


@pytest.mark.parametrize("animation", ["webp", "gif"])
def test_the_same_command_writes_over_what_it_drew(
    models: Path, tmp_path: Path, animation: str
) -> None:
    (tmp_path / "pic.jpg").write_bytes(toys.jpeg())
    out = tmp_path / "out"
    command = ["explain", tmp_path / "pic.jpg", "--out", out, "--model", models / "soft", "--beam",
               1, "--animation", animation, "--grids", "--no-occlusion"]  # fmt: skip
    assert run(*command).exit_code == 0
    once = sorted(content(out))
    (out / "pic.html").write_text("old")
    assert run(*command).exit_code == 0
    assert sorted(content(out)) == once
    assert (out / "pic.html").read_text("utf-8") != "old"


def test_numbers_without_a_drawing_are_somebodys_own(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "out", "--out")
    (folder.folder / "pic.json").write_text("{}")
    (folder.folder / "bad.png").write_text("no picture")
    assert folder.stem("pic.jpg", (".png", ".json")).name == "pic-2"
    assert folder.stem("bad.jpg", (".png", ".json")).name == "bad-2"


def test_the_second_model_decodes_as_the_first(models: Path, tmp_path: Path) -> None:
    _, images = toys.write_data(tmp_path, 1)
    found = run("explain", images, "--out", tmp_path / "out", "--model", models / "hard",
                "--compare", models / "hard", "--no-occlusion", "--animation", "none",
                "--beam", 1, "--context", "argmax")  # fmt: skip
    assert found.exit_code == 0, found.output
    record = json.loads((tmp_path / "out" / "0.json").read_text("utf-8"))
    chosen = [word["location"] for word in record["words"]]
    assert chosen == [word["location"] for word in record["compared"]["words"]]
    assert None not in chosen


def test_what_the_second_model_cannot_read_is_that_files_error(
    models: Path, tmp_path: Path
) -> None:
    _, images = toys.write_data(tmp_path, 2)
    found = run("explain", images, "--out", tmp_path / "out", "--model", models / "soft",
                "--compare", models / "scans", "--no-occlusion", "--beam", 1)  # fmt: skip
    assert found.exit_code == 1, found.output
    first, second = found.stderr.splitlines()
    assert "--compare" in first
    assert "0.jpg: the file is a picture" in first
    assert "1.jpg: the file is a picture" in second
    assert list((tmp_path / "out").iterdir()) == []


def test_raw_cells_are_raw_on_the_page(models: Path, tmp_path: Path) -> None:
    _, images = toys.write_data(tmp_path, 1)
    found = run("explain", images, "--out", tmp_path / "out", "--model", models / "soft",
                "--no-occlusion", "--animation", "none", "--beam", 1, "--no-smooth")  # fmt: skip
    assert found.exit_code == 0, found.output
    page = (tmp_path / "out" / "0.html").read_text("utf-8")
    assert "class='smooth'>" in page
    assert "class='smooth' checked" not in page


def test_a_name_that_is_no_utf8_is_explained(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture = os.fsdecode(os.fsencode(tmp_path) + b"/bad-\xff.jpg")
    try:
        Path(picture).write_bytes(toys.jpeg())
    except OSError:
        pytest.skip("this file system takes no such name")
    command = ["explain", picture, "--out", tmp_path / "out", "--model", models / "soft",
               "--no-occlusion", "--animation", "none", "--beam", 1]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["regard", *map(str, command)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert (stopped.value.code, capsys.readouterr().err) == (0, "")
    (record,) = (tmp_path / "out").glob("*.json")
    assert json.loads(record.read_text("utf-8"))["file"] == picture
    (page,) = (tmp_path / "out").glob("*.html")
    assert "bad-\\udcff.jpg" in page.read_text("utf-8")


def test_faithfulness_tells_of_pictures_that_cannot_be_read(models: Path, tmp_path: Path) -> None:
    captions, images = toys.write_data(tmp_path, 12)
    (images / "7.jpg").write_text("no picture")
    found = run("faithfulness", "--annotations", captions, "--images", images, "--model",
                models / "soft", "--probed", 1, "--beam", 1, "--json", tmp_path / "f.json",
                )  # fmt: skip
    assert found.exit_code == 1, found.output
    (line,) = found.stderr.splitlines()
    assert line.startswith("regard: 7.jpg: ")
    assert line.endswith("Scored as an empty caption.")
    record = json.loads((tmp_path / "f.json").read_text("utf-8"))
    assert list(record["failures"]) == ["7.jpg"]
    assert record["settings"]["pictures"] == 2


def test_faithfulness_looks_at_the_control_first(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions, images = toys.write_data(tmp_path, 4)
    monkeypatch.setattr("regard.faithfulness.experiments.faithfulness", lambda *_, **__: 1 / 0)
    found = run("faithfulness", "--annotations", captions, "--images", images, "--model",
                models / "soft", "--control", models / "soft")  # fmt: skip
    assert isinstance(found.exception, ConfigError)
    assert "a control has uniform ones" in str(found.exception)


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\u72d7"])
def test_a_name_of_255_bytes_is_explained_and_the_next_one_too(
    models: Path, tmp_path: Path, letter: str
) -> None:
    long = letter * (251 // len(letter.encode()))
    names = [f"{long}.png", f"{long[:-1]}a.png", "b.png"]
    for name in names:
        Image.fromarray(toys.picture()).save(tmp_path / name)
    out = tmp_path / "out"
    arguments = [tmp_path / name for name in names]
    found = run("explain", *arguments, "--out", out, "--model", models / "soft", "--beam", 1,
                "--animation", "none", "--no-occlusion")  # fmt: skip
    assert found.exit_code == 0, found.output
    drawn = sorted(path.stem for path in out.glob("*.png"))
    assert len(drawn) == 3
    assert drawn[0] == "b"
    assert drawn[2].startswith(long[:70])
    drawn = run("caption", *arguments, "--explain", tmp_path / "2", "--model", models / "soft")
    assert drawn.exit_code == 0, drawn.output
    assert len(list((tmp_path / "2").iterdir())) == 3


def test_the_fault_of_one_output_is_a_line_of_its_own(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, images = toys.write_data(tmp_path, 4)
    wrong = {
        "0": OSError(errno.EILSEQ, os.strerror(errno.EILSEQ)),
        "1": MemoryError(),
        "2": ConfigError("it cannot be drawn."),
    }
    real = outputs.write_explanation

    def write(captioner: object, caption: object, stem: Path, *rest: object, **options: object):
        if stem.name in wrong:
            raise wrong[stem.name]
        return real(captioner, caption, stem, *rest, **options)

    monkeypatch.setattr(outputs, "write_explanation", write)
    found = run("explain", images, "--out", tmp_path / "out", "--model", models / "soft",
                "--beam", 1, "--animation", "none", "--no-occlusion")  # fmt: skip
    assert found.exit_code == 1
    assert [part in found.stderr for part in ("0.jpg: its output", "1.jpg: not enough memory",
                                              "2.jpg: it cannot")] == [True] * 3  # fmt: skip
    assert "3.jpg" in found.stdout
    monkeypatch.setattr(outputs, "write_explanation", lambda *_, **__: full_disk())
    found = run("explain", images, "--out", tmp_path / "out", "--model", models / "soft",
                "--beam", 1)  # fmt: skip
    assert isinstance(found.exception, ConfigError)
    assert "No space left" in str(found.exception)


def full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
