"""Captions of languages without spaces, and of others than English."""

from __future__ import annotations

from dataclasses import replace

import pytest

from regard.audit.mistakes import examine
from regard.config import ObjectiveConfig
from regard.data import CaptionDataset, CaptionedItem
from regard.metrics import java, score_captions
from regard.metrics.tokenize import tokenize_captions
from regard.reliability.confidence import Confidence, unsure_text
from regard.text.vocabulary import build_vocabulary
from regard.training.objectives import caption_reward
from regard.training.setup import tokens_note
from tests.helpers import toys

JAPANESE = {"a": "赤い丸が青い四角の右にある", "b": "緑の三角が黄色い丸の下にある"}
REFERENCES = {"a": ["赤い丸が青い四角の左にある"], "b": ["緑の三角が黄色い丸の上にある"]}


def test_japanese_is_scored_by_character() -> None:
    found = score_captions(JAPANESE, REFERENCES, tokenizer="python")
    assert found.settings["tokenizer"] == "characters"
    assert found.values["bleu1"] == pytest.approx(92.593, abs=1e-3)
    assert found.values["bleu4"] == pytest.approx(77.237, abs=1e-3)
    assert "English" in found.missing["meteor"]


@pytest.mark.parametrize(
    ("caption", "reference"),
    [
        ("一只红色的狗。", "一只黑色的狗"),
        ("สุนัขสีแดงวิ่ง", "สุนัขสีดำวิ่ง"),
        ("ໝາສີແດງ", "ໝາສີດຳ"),
        ("ឆ្កែក្រហមរត់", "ឆ្កែខ្មៅរត់"),
        ("ခွေးနီတစ်ကောင်", "ခွေးမည်းတစ်ကောင်"),
    ],
)
def test_languages_without_spaces_are_cut_into_characters(caption: str, reference: str) -> None:
    (tokens,), used = tokenize_captions([caption], "python")
    assert (tokens, used) == (list(caption.removesuffix("。")), "characters")
    found = score_captions({"a": caption}, {"a": [reference]}, tokenizer="python", names=["bleu1"])
    assert 40 < found.values["bleu1"] < 100


def test_mixed_captions_keep_their_words() -> None:
    captions = ["2匹の犬、a red ball。", "A man's dog"]
    tokens, used = tokenize_captions(captions, "python")
    assert tokens == [["2", "匹", "の", "犬", "a", "red", "ball"], ["a", "man", "'s", "dog"]]
    assert used == "python and characters"


@pytest.mark.parametrize("text", ["개 한 마리", "café noir", "một con chó", "ガラス"])
def test_decomposed_references_fit_composed_captions(text: str) -> None:
    import unicodedata

    other = {"a": [unicodedata.normalize("NFD", text)]}
    found = score_captions({"a": text}, other, tokenizer="python", names=["bleu1"])
    assert found.values["bleu1"] == pytest.approx(100, abs=1e-4)


@pytest.mark.parametrize(
    ("references", "english"),
    [
        (["a dog runs in the park", "two cats"], True),
        (["red cube left of blue ball"], True),
        (["ein Hund läuft auf einem Feld"], False),
        (["un chien court dans le parc"], False),
        (["un perro corre con una pelota"], False),
        (["собака бежит по траве"], False),
        (["강아지가 달린다"], False),
    ],
)
def test_meteor_is_left_out_for_other_languages(
    references: list[str], english: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(java, "meteor", lambda *_: 50.0)  # Java takes ten CPU seconds
    found = score_captions({"a": references[0]}, {"a": references}, tokenizer="python")
    assert ("meteor" in found.values) == english
    assert ("English" in found.missing.get("meteor", "")) != english


@pytest.mark.parametrize("tokens", ["character", "bpe"])
def test_a_model_of_characters_or_pieces_is_scored_by_its_own(tokens: str) -> None:
    captions = [text for some in REFERENCES.values() for text in some]
    words = build_vocabulary(captions, tokens=tokens, min_count=1, max_words=24)
    found = score_captions(JAPANESE, REFERENCES, tokenizer="model", vocabulary=words)
    assert found.settings["tokenizer"].startswith("the model's")
    assert found.values["bleu1"] > 50
    plain = build_vocabulary(captions, min_count=1)
    found = score_captions(JAPANESE, REFERENCES, tokenizer="model", vocabulary=plain)
    assert found.settings["tokenizer"] == "characters"


def data(*captions: str) -> CaptionDataset:
    items = (CaptionedItem(f"{c}.jpg", (c,), "train", c) for c in captions)
    return CaptionDataset(tuple(items), "toy")


def test_the_reward_of_sentences_as_words_counts_characters() -> None:
    train = data("赤い丸がある", "青い角がある", "黒い犬が走る")
    words = build_vocabulary((i.captions[0] for i in train), min_count=1)
    reward = caption_reward(ObjectiveConfig(kind="self_critical"), train, words)
    near, far = words.encode("青い角がある"), words.encode("黒い犬が走る")
    assert reward(0, words.encode("赤い丸がある")) > reward(0, near) > reward(0, far)


def test_training_says_that_sentences_become_words() -> None:
    train = data("赤い丸がある", "青い角がある")
    words = build_vocabulary((i.captions[0] for i in train), min_count=1)
    assert "2 of 2 training captions" in tokens_note(train, words)
    letters = build_vocabulary(["赤"], tokens="character", min_count=1)
    assert tokens_note(train, letters).startswith("scores compare the model's characters")
    assert not tokens_note(data("a dog", "a cat", "二匹"), build_vocabulary(["a dog"], min_count=1))


@pytest.mark.parametrize(
    "pieces",
    [tuple("赤い丸が右にある"), ("赤い丸が右にある",), ("赤", "い", "丸", "が", "右", "にある")],
)
def test_an_audit_compares_characters(pieces: tuple[str, ...]) -> None:
    caption = replace(toys.caption(pieces), text="".join(pieces))
    item = CaptionedItem("a.jpg", ("赤い丸が左にある。", "赤い丸がある"), "val", "a.jpg")
    assert [(f.kind, f.said) for f in examine(item, caption).mistakes] == [("unsupported", "右")]


def test_doubt_is_about_the_tokens_of_a_sentence_without_spaces() -> None:
    caption = replace(toys.caption(tuple("赤い丸と犬")), text="赤い丸と犬")
    sure = replace(caption.words[0], logprob=-0.01)
    words = (sure, *(replace(word, logprob=-2.0) for word in caption.words[1:]))
    rated = Confidence(1.0, 0.0, "val", 3, 10, 10, 0.1, 0.1).rate(replace(caption, words=words))
    known = [word.text for word in rated.words if word.confidence is not None]
    assert known == ["赤", "丸", "犬"]  # kana mean nothing by themselves
    assert unsure_text(rated, 0.5) == "赤い丸(?)と犬(?)"
