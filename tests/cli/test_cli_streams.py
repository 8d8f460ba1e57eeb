"""What a shell relies on: streams, statuses, start-up, bars that disturb nothing."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

import regard.cli.progress
from regard.cli.main import main
from regard.cli.output import OutputFolder, json_line, never_fail_to_print
from regard.cli.progress import FileProgress
from tests.helpers import toys
from tests.helpers.toy_models import captioner

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two models, `soft` and `hard`."""
    folder = tmp_path_factory.mktemp("models")
    captioner().save(folder / "soft")
    captioner(attention="hard").save(folder / "hard")
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["regard", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        written = capsys.readouterr()
        return int(stopped.value.code or 0), written.out, written.err

    return run


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return toys.write_data(tmp_path, 3)[1]


def test_folders_patterns_and_standard_input(
    run: Run, models: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--model", models / "soft", "--json", "--no-alpha", "--beam", "1"]
    _, of_folder, _ = run("caption", pictures, *options)
    _, of_pattern, _ = run("caption", pictures / "*.jpg", *options)
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{p}\n" for p in pictures.iterdir())))
    status, of_stdin, errors = run("caption", "-", *options)
    assert (status, errors) == (0, "")
    found = [
        sorted((r["file"], r["caption"]) for r in map(json.loads, out.splitlines()))
        for out in (of_folder, of_pattern, of_stdin)
    ]
    assert len(found[0]) == 3
    assert found[0] == found[1] == found[2]


def test_n_best_gives_a_line_each(run: Run, models: Path, pictures: Path) -> None:
    picture = pictures / "0.jpg"
    options = ["--model", models / "soft", "--n-best", "2", "--beam", "4"]
    _, out, _ = run("caption", picture, *options)
    assert [line.startswith(f"{picture}: ") for line in out.splitlines()] == [True, True]
    _, out, _ = run("caption", picture, *options, "--json")
    assert len(json.loads(out)["n_best"]) == 1


def test_hard_attention_from_the_command_line(run: Run, models: Path, pictures: Path) -> None:
    picture = pictures / "0.jpg"
    status, out, _ = run(
        "caption", picture, "--model", models / "hard", "--context", "argmax", "--json"
    )
    record = json.loads(out)
    assert status == 0
    for word, alpha in zip(record["words"], record["alpha"], strict=True):
        assert alpha[word["location"]] == max(alpha)
    status, out, err = run("caption", picture, "--model", models / "soft", "--context", "argmax")
    assert (status, out) == (2, "")
    assert "soft attention" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["caption"], "Missing argument"),
        (["caption", "x.jpg", "--bogus"], "No such option: --bogus. Try `regard caption --help`"),
        (["caption", "x.jpg", "--beam", "three"], "Invalid value for '--beam'"),
        (["capshun"], "No such command 'capshun'"),
        (["caption", "FILE", "--explain", "FILE/sheets"], "cannot be made"),
        (["caption", "FILE", "--model", "SOFT", "--device", "abacus"], "device 'abacus'"),
        (["caption", "FILE", "--model", "SOFT", "--batch-size", "0"], "batch_size is 0"),
        (["info", "EMPTY"], "is not a checkpoint"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2_in_every_place(
    run: Run, models: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.png").write_bytes(toys.jpeg())
    places = {"EMPTY": tmp_path / "empty", "FILE": tmp_path / "file.png", "SOFT": models / "soft"}
    for name, place in places.items():
        arguments = [argument.replace(name, str(place)) for argument in arguments]
    status, out, err = run(*arguments)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("regard: ")
    assert says in err


def test_debug_shows_the_trace_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (["--debug", "info", "nowhere"], ["info", "nowhere", "--debug"]):
        monkeypatch.setattr("sys.argv", ["regard", *arguments])
        with pytest.raises(regard.CheckpointError):
            main()


def test_no_command_shows_the_help(run: Run) -> None:
    status, out, _ = run()
    assert status == 0
    for command in ("caption", "train", "evaluate", "data", "models", "info"):
        assert command in out


def test_a_sheet_that_cannot_be_written_is_one_clear_error(
    run: Run, models: Path, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "sheets" / "0.png").mkdir(parents=True)
    status, _, err = run(
        "caption", pictures / "0.jpg", "--model", models / "soft", "--explain", tmp_path / "sheets"
    )
    assert status == 1  # of this picture alone
    assert "0.png cannot be written" in err


def test_sheets_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    sheets = OutputFolder(tmp_path / "sheets", "--explain")
    files = ["a/x.jpg", "b/x.png", "c/X.png", "x-2.jpg", "a/x.y.jpg"]
    names = [sheets.stem(file).name for file in files]
    assert names[0] == "x"
    assert names[-1] == "x.y"
    assert len({name.casefold() for name in names}) == len(files)


def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Make standard error a terminal that is read here."""
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=80)
    monkeypatch.setattr(regard.cli.progress, "error_console", lambda: console)
    return shown


def test_a_bar_leaves_standard_output_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = terminal(monkeypatch)
    for number in FileProgress("counting", 20).watch(range(20)):
        json_line({"number": number})
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["number"] for line in lines] == list(range(20))
    assert "counting" in shown.getvalue()


def test_few_items_or_no_terminal_have_no_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(FileProgress("counting", 20).watch(range(20))) == list(range(20))
    shown = terminal(monkeypatch)
    assert list(FileProgress("counting", 3).watch(range(3))) == [0, 1, 2]
    assert shown.getvalue() == ""
    assert capsys.readouterr().err == ""


def test_a_clip_that_is_read_is_shown_by_its_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch)
    progress = FileProgress("captioning", 1)

    def results() -> Iterator[SimpleNamespace]:
        assert shown.getvalue() == ""
        progress.report("a[b].mp4", 3, 40)
        progress._bars.refresh()
        assert "reading a[b].mp4" in shown.getvalue()
        assert "3/40" in shown.getvalue()
        progress.report("a[b].mp4", 40, 40)
        progress._bars.refresh()
        assert "captioning a[b].mp4" in shown.getvalue()
        yield SimpleNamespace(file="a[b].mp4")

    assert len(list(progress.watch(results()))) == 1
    assert progress._bars.tasks == []
    assert not progress._bars.live.is_started


def test_no_terminal_is_told_nothing_of_a_clip(capsys: pytest.CaptureFixture[str]) -> None:
    progress = FileProgress("captioning", 1)
    for done in range(1, 41):
        progress.report("a.mp4", done, 40)
    assert list(progress.watch([1])) == [1]
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize(("encoding", "raw"), [("utf-8", "जल"), ("latin-1", "\\u091c\\u0932")])
def test_json_suits_the_stream(monkeypatch: pytest.MonkeyPatch, encoding: str, raw: str) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding, write_through=True))
    never_fail_to_print()
    json_line({"file": "bad-\udcff.jpg", "caption": "जल"})
    line = written.getvalue().decode(encoding)
    assert raw in line
    assert json.loads(line) == {"file": "bad-\udcff.jpg", "caption": "जल"}


def shell(
    *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "regard", *arguments],
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_python_m_regard_says_its_version() -> None:
    found = shell("--version")
    assert (found.returncode, found.stdout) == (0, f"regard {regard.__version__}\n")


def test_help_and_version_wait_for_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from regard.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'PIL', 'matplotlib', 'safetensors'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)\n"
    )
    for arguments in (["--version"], ["caption", "--help"], ["train", "--help"]):
        found = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
        )
        assert (found.returncode, found.stderr) == (0, "")


def test_the_shell_completes_commands() -> None:
    environment = {
        "_REGARD_COMPLETE": "complete_bash",
        "COMP_WORDS": "regard ca",
        "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": "regard ca",
    }
    assert shell(environment=environment).stdout.split() == ["caption"]


def test_a_reader_that_leaves_ends_it_without_a_trace(models: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(toys.jpeg())
    command = [sys.executable, "-m", "regard", "caption", *[str(picture)] * 60]
    command += ["--model", str(models / "soft"), "--json", "--batch-size", "1", "--beam", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert errors == ""
    assert process.returncode == 1
