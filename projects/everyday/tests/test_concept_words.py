"""The lists of words fit each other; captions and labels mean the concepts that they should."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from projects.everyday.concept_words import LISTS, ConceptWords
from projects.everyday.tests.coloured_toys import WORDS
from regard import ConfigError

REAL = ConceptWords.read()


def test_the_lists_hold_every_concept_and_label_once() -> None:
    assert len(REAL) == len(set(REAL.names)) == 1042
    for name in ("concepts", "synonyms", "label_words"):
        lines = (LISTS / f"{name}.txt").read_text("utf-8").splitlines()
        words = Counter(line.partition(":")[0] for line in lines if not line.startswith("#"))
        assert max(words.values()) == 1


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("two cell phones and a fire hydrant", ["phone", "fire hydrant"]),
        ("people on bikes by the hydrant", ["person", "bicycle", "fire hydrant"]),
        ("men and women with knives", ["man", "woman", "knife"]),
        ("cacti beside oxen", ["cactus", "ox"]),
        ("it is about to rain", ["rain"]),
    ],
)
def test_captions_mention_concepts(caption: str, expected: list[str]) -> None:
    assert [mention.concept for mention in REAL.mentions(caption.split())] == expected


def test_the_longest_mention_counts_once() -> None:
    tokens = ["stop", "by", "two", "fire", "hydrants", "now"]
    assert REAL.mentions(tokens) == [(3, 5, "fire hydrant", True)]
    assert REAL.merged(tokens) == ["stop", "by", "two", "fire hydrants", "now"]


def test_merged_captions_have_one_article_and_keep_single_synonyms() -> None:
    merged = REAL.merged(["an", "old", "bike", "by", "a", "cell", "phone"])
    assert merged == ["a", "old", "bike", "by", "a", "phone"]
    assert REAL.named(merged) == ["phone"]  # a pointer cannot say "bike"
    assert REAL.named(["dogs", "dog", "cat"]) == ["dog", "cat"]


def test_forms_follow_the_list_and_then_the_rule() -> None:
    forms = dict(REAL.forms)
    assert (forms["snow"], forms["ox"], forms["wolf"]) == ("snow", "oxen", "wolves")
    assert forms["scissors"] == "scissors"


def test_labels_mean_concepts() -> None:
    meant = [REAL.of_label(label) for label in ("Siberian husky", "dog", "motorbike", "Xyzzy")]
    assert meant == ["dog", "dog", "motorcycle", None]
    assert WORDS.of_label(" Beach Ball ") == "ball"


def write_lists(folder: Path, **texts: str) -> Path:
    for name in ("concepts", "synonyms", "label_words"):
        (folder / f"{name}.txt").write_text(texts.get(name, "# nothing\n"))
    return folder


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({}, "list of concepts is empty"),
        ({"concepts": "dog\ncat,\n"}, "concepts.txt, line 2 is 'cat,'"),
        ({"concepts": "dog", "synonyms": "puppy dog"}, "synonyms.txt, line 1 is 'puppy dog'"),
        ({"concepts": "dog", "label_words": "husky: wolf"}, "'husky' is said to mean 'wolf'"),
    ],
)
def test_faulty_lists_are_errors(tmp_path: Path, texts: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ConceptWords.read(write_lists(tmp_path, **texts))


def test_a_missing_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="concepts.txt cannot be read"):
        ConceptWords.read(tmp_path)
