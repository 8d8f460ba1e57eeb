"""Text against text: each kind of mistake where it is one, and where it is none."""

import math

import pytest

from regard.metrics.hallucination import Judgement, hallucination, judge
from regard.metrics.noun_phrases import noun_phrases
from regard.reliability.calibration import reliability
from regard.text.words import broader, kinds, lemmas, related, same, supported


def judged(caption: str, *references: str) -> Judgement:
    return judge(caption.split(), [reference.split() for reference in references])


def mistakes(caption: str, *references: str, kind: str = "") -> list[tuple[str, str, tuple]]:
    found = judged(caption, *references).mistakes
    return [(m.kind, m.said, m.wanted) for m in found if kind in ("", m.kind)]


@pytest.mark.parametrize(
    ("word", "form"),
    [("running", "run"), ("dogs", "dog"), ("rides", "ride"), ("riding", "ride"),
     ("dresses", "dress"), ("puppies", "puppy"), ("carried", "carry"), ("men", "man"),
     ("children", "child"), ("sat", "sit"), ("seated", "sitting"), ("jumped", "jumps")],
)  # fmt: skip
def test_inflections_are_one_word(word: str, form: str) -> None:
    assert lemmas(word) & lemmas(form)


@pytest.mark.parametrize(
    ("word", "other"),
    [("king", "k"), ("bus", "bu"), ("grass", "gras"), ("bed", "b"), ("wing", "w"), ("car", "care")],
)
def test_endings_by_chance_are_no_inflections(word: str, other: str) -> None:
    assert not lemmas(word) & lemmas(other)


def test_synonyms_and_broader_words() -> None:
    assert same("guys", "man")
    assert same("bicycle", "bike")
    assert not same("man", "woman")
    assert not same("dog", "cat")
    assert broader("animal", "puppies")
    assert broader("people", "guy")
    assert not broader("dog", "animal")
    assert related("dog", "animal")
    assert kinds("lady") == {"person"}
    assert kinds("wave") & {"person", "animal"} == set()


@pytest.mark.parametrize(
    ("word", "heard", "expected"),
    [
        ("dog", "a dog", True),
        ("dogs", "a dog", True),
        ("dog", "a puppy", True),
        ("animal", "a dog", True),
        ("dog", "an animal", True),
        ("dog", "an animal and a horse", False),
        ("boy", "a child", True),
        ("boy", "a child and a girl", False),
        ("bench", "a rock", False),
    ],
)
def test_support(word: str, heard: str, expected: bool) -> None:
    assert supported(word, heard.split()) is expected


def test_a_word_that_no_reference_says_is_set_beside_what_most_say() -> None:
    found = mistakes(
        "a woman sits on a bench",
        "a man sits on a rock", "the guy is sitting on a large rock", "a man rests on rocks",
        kind="unsupported",
    )  # fmt: skip
    assert found == [("unsupported", "woman", ("man",)), ("unsupported", "bench", ("rock",))]
    assert mistakes("a guy seated on a boulder", "a man sits on a rock") == []


def test_things_that_all_name_are_missed() -> None:
    references = ("a boy throws a frisbee to a dog", "a dog and a frisbee", "a puppy gets a disc")
    assert mistakes("a dog runs", *references, kind="missed") == [("missed", "", ("frisbee",))]
    assert mistakes("a dog catches a disc", *references, kind="missed") == []
    # Only two of three name it, or there is but one reference.
    assert mistakes("a dog", "a dog with a ball", "a dog", "a ball dog", kind="missed") == []
    assert mistakes("a dog", "a dog with a ball", kind="missed") == []


def test_what_is_said_twice() -> None:
    reference = "a man in a red shirt"
    said = {
        "a man in a red shirt and a red shirt": "red",
        "a man on a bench on a bench": "bench",
        "a man the the bench": "the",
        "a man looks at a man": "man",
    }
    for caption, word in said.items():
        assert [m[1] for m in mistakes(caption, reference, kind="repetition")] == [word]
    several = "two men in red shirts"
    assert mistakes("a man in red looks at a man in blue", several, kind="repetition") == []
    assert mistakes("a man swinging on a swing", reference, kind="repetition") == []
    assert [m[1] for m in mistakes("a dog and a dog")] == ["dog"]  # without references


def test_counts() -> None:
    two = ("two dogs run", "a couple of dogs are running", "two brown dogs")
    assert mistakes("three dogs run", *two, kind="count") == [("count", "three", ("2",))]
    assert mistakes("a dog runs", *two, kind="count") == [("count", "dog", ("2",))]
    assert mistakes("a group of dogs", *two, kind="count") == [("count", "group", ("2",))]
    assert mistakes("two dogs", *two, kind="count") == []
    assert mistakes("dogs run", *two, kind="count") == []
    one = ("a dog with a stick", "the dog runs")
    assert mistakes("two dogs", *one, kind="count") == [("count", "two", ("1",))]
    # A man and a woman are two people, however they are told of.
    assert mistakes("a man and a woman", "two people", "a couple", kind="count") == []
    assert mistakes("two people", "a man and a woman", "a boy and his mother", kind="count") == []
    assert len(mistakes("a man and a woman", "three people", "three adults", kind="count")) == 1
    # Nobody counts shirts, and one reference among several is too few.
    assert mistakes("a man in a shirt", "men in shirts", "a man in shirts", kind="count") == []
    assert mistakes("two dogs", "a dog", "grass", "trees", kind="count") == []


def test_colours() -> None:
    blue = ("a boy in a blue shirt", "a kid wears a blue and white top", "a boy")
    found = mistakes("a boy in a red shirt", *blue, kind="colour")
    assert found == [("colour", "red", ("blue", "white"))]
    assert mistakes("a boy in a white shirt", *blue, kind="colour") == []
    # Another noun's colour is no mistake about this one; grey is gray.
    assert mistakes("a red ball", "a blue hat", "a blue hat and a red ball", kind="colour") == []
    assert mistakes("a grey cat", "a gray cat", "a silver cat", kind="colour") == []
    assert mistakes("a man in a red shirt", "a man in red", "red clothes", kind="colour") == []


def test_shirts_are_judged_only_where_such_clothes_are_told_of() -> None:
    silent = judged("a man in a shirt", "a man in a hat")
    assert silent.support[4] is None
    told = judged("a man in a shirt", "a shirtless man")
    assert told.support[4] is False


def test_support_of_each_word() -> None:
    found = judged("two red dogs on a bench", *["two black dogs on grass"] * 2)
    assert found.support == (True, False, True, None, None, False)
    assert [m.place for m in found.mistakes if m.kind == "colour"] == [1]
    assert judged("a dog").support == (None, None)
    assert judged("", "a dog", "a dog").mistakes[0].wanted == ("dog",)


def test_another_language_is_compared_word_by_word() -> None:
    assert mistakes("ein hund", "ein hund rennt", "der hund") == []
    assert ("unsupported", "katze", ("hund",)) in mistakes("katze", "hund", "hund")


def test_phrases() -> None:
    words = ["a", "group", "of", "young", "people", "and", "an", "orange", "dog", "in", "red"]
    found = [(p.head and words[p.head], p.number, len(p.colours)) for p in noun_phrases(words)]
    assert found == [("people", (3, math.inf), 0), ("dog", (1, 1), 1), (None, None, 1)]


def test_hallucination_counts_things_and_captions() -> None:
    rates = hallucination(
        [(["a", "dog", "runs"], [None, True, False]), (["red", "cat"], [True, False])]
    )
    assert rates == {"things": 0.5, "captions": 0.5, "content_words": 0.5}
    assert all(math.isnan(rate) for rate in hallucination([]).values())


def test_reliability_by_hand() -> None:
    found = reliability([0.05, 0.15, 0.15, 1.0], [False, True, False, True])
    assert [one.words for one in found.bins] == [1, 2, 0, 0, 0, 0, 0, 0, 0, 1]
    assert found.bins[1].support == 0.5
    assert found.error == pytest.approx((0.05 + 2 * 0.35 + 0) / 4)
    empty = reliability([], []).to_json()
    assert empty["expected_calibration_error"] is None
    assert empty["bins"][0]["support"] is None
