"""The command line: streams, statuses, and what is written."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regard.cli.main import app, main
from regard.errors import ConfigError
from regard.model.encoders.onnx_encoder import encode_with
from regard.pretrained import DEFAULTS, shipped_models
from tests.helpers import toys


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("cli") / "toy"
    toys.captioner().save(folder, metrics={"scores": {"bleu4": 1.0}})
    return str(folder)


def run(*arguments: str, stdin: str = ""):
    return CliRunner().invoke(app, list(arguments), input=stdin)


def test_captions_go_to_standard_output(model: str, tmp_path: Path) -> None:
    _, images = toys.write_data(tmp_path, 3)
    found = run("caption", str(images), "--model", model, "--beam", "1")
    assert found.exit_code == 0
    lines = found.stdout.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(images / f"{i}.jpg") for i in range(3)]
    piped = run("caption", "-", "--model", model, "--beam", "1", stdin=f"{images / '1.jpg'}\n")
    assert piped.stdout.splitlines() == [lines[1]]


def test_a_bad_item_is_reported_and_the_others_go_on(model: str, tmp_path: Path) -> None:
    _, images = toys.write_data(tmp_path, 2)
    (images / "0.jpg").write_text("no picture")
    files = [str(images / "0.jpg"), "gone.jpg", str(images / "1.jpg")]
    found = run("caption", *files, "--model", model, "--beam", "1")
    assert found.exit_code == 1
    assert found.stdout.startswith(str(images / "1.jpg"))
    assert len(found.stdout.splitlines()) == 1
    assert len(found.stderr.splitlines()) == 2
    found = run("caption", *files, "--model", model, "--json")
    records = [json.loads(line) for line in found.stdout.splitlines()]
    assert [set(r) == {"file", "error"} for r in records] == [True, True, False]
    assert [r["file"] for r in records] == files
    assert found.exit_code == 1


def test_json_without_alpha_and_contact_sheets(model: str, tmp_path: Path) -> None:
    _, images = toys.write_data(tmp_path, 1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "0.png").write_bytes((images / "0.jpg").read_bytes())
    files = [str(images / "0.jpg"), str(tmp_path / "other" / "0.png")]
    found = run("caption", *files, "--model", model, "--json", "--no-alpha", "--explain",
                str(tmp_path / "maps"))  # fmt: skip
    assert found.exit_code == 0
    assert all("alpha" not in json.loads(line) for line in found.stdout.splitlines())
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == ["0-2.png", "0.png"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("caption", "x.jpg", "--model", "nowhere"), "no model 'nowhere'"),
        (("caption", "x.jpg", "--beam", "0", "--model", "MODEL"), "beam"),
        (("caption", "x.jpg", "--context", "soft", "--model", "MODEL"), "context"),
        (("train",), "--data"),
        (("train", "flickr8k-sofd"), "flickr8k-soft"),
        (("train", "own-data", "--set", "training.epoch=3"), "epochs"),
        (("train", "own-data", "--resume", "x"), "--resume"),
        (("data", "check", "nowhere.csv"), "cannot be opened"),
        (("evaluate", "--annotations", "nowhere.json"), "cannot be opened"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    arguments: tuple[str, ...], says: str, model: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    named = [model if a == "MODEL" else a for a in arguments]
    monkeypatch.setattr("sys.argv", ["regard", *named])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    written = capsys.readouterr()
    assert says in written.err
    assert written.out == ""
    assert len(written.err.splitlines()) == 1


AT_THE_END = """
import atexit, gc
atexit.register(lambda: print("left alone:", gc.get_freeze_count() > 10_000))  # called last
from regard.cli.main import main
main()
"""


def test_a_command_ends_without_a_search_for_cycles() -> None:
    """It would cost a tenth of the second that one caption takes."""
    command = [sys.executable, "-c", AT_THE_END, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "left alone: True"


def test_info_models_and_version(model: str) -> None:
    found = run("info", model)
    assert found.exit_code == 0
    assert "2×2 cells" in found.stdout
    assert json.loads(run("info", model, "--json").stdout)["name"] == "toy"
    machine = json.loads(run("info", "--runtime", "--json").stdout)
    assert {"computation", "implementation", "reason", "others"} <= machine["computations"][
        0
    ].keys()
    assert "vocabulary loss" in run("info", "--runtime").stdout
    assert run("info", model, "--runtime").exit_code == 2
    names = [json.loads(x)["name"] for x in run("models", "--json").stdout.splitlines()]
    assert names == list(shipped_models())
    assert run("models").exit_code == 0
    assert run("--version").stdout.startswith("regard 0.")


def test_data_check_says_by_its_status_whether_all_is_well(tmp_path: Path) -> None:
    captions, images = toys.write_data(tmp_path)
    assert run("data", "check", str(captions), "--images", str(images)).exit_code == 0
    (images / "0.jpg").unlink()
    found = run("data", "check", str(captions), "--images", str(images), "--json")
    assert found.exit_code == 1
    assert json.loads(found.stdout)["problems"][0]["kind"] == "missing file"


def test_own_data_in_one_command_then_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Exporting an encoder takes longer than eight pictures do without.
    monkeypatch.setattr(
        "regard.training.inputs.encode_with", lambda encoder: encode_with(encoder, runtime="torch")
    )
    captions, images = toys.write_data(tmp_path)
    small = ["training.epochs=1", "data.min_count=1", "encoder.image_size=64",
             "decoder.hidden_dim=8", "decoder.feature_dim=8"]  # fmt: skip
    sets = [x for s in small for x in ("--set", s)]
    out = tmp_path / "mine"
    found = run("train", "--data", str(captions), "--images", str(images), "--out", str(out), *sets)
    assert found.exit_code == 0, found.output
    assert found.stdout.strip() == str(out / "best")
    assert "epoch 1:" in found.stderr
    scores = tmp_path / "scores.json"
    found = run("evaluate", "--model", str(out), "--annotations", str(captions),
                "--images", str(images), "--split", "val", "--tokenizer", "python",
                "--json", str(scores))  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "Hard attention" not in found.stdout  # published scores are of Flickr8k
    shutil.copy(captions, tmp_path / "my_flickr8k.csv")
    again = run("evaluate", "--model", str(out), "--annotations", str(tmp_path / "my_flickr8k.csv"),
                "--images", str(images), "--split", "val", "--tokenizer", "python")  # fmt: skip
    assert "Hard attention" in again.stdout
    record = json.loads(scores.read_text())
    assert set(record["captions"]) == {"3.jpg", "7.jpg"}
    assert {"bleu1", "bleu4", "rouge_l", "cider_d"} <= set(record["scores"])
    assert record["settings"]["split"] == "val"


@pytest.mark.parametrize(
    ("command", "more"),
    [("evaluate", ["--tokenizer", "python"]), ("faithfulness", ["--probed", "1"])],
)
def test_a_record_replaces_only_a_record(
    command: str, more: list[str], model: str, tmp_path: Path
) -> None:
    captions, images = toys.write_data(tmp_path, 8)  # two of val

    def record(file: Path):
        return run(command, "--model", model, "--annotations", str(captions), "--images",
                   str(images), "--beam", "1", "--json", str(file), *more)  # fmt: skip

    own = tmp_path / "own.json"
    own.touch()  # which has nothing to lose
    for _ in range(2):
        assert (found := record(own)).exit_code == 0, found.output
    for text in ("notes", "[1]", '{"scores": {}, "settings": {}}'):
        file = tmp_path / "mine.json"
        file.write_text(text)
        assert "was not written by this command" in str(record(file).exception)
        assert file.read_text() == text
    before = captions.read_bytes()
    (tmp_path / "link.json").symlink_to(captions)
    for file in (captions, tmp_path / "link.json"):
        found = record(file)
        assert isinstance(found.exception, ConfigError)
        assert "which the command reads" in str(found.exception)
    assert captions.read_bytes() == before


@pytest.mark.skipif(DEFAULTS["image"] not in shipped_models(), reason="no model is shipped yet")
def test_the_shipped_model_is_the_default_and_works_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_default: str
) -> None:
    from importlib.resources import files

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(DEFAULTS, "image", small_default)
    samples = {"astronaut": "astronaut", "cat": "cat", "dog": "dog", "friends": "dog"}
    samples |= {"car": "car", "city": "city", "phone": "phone", "workers": "shovel"}
    for name, thing in samples.items():
        found = run("caption", str(files("regard") / "samples" / f"{name}.jpg"))
        assert found.exit_code == 0
        assert thing in found.stdout.split(": ")[1].split()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPIPE])
def test_what_the_system_refuses_is_one_line(
    code: int, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), "out/map.png")

    monkeypatch.setattr("regard.cli.models_command._described", refuse)
    monkeypatch.setattr("sys.argv", ["regard", "info", model])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err.splitlines()
    if code == errno.EPIPE:  # who reads no further is told nothing
        assert (ended.value.code, said) == (1, [])
    else:
        assert ended.value.code == 2
        assert len(said) == 1
        assert said[0].startswith(f"regard: out/map.png: {os.strerror(code)}.")
