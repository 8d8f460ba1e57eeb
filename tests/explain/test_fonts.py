"""Fonts: the script is found, or its lack is told."""

import pytest
from matplotlib.font_manager import fontManager

from regard.explain import contact_sheet, drawing, save_figure
from regard.explain.drawing import FontChoice, choose_fonts
from tests.helpers import toys


def test_latin_greek_and_cyrillic_need_nothing_more() -> None:
    choice = choose_fonts("Žluťoučký σκύλος собака β 7×7")
    assert choice.families == ("DejaVu Sans",)
    assert choice.missing == ""
    assert choice.note == ""
    assert choice.drawable("собака") == "собака"


def test_a_character_of_no_script_is_named_and_replaced() -> None:
    """matplotlib's Last Resort font claims it, with a placeholder; that is no font for it."""
    choice = choose_fonts("dog \U0002ebe0")
    assert choice.missing == "\U0002ebe0"
    assert "U+2EBE0" in choice.note
    assert choice.drawable("dog \U0002ebe0") == "dog □"


def test_a_long_list_of_missing_characters_is_cut() -> None:
    choice = choose_fonts("".join(map(chr, range(0x2EBE0, 0x2EBE0 + 9))))
    assert choice.note.endswith("and 3 more")


def test_missing_scripts_are_named() -> None:
    choice = FontChoice(("DejaVu Sans",), "का犬\U0001f415")
    note = "no installed font has CJK, Devanagari: U+0915 U+093E U+72AC U+1F415"
    assert choice.note == note


def test_the_sheet_tells_what_is_missing_and_draws_without_warnings(tmp_path) -> None:
    figure = contact_sheet(toys.caption(("a", "\U0002ebe0")))
    save_figure(figure, tmp_path / "sheet.png", dpi=40)  # warnings are errors here
    said = [text.get_text() for text in figure.texts]
    assert any("no installed font has CJK: U+2EBE0" in text for text in said)
    assert "a □" in said


def test_fonts_join_as_long_as_they_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two scripts that no one font has: both fonts are taken, DejaVu stays first."""
    tables = {"/one": frozenset("犬"), "/two": frozenset("ไทย"), "/none": frozenset()}
    entries = [_Entry("Nothing", "/none"), _Entry("Han", "/one"), _Entry("Thai", "/two"),
               _Entry("Last Resort High-Efficiency", "/all")]  # fmt: skip
    monkeypatch.setattr(fontManager, "ttflist", entries)
    monkeypatch.setattr(drawing.font_manager, "findfont", lambda name: "/dejavu")
    monkeypatch.setattr(
        drawing, "_characters", lambda path: tables.get(path, frozenset("abcdefghijklmnop"))
    )
    choice = choose_fonts("a 犬 ไทย")
    assert set(choice.families[1:]) == {"Han", "Thai"}
    assert choice.families[0] == "DejaVu Sans"
    assert choice.missing == ""


class _Entry:
    style = "normal"
    weight = 400

    def __init__(self, name: str, path: str) -> None:
        self.name, self.fname = name, path


def test_a_broken_font_file_serves_nothing(tmp_path) -> None:
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    assert drawing._characters(str(broken)) == frozenset()
