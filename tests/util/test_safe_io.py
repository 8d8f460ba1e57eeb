"""Texts and JSON of strangers: read whole from ordinary files, or refused with a reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from regard.util import safe_io
from regard.util.safe_io import Unreadable, json_of, table_of, text_of


def test_a_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("ünï", "utf-8")
    assert text_of(tmp_path / "a") == "ünï"


def test_what_is_no_ordinary_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unreadable, match="No such file"):
        text_of(tmp_path / "gone")
    with pytest.raises(Unreadable, match="regular file"):
        text_of(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    with pytest.raises(Unreadable, match="regular file"):
        text_of(tmp_path / "pipe")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(Unreadable, match="UTF-8"):
        text_of(tmp_path / "bytes")
    monkeypatch.setattr(safe_io, "MAX_BYTES", 3)
    (tmp_path / "long").write_text("four", "utf-8")
    with pytest.raises(Unreadable, match="4 bytes"):
        text_of(tmp_path / "long")


@pytest.mark.parametrize(
    "text", ["", "{", "nul", "[1,]", "9" * 5000, "[" * 100_000, '{"a":' * 9999]
)
def test_json_that_is_none_or_too_deep_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        json_of(text)


def test_json_is_parsed() -> None:
    assert json_of('{"a": [1, null]}') == {"a": [1, None]}


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '[{"b": {"a": 1, "x": 2, "a": 1}}]'])
def test_a_key_that_occurs_twice_is_refused(text: str) -> None:
    with pytest.raises(Unreadable, match="the key 'a' occurs twice"):
        json_of(text)


def test_a_table_is_read_or_refused() -> None:
    assert table_of('a, b\n1, "2, 3"\n\n4\n') == (
        ["a", "b"],
        [{"a": "1", "b": "2, 3"}, {"a": "4", "b": ""}],
    )
    for text, said in (("a,A \n1,2\n", "'a' occurs 2 times"), ('a,b\n1,"2" x\n', "line 2: text")):
        with pytest.raises(Unreadable, match=said):
            table_of(text)
