"""Text as people read it: control and bidi characters are escaped, secrets left out."""

import json

import pytest

from regard.util.shown_text import printable, printable_json

UNSAFE = ("\x1b]0;title\x07", "\x9b31m", "\u202e", "\u2066", "\u200f", "\x7f")


@pytest.mark.parametrize("character", UNSAFE)
def test_unsafe_characters_are_escaped(character: str) -> None:
    shown = printable(f"dog{character}.jpg")
    assert shown.startswith("dog")
    assert shown.endswith(".jpg")
    assert not set(character) & set(shown) - set("]0;title31m")


@pytest.mark.parametrize("character", UNSAFE)
def test_json_with_escapes_holds_the_same_values(character: str) -> None:
    record = {"file": f"dog{character}.jpg", "words": ["été", "日本", "\n\t\\"]}
    text = printable_json(json.dumps(record, ensure_ascii=False))
    assert json.loads(text) == record
    assert not set(character) & set(text) - set("]0;title31m")
    assert "été" in text
    assert "日本" in text


def test_usual_text_is_unchanged() -> None:
    for text in ("a dog, été 日本 مرحبا हिन्दी", "a\tb", "👩‍🚀"):
        assert printable(text) == text
