"""The comparison of two commits: pairs, ratios and the table; no benchmark is run."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import ab

A, B = Path("a"), Path("b")


class Recorder:
    """A runner that notes its calls; B takes a tenth longer than A, every run longer than the last.

    Like a machine that slows down steadily: the ratio of adjacent runs hardly feels it.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Path, tuple[str, ...]]] = []

    def __call__(self, checkout: Path, arguments: Sequence[str]) -> ab.Record:
        self.calls.append((checkout, tuple(arguments)))
        seconds = 1.1 if checkout.name == "b" else 1.0
        share = None if arguments[0] in ("caption", "start") else 0.6 / seconds
        return {
            "captions_per_s": 100 / seconds,
            "seconds": seconds + len(self.calls) / 1e4,
            "peak_rss_mb": 150.0,
            "share_of_gemm_peak": share,
        }


def measured(run: Recorder, *, rounds: int = 3, quick: bool = False) -> list[dict]:
    found = ab.measure([A, B], ab.BENCHMARKS, rounds=rounds, quick=quick, run=run)
    return [ab.compare(figure, a, b) for one, (a, b) in found for figure in one.figures]


def test_a_and_b_alternate_with_equal_arguments() -> None:
    run = Recorder()
    measured(run)
    assert [checkout for checkout, _ in run.calls] == [A, B] * (len(run.calls) // 2)
    pairs = list(zip(run.calls[::2], run.calls[1::2], strict=True))
    assert all(a == b for (_, a), (_, b) in pairs)
    kinds = [arguments[0] for (_, arguments), _ in pairs]
    assert kinds == ["train", "decode", "decode", "caption"] * 3 + ["start"] * 7


def test_quick_runs_are_shorter() -> None:
    run = Recorder()
    measured(run, rounds=1, quick=True)
    train = run.calls[0][1]
    assert train[-4:] == ("--rounds", "4", "--seconds", "10")


def test_ratios_are_of_adjacent_runs() -> None:
    figure = ab.Figure("f", "x")
    a, b = ([{"x": x} for x in values] for values in ((10.0, 20.0, 40.0), (11.0, 24.0, 40.0)))
    found = ab.compare(figure, a, b)
    assert found["medians"] == [20.0, 24.0]
    assert found["ratios"] == pytest.approx([1.1, 1.2, 1.0])
    assert found["ratio"] == pytest.approx(1.1)
    assert found["ratio_spread"] == pytest.approx([1.0, 1.2])
    assert found["ratio_of_best"] == 1.0
    assert ab.compare(ab.Figure("f", "x", "lower"), a, b)["ratio_of_best"] == 1.1
    assert found["shares"] == [None, None]


def test_the_table_has_a_row_for_every_figure() -> None:
    compared = measured(Recorder())
    assert json.loads(json.dumps(compared)) == compared
    lines = ab.table(compared).splitlines()
    assert len({len(line) for line in lines}) == 1
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len(rows) == 2 + sum(len(one.figures) for one in ab.BENCHMARKS)
    training, start = rows[2], rows[-2]
    assert training[1:5] == ["higher", "100", "90.91", "0.909"]
    assert training[-1] == "0.60, 0.55"
    assert start[:2] == ["cold start, s", "lower"]
    assert start[4] == "1.100"
    assert start[-1] == "–, –"


def test_the_command_is_that_of_the_checkout(tmp_path: Path) -> None:
    assert ab.command_of(tmp_path) == [sys.executable, "-m", "regard", "bench"]
    (tmp_path / "benchmarks").mkdir()
    assert ab.command_of(tmp_path)[1:] == ["-m", "regard", "bench"]
    (tmp_path / "benchmarks" / "__main__.py").touch()
    assert ab.command_of(tmp_path) == [sys.executable, "-m", "benchmarks"]


def checkout(folder: Path, code: str) -> Path:
    package = folder / "src" / "regard"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(code, "utf-8")
    return folder


def test_a_process_imports_the_checkout(tmp_path: Path) -> None:
    code = "import json, sys, regard; print(json.dumps([regard.__file__, *sys.argv[1:]]))"
    folder = checkout(tmp_path, code)
    file, *arguments = ab.run_benchmark(folder, ["start"])
    assert Path(file) == folder / "src" / "regard" / "__init__.py"
    assert arguments == ["bench", "start", "--json"]
    run = Recorder()
    ab.prepare([folder], run)
    assert [arguments[0] for _, arguments in run.calls] == ["decode", "start"]


def test_what_fails_ends_the_comparison(tmp_path: Path) -> None:
    folder = checkout(tmp_path, "raise SystemExit('no such benchmark')")
    with pytest.raises(SystemExit, match="no such benchmark"):
        ab.run_benchmark(folder, ["start"])
    silent = checkout(tmp_path / "silent", "")
    with pytest.raises(SystemExit, match="wrote '', which is not JSON"):
        ab.run_benchmark(silent, ["start"])
    with (
        pytest.raises(SystemExit, match="neither a commit nor a folder"),
        ab.checked_out("nothing"),
    ):
        pass


def test_a_folder_without_the_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="not its own package"):
        ab.prepare([tmp_path], Recorder())


def test_a_commit_is_checked_out_for_the_time_of_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkout(tmp_path / "origin", "first = 1")
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    for arguments in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "First"]):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True)
    main = folder / "src" / "regard" / "__main__.py"
    main.write_text("second = 2", "utf-8")
    monkeypatch.setattr(ab, "ROOT", folder)
    with ab.checked_out("HEAD") as found, ab.checked_out(str(folder)) as working_tree:
        assert (found / "src" / "regard" / "__main__.py").read_text("utf-8") == "first = 1"
        assert working_tree == folder.resolve()
    assert not found.exists()
    assert len(ab.git(folder, "worktree", "list").splitlines()) == 1
    assert main.read_text("utf-8") == "second = 2"


def test_options(capsys: pytest.CaptureFixture[str]) -> None:
    given = ab.parse(["main", "HEAD", "--what", "train, start"])
    assert (given.a, given.b, given.rounds, given.quick) == ("main", "HEAD", 3, False)
    assert given.what == ["train", "start"]
    assert ab.parse(["main", "HEAD"]).what == ["train", "decode", "caption", "start"]
    for wrong, message in (("--what=store", "takes train, decode"), ("--rounds=0", "at least 1")):
        with pytest.raises(SystemExit):
            ab.parse(["main", "HEAD", wrong])
        assert message in capsys.readouterr().err
