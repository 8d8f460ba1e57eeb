"""Tables on narrow terminals."""

from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Column, Table

from regard import pretrained
from regard.cli.output import print_table, suggest_fast
from regard.pretrained import FAST

NAMES = ("flickr8k-soft-with-a-long-name", "/models/run-17/best")


def printed(table: Table, width: int, capsys: pytest.CaptureFixture[str]) -> str:
    print_table(table, Console(width=width))
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
@pytest.mark.parametrize("heads", [("model",), ("", "size"), ("model", *"abcdefgh")])
def test_names_stay_whole_at_every_width(
    width: int, heads: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    table = Table(*heads, title="scores")
    for name in NAMES:
        table.add_row(name, *("12.3" for _ in heads[1:]))
    text = printed(table, width, capsys)
    assert all(name in text for name in NAMES)
    assert "…" not in text
    assert "scores" in text


def test_a_narrow_terminal_gets_a_line_for_each_cell(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("model", "BLEU-4")
    table.add_row("a-name-of-many-letters", "24.3")
    assert printed(table, 20, capsys) == "model: a-name-of-many-letters\nBLEU-4: 24.3\n\n"
    assert "│" in printed(table, 60, capsys)


def test_a_column_that_folds_stays_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(Column("file", overflow="fold"))
    table.add_row("a/long/path/of/a/file.csv")
    assert "│" in printed(table, 12, capsys) or "┃" in printed(table, 12, capsys)


def test_a_faster_model_is_named_once_for_many_files(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pretrained.DEFAULTS, "image", "everyday")
    monkeypatch.setattr(pretrained, "shipped_models", lambda: {FAST: Path()})
    for model, files in ((None, 499), ("own", 10_000), (FAST, 10_000)):
        suggest_fast(model, files)
        assert not capsys.readouterr().err
    for model in (None, "everyday"):
        suggest_fast(model, 12_345)
        said = capsys.readouterr()
        assert said.err.count("\n") == 1
        assert f"12,345 files: --model {FAST}" in said.err
        assert not said.out
    monkeypatch.setattr(pretrained, "shipped_models", dict)
    suggest_fast(None, 10_000)
    assert not capsys.readouterr().err
    monkeypatch.setitem(pretrained.DEFAULTS, "image", FAST)
    monkeypatch.setattr(pretrained, "shipped_models", lambda: {FAST: Path()})
    suggest_fast(None, 10_000)  # it is the default itself
    assert not capsys.readouterr().err
