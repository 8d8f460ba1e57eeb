"""What is found amiss with captions made by hand, and what two models differ in."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from regard.audit.mistakes import AuditedPicture, audit, examine
from regard.audit.records import changes
from regard.data import load_dataset
from regard.data.dataset import CaptionedItem
from regard.errors import ConfigError, DatasetError
from regard.text.words import spoken_words
from regard.types import Caption
from tests.helpers import toys
from tests.helpers.audits import audited


def item(*references: str, key: str = "a.jpg", file: str = "gone/a.jpg") -> CaptionedItem:
    return CaptionedItem(file, references, "val", key)


def sure(caption: Caption, *logprobs: float) -> Caption:
    """The caption with other log-probabilities."""
    words = tuple(replace(w, logprob=p) for w, p in zip(caption.words, logprobs, strict=True))
    return replace(caption, words=words)


def kinds(found: AuditedPicture) -> list[tuple[str, str]]:
    return [(finding.kind, finding.said) for finding in found.findings]


def test_mistakes_carry_the_words_place_and_confidence() -> None:
    caption = sure(toys.caption(("a", "cat", "runs")), -0.1, np.log(0.8), np.log(0.6))
    found = examine(item("a dog sits", "the dog is sitting"), caption)
    assert kinds(found) == [("unsupported", "cat"), ("unsupported", "runs"), ("missed", "")]
    assert [f.place for f in found.findings] == [1, 2, None]
    assert [f.wanted for f in found.findings] == [("dog",), ("sits",), ("dog",)]
    assert [round(f.severity, 6) for f in found.findings] == [0.8, 0.6, 1.0]
    assert found.caption.pixels is None
    assert found.caption.n_best == ()


def test_a_mistake_weighs_half_where_references_name_nothing_else() -> None:
    caption = sure(toys.caption(("a", "cat")), -0.1, np.log(0.8))
    found = examine(item("nobody knows", "it is something"), caption)
    assert [f.severity for f in found.findings if f.kind == "unsupported"] == [pytest.approx(0.4)]


def test_low_confidence_is_of_content_words() -> None:
    caption = sure(toys.caption(("a", "dog", "runs")), np.log(0.05), np.log(0.05), np.log(0.5))
    found = examine(item("a dog runs"), caption)
    assert kinds(found) == [("low confidence", "dog")]
    assert found.findings[0].severity == pytest.approx(0.95)


def test_flat_attention_is_of_content_words() -> None:
    alpha = np.full((3, 6), 1 / 6)
    alpha[2] = [0.5, 0.1, 0.1, 0.1, 0.1, 0.1]
    found = examine(item("a dog runs"), toys.caption(alpha=alpha))
    assert kinds(found) == [("flat attention", "dog")]
    assert found.findings[0].severity == pytest.approx(1)


def test_attention_is_collapsed_where_all_words_look_at_one_cell() -> None:
    one = np.full((3, 6), 0.01)
    one[:, 4] = 0.95
    found = examine(item("a dog runs"), toys.caption(alpha=one))
    assert kinds(found) == [("collapsed attention", "")]
    assert found.findings[0].severity == pytest.approx(0.95)
    elsewhere = np.roll(one, 1, axis=1)
    elsewhere[:2] = one[:2]
    assert examine(item("a dog runs"), toys.caption(alpha=elsewhere)).findings == ()
    weaker = one.copy()
    weaker[1] = [0.05, 0.05, 0.0, 0.0, 0.85, 0.05]
    assert examine(item("a dog runs"), toys.caption(alpha=weaker)).findings == ()


def test_without_references_only_the_caption_itself_is_examined() -> None:
    found = examine(item(), toys.caption(("a", "dog", "dog")))
    assert kinds(found) == [("repetition", "dog")]
    assert found.support == (None, None, None)
    assert np.isnan(audited(found).hallucination()["things"])


def test_words_of_pieces_are_put_together() -> None:
    pieces = toys.caption(("a", "␣", "do", "g", "␣", "run", "s"))
    words = spoken_words(replace(pieces, text="a dog runs"))
    assert [(w.text, w.first) for w in words] == [("a", 0), ("dog", 2), ("runs", 5)]
    assert [w.stop for w in words] == [1, 4, 7]
    assert [w.logprob for w in words] == pytest.approx([-0.5, -1.0, -1.0])
    found = examine(item("a cat runs"), replace(pieces, text="a dog runs"))
    assert ("unsupported", "dog") in kinds(found)
    assert spoken_words(toys.caption(())) == ()


def test_numbers_of_all_pictures() -> None:
    right = examine(item("a dog runs", "a dog", key="b.jpg"), toys.caption())
    wrong = [
        examine(item("a boy sits", "the boy is sitting", key=key), toys.caption(("a", "girl", v)))
        for key, v in (("c.jpg", "runs"), ("d.jpg", "running"))
    ]
    found = audited(right, *wrong)
    assert found.counts()["unsupported"] == {"findings": 4, "pictures": 2}
    # Inflections are one row.
    assert found.confusions() == [("action", "runs", "sits", 2), ("thing", "girl", "boy", 2)]
    assert found.hallucination() == pytest.approx(
        {"things": 2 / 3, "captions": 2 / 3, "content_words": 4 / 6}
    )
    bins = {round(b.low, 1): (b.words, b.support) for b in found.reliability().bins if b.words}
    assert bins == {0.6: (6, pytest.approx(2 / 6))}  # every word's p is exp(-0.5)


def test_a_number_of_an_article_is_named_in_the_confusions() -> None:
    caption = toys.caption(("a", "dog", "runs"))
    found = examine(item("two dogs run", "a couple of dogs running"), caption)
    assert audited(found).confusions() == [("number", "one dog", "2", 1)]


def test_changes_between_two_models() -> None:
    def said(key: str, *words: str) -> AuditedPicture:
        return examine(item("a dog runs", "a dog is running", key=key), toys.caption(words))

    new = audited(said("a", "a", "dog", "runs"), said("b", "a", "cat", "sits"),
                  said("c", "a", "cat"), said("only", "a", "cat"))  # fmt: skip
    old = audited(said("b", "a", "dog", "sits"), said("a", "a", "cat", "runs"),
                  said("c", "a", "cat"))  # fmt: skip
    found = changes(new, old)
    assert [(c.new.item.key, c.gain) for c in found] == [("a", 2), ("b", -2)]
    assert [f.said for f in found[0].fixed] == ["cat", ""]
    assert found[0].introduced == ()
    assert [f.said for f in found[1].introduced] == ["cat", ""]
    assert found[1].fixed == ()  # both say "sits"


def test_a_split_is_captioned_and_bad_pictures_are_told_of(tmp_path: Path) -> None:
    captions, images = toys.write_data(tmp_path, 8)
    (images / "3.jpg").write_bytes(b"no picture")
    dataset = load_dataset(captions, images)
    seen: list[tuple[int, int]] = []
    found = audit(
        toys.captioner(), dataset, beam=1, report=lambda done, total: seen.append((done, total))
    )
    assert [one.item.key for one in found.pictures] == ["7.jpg"]
    assert set(found.failures) == {"3.jpg"}
    assert seen == [(1, 2), (2, 2)]
    assert (
        audit(toys.captioner(), dataset, split="train", limit=2, beam=1).settings["pictures"] == 2
    )


def test_a_split_may_be_named_as_a_file_names_it(tmp_path: Path) -> None:
    dataset = load_dataset(*toys.write_data(tmp_path, 4))
    settings = audit(toys.captioner(), dataset, split="Dev", beam=1).settings
    assert (settings["split"], settings["pictures"]) == ("val", 1)


def test_what_cannot_be_audited_is_said(tmp_path: Path) -> None:
    dataset = load_dataset(*toys.write_data(tmp_path, 4))
    with pytest.raises(DatasetError, match="no pictures in the split 'test'; it has train, val"):
        audit(toys.captioner(), dataset, split="test")
    with pytest.raises(ConfigError, match="limit is -1"):
        audit(toys.captioner(), dataset, limit=-1)
