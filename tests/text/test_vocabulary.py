"""Words that hold spaces, and articles by sound."""

from __future__ import annotations

from pathlib import Path

import pytest

from regard.errors import CheckpointError, ConfigError
from regard.pipeline import banned_ids, prefix_ids
from regard.text.vocabulary import SPECIALS, UNKNOWN, Vocabulary, extend_vocabulary
from regard.text.words import plural, spoken_words
from tests.helpers import toys

WORDS = ("a", "fire", "fire hydrant", "fire hydrant cap", "hydrant", "orange", "red", "on", "uses")
PHRASES = Vocabulary(SPECIALS + WORDS, articles="by sound")


def test_the_longest_words_come_first() -> None:
    assert PHRASES.split("A red Fire Hydrant cap!") == ["a", "red", "fire hydrant cap"]
    assert PHRASES.split("fire hydrant fire on fire") == ["fire hydrant", "fire", "on", "fire"]
    assert PHRASES.encode("fire cap") == [PHRASES.words.index("fire"), UNKNOWN]
    for text in ("a red fire hydrant on fire", "fire hydrant cap fire hydrant"):
        assert PHRASES.decode(PHRASES.encode(text)) == text


def test_articles_follow_the_sound() -> None:
    ids = PHRASES.encode("an orange uses a orange, a red an")
    assert PHRASES.words[ids[0]] == "a"
    assert PHRASES.decode(ids) == "an orange uses an orange a red a"
    assert PHRASES.spoken(ids)[:2] == ["an", "orange"]
    plain = Vocabulary(SPECIALS + ("a", "an", "orange"))
    assert plain.split("an orange") == ["an", "orange"]
    assert plain.decode([4, 6]) == "a orange"


def test_old_vocabularies_are_written_as_before() -> None:
    plain = Vocabulary(SPECIALS + WORDS)
    assert "articles" not in plain.to_json()
    for vocabulary in (plain, PHRASES):
        assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary


@pytest.mark.parametrize(("tokens", "articles"), [("word", "loud"), ("character", "by sound")])
def test_wrong_articles_are_refused(tokens: str, articles: str) -> None:
    with pytest.raises(CheckpointError, match="articles"):
        Vocabulary(SPECIALS, tokens, articles=articles)


def test_prefixes_and_bans_take_words_with_spaces() -> None:
    hydrant = PHRASES.words.index("fire hydrant")
    assert prefix_ids(PHRASES, "an orange fire hydrant") == tuple(
        PHRASES.words.index(w) for w in ("a", "orange", "fire hydrant")
    )
    assert banned_ids(PHRASES, "red fire hydrant") == (PHRASES.words.index("red"), hydrant)
    assert banned_ids(PHRASES, ["Fire hydrant"]) == (hydrant,)
    with pytest.raises(ConfigError, match="'cap', which the model lacks"):
        prefix_ids(PHRASES, "a cap")


def test_an_extended_vocabulary_keeps_phrases_and_articles() -> None:
    found = extend_vocabulary(PHRASES, ["an orange fire hydrant cap", "an empty fire truck"])
    assert found.articles == "by sound"
    assert found.words[len(PHRASES) :] == ("empty", "truck")


def test_words_with_spaces_are_spoken_as_one(tmp_path: Path) -> None:
    caption = toys.caption(("an", "orange", "fire hydrant"))
    assert [word.text for word in spoken_words(caption)] == ["an", "orange", "fire hydrant"]


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("teddy bear", "teddy bears"),
        ("policeman", "policemen"),
        ("bookshelf", "bookshelves"),
        ("giraffe", "giraffes"),
        ("potato", "potatoes"),
        ("boy", "boys"),
        ("bus", "buses"),
        ("person", "people"),
        ("swordfish", "swordfish"),
        ("scissors", "scissors"),
    ],
)
def test_plurals(one: str, many: str) -> None:
    assert plural(one) == many
