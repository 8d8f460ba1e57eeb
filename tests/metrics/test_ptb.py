"""The Python tokenizer against what the Java one said."""

import json
import shutil
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.errors import ConfigError, UnknownName
from regard.metrics import java
from regard.metrics.tokenize import PUNCTUATION, ptb_tokenize, tokenize_captions
from regard.text.words import UNSPACED

TABLE = json.loads((Path(__file__).parent / "ptb_table.json").read_text("utf-8"))
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="no Java here")


def test_every_hard_case_is_cut_as_java_cuts_it():
    wrong = [
        (text, ptb_tokenize(text), t) for _, text, t in TABLE["cases"] if ptb_tokenize(text) != t
    ]
    assert wrong == []
    assert len(TABLE["cases"]) > 1500


def test_the_known_differences_are_few_and_still_there():
    # A rule that settles one of them moves its row to the cases above.
    differences = TABLE["known_differences"]
    assert len(differences) <= 5
    assert [text for _, text, tokens in differences if ptb_tokenize(text) == tokens] == []


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don't, can't, won't!", ["do", "n't", "ca", "n't", "wo", "n't"]),
        ("the boys' dog's leash", ["the", "boys", "dog", "'s", "leash"]),
        ("a black-and-white T-shirt - old", ["a", "black-and-white", "t-shirt", "old"]),
        ('He said: "yes"...', ["he", "said", "yes"]),
        ("$3,000.50 at 5:30 p.m.", ["$", "3,000.50", "at", "5:30", "p.m."]),
        (
            "two (2) [x] {y}",
            ["two", "-lrb-", "2", "-rrb-", "-lsb-", "x", "-rsb-", "-lcb-", "y", "-rcb-"],
        ),
        ("in the U.S., and/or 1 1/2", ["in", "the", "u.s.", "and/or", "1\u00a01/2"]),
        ("it\u2019s caf\u00e9 \u65e5\u672c \U0001f600", ["it", "'s", "caf\u00e9", "\u65e5\u672c"]),
        ("cannot gonna \u00a35 \u20ac5", ["can", "not", "gon", "na", "#", "5", "$", "5"]),
        ("", []),
        (" . ", []),
    ],
)
def test_cases_that_are_worth_reading(text: str, tokens: list[str]):
    assert ptb_tokenize(text) == tokens


@given(st.text(max_size=60))
def test_any_text_gives_clean_tokens(text: str):
    for token in ptb_tokenize(text):
        assert token
        assert token not in PUNCTUATION
        assert not set(token) & set(" \t\n\r")


@given(st.lists(st.sampled_from(["A", "man", "Dogs", "the", "cannot", "red"]), max_size=8))
def test_the_fast_path_and_the_rules_agree(words: list[str]):
    # A quotation mark is dropped, but leaves the fast path.
    assert ptb_tokenize(" ".join(words)) == ptb_tokenize(" ".join([*words, '"']))


def test_lines_inside_a_caption_do_not_shift_the_next_one():
    captions = ["one\ntwo\u2028three\x0bfour", "five"]
    tokens, used = tokenize_captions(captions, "python")
    assert used == "python"
    assert tokens == [["one", "two", "three", "four"], ["five"]]


@pytest.mark.slow
@needs_java
def test_java_gives_the_stored_table():
    rows = TABLE["cases"] + TABLE["known_differences"]
    # Before Java sees them, texts are composed, and those without spaces cut into characters.
    rows = [
        row
        for row in rows
        if unicodedata.is_normalized("NFC", row[1]) and not UNSPACED.search(row[1])
    ]
    tokens, used = tokenize_captions([text for _, text, _ in rows], "ptb")
    assert used == "ptb"
    assert tokens == [stored for _, _, stored in rows]


@pytest.mark.slow
@needs_java
def test_java_keeps_empty_captions_and_inner_line_breaks_in_place():
    captions = ["", "one\ntwo\u2028three", "", ". ,", "caf\u00e9", ""]
    assert tokenize_captions(captions, "ptb")[0] == tokenize_captions(captions, "python")[0]


def test_without_java_auto_takes_python_and_ptb_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(java.shutil, "which", lambda name: None)
    assert tokenize_captions(["A dog."], "auto") == ([["a", "dog"]], "python")
    with pytest.raises(ConfigError, match=r"no `java` on the PATH.*python"):
        tokenize_captions(["A dog."], "ptb")


def test_tokens_are_taken_as_they_are_on_request():
    assert tokenize_captions(["A dog ."], "none") == ([["A", "dog", "."]], "none")


def test_an_unknown_tokenizer_is_named():
    with pytest.raises(UnknownName, match=r"tokenizer 'pbt'.*ptb"):
        tokenize_captions(["a"], "pbt")


@pytest.mark.data
@pytest.mark.slow
@needs_java
def test_every_flickr8k_caption_is_cut_alike(shared_data: Path):
    images = json.loads((shared_data / "flickr8k" / "dataset_flickr8k.json").read_text("utf-8"))
    captions = [s["raw"] for image in images["images"] for s in image["sentences"]]
    assert len(captions) == 35_000
    assert tokenize_captions(captions, "python")[0] == tokenize_captions(captions, "ptb")[0]
