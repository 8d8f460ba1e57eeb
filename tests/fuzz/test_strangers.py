"""The cases of `tests.fuzz.strangers`, one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import strangers
from tests.fuzz.tally import Tally

SLOW = {"workers_of_ray", "tars_of_every_kind", "bombs_in_tgz"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in strangers.cases()]
)
def test_a_stranger_is_handled(name: str, tmp_path: Path) -> None:
    strangers.cases()[name](tmp_path)


def test_what_is_not_handled_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(folder: Path) -> None:
        raise MemoryError

    monkeypatch.setattr(strangers, "cases", lambda: {"good": Path.iterdir, "bad": bad})
    found = strangers.run(1, 0, tmp_path)
    assert isinstance(found, Tally)
    assert (found.tried, found.handled, found.uncaught) == (2, 1, 1)
