"""Tables on narrow terminals."""

import pytest
from rich.console import Console
from rich.table import Column, Table

from regard.cli.output import print_table

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
