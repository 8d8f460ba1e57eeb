"""Children that crash, hang, use too much memory or write to forbidden places are detected."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import children
from tests.fuzz.children import SECRET, try_items
from tests.helpers.troubles import begins_badly, makes_trouble


def test_every_kind_of_trouble_is_noticed_and_outlived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "HANG_SECONDS", 1.5)
    (tmp_path / f"{SECRET}.txt").write_text("not to be read")
    found = try_items(makes_trouble, iter(range(11)), 0, tmp_path, children=1)
    outcomes = {outcome.number: outcome for outcome in found}
    assert sorted(outcomes) == list(range(11))
    faults = [outcomes[number].fault for number in range(11)]
    assert faults[0] == ""
    assert outcomes[0].note == "wrote"
    assert faults[1].startswith("outside: wrote ")
    assert faults[2].startswith("outside: os.mkdir ")
    assert faults[3].startswith("outside: read ")
    assert "socket.connect" in faults[4]
    assert "SIGSEGV" in faults[5]
    assert faults[6].startswith("hang")
    assert faults[7].startswith("Fault: something is wrong")
    assert faults[8] == ""
    assert outcomes[8].peak > 50 * 2**20
    assert faults[9].startswith("MemoryError")
    assert faults[10].startswith("SystemExit")


def test_a_child_that_cannot_begin_is_no_item(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no model"):
        list(try_items(begins_badly, iter(range(3)), 0, tmp_path, children=1))
