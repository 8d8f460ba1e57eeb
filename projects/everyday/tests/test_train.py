"""The loss at the target equals the whole mixture's; a small decoder learns and is saved."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from projects.everyday.bank import ConceptHead
from projects.everyday.mix import Batch, Captioned, Mix, Sizes, read_texts, vocabulary_of
from projects.everyday.naming import NamedPictures
from projects.everyday.tests.coloured_toys import CONFIG, WORDS, ColourEncoder
from projects.everyday.train import (
    AveragedWeights,
    ScoredPictures,
    build_decoder,
    decoder_config,
    evaluate,
    padded,
    project,
    rate_factor,
    save,
    target_losses,
    train,
)
from regard import ConfigError
from regard.model.decoder import AttentionDecoder
from regard.text.vocabulary import END, PAD, SPECIALS, START, Vocabulary

SIZES = Sizes(described=6, texts=6, general=2, labels=3)


@pytest.fixture(scope="session")
def texts(data: Path) -> list[list[str]]:
    return read_texts(data / "coco_text" / "captions.txt", WORDS)


@pytest.fixture(scope="session")
def vocabulary(pictures: list[Captioned], texts: list[list[str]]) -> Vocabulary:
    return vocabulary_of(pictures, texts, WORDS)


@pytest.fixture
def mix(pictures: list[Captioned], texts: list[list[str]], named: NamedPictures) -> Mix:
    return Mix(pictures, texts, named, WORDS, sizes=SIZES)


@pytest.fixture
def decoder(head: ConceptHead, vocabulary: Vocabulary) -> AttentionDecoder:
    bank = head.bank()
    sizes = {"embedding_dim": 24, "hidden_dim": 32, "attention_dim": 16, "feature_dim": 20}
    config = replace(decoder_config(*bank.vectors.shape), **sizes, dropout=0.1)
    return build_decoder(bank, WORDS, vocabulary, config=config)


def test_stored_names_project_as_the_decoder_does(
    decoder: AttentionDecoder, named: NamedPictures, pictures: list[Captioned], mix: Mix
) -> None:
    cells = mix.described().cells
    vectors = torch.from_numpy(cells.vectors).float()
    with torch.no_grad():
        expected = decoder.project(vectors, torch.ones(vectors.shape[:2], dtype=torch.bool))
        found = project(decoder, cells)
    for name in ("values", "keys", "naming"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), atol=5e-3, rtol=5e-3
        )
    assert found.forms is expected.forms


@pytest.mark.parametrize("hides", [False, True])
def test_the_targets_loss_and_gradient_are_those_of_the_mixture(
    decoder: AttentionDecoder, mix: Mix, vocabulary: Vocabulary, hides: bool
) -> None:
    assert decoder.pointer is not None
    decoder.train(hides)
    decoder.config = replace(decoder.config, dropout=0.0, embedding_dropout=0.0)
    batch = mix.others()
    text = ["some", "snow", "by", "two", "boxes", "and", "fire hydrants"]
    batch = Batch(batch.cells, [*batch.captions[:-1], text])
    read, said, real = padded(batch.captions, vocabulary)
    places = decoder.pointer.place_of()
    losses: list[torch.Tensor] = []
    gradients: list[list[torch.Tensor]] = []
    for whole in (True, False):
        generator = torch.Generator().manual_seed(4)  # hides the same concepts
        output = decoder(read, project(decoder, batch.cells), steps=real, generator=generator)
        assert output.pointed is not None
        if output.pointed.hidden is not None:
            assert output.pointed.hidden[said].any()
            assert not output.pointed.hidden[vocabulary.encode("ball box snow")].all()
        assert hides == (output.pointed.hidden is not None)
        if whole:
            found = output.packing.pack(output.losses(said))
        else:
            found = target_losses(output, said, places)
        losses.append(found.detach())
        decoder.zero_grad()
        found.sum().backward()
        gradients.append([p.grad.clone() for p in decoder.parameters() if p.grad is not None])
    assert losses[0].max() < 16  # no word is as improbable as 1e-7
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=1e-4)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-3)


def test_a_hidden_word_that_no_cell_shows_costs_the_bound_and_has_no_gradient(
    decoder: AttentionDecoder, mix: Mix, vocabulary: Vocabulary
) -> None:
    assert decoder.pointer is not None
    cells = mix.described().cells
    cells = cells._replace(shares=np.zeros_like(cells.shares))
    read, said, real = padded([["a", "ball"]] * len(cells.shares), vocabulary)
    output = decoder(read, project(decoder, cells), steps=real)
    assert output.pointed is not None
    hidden = decoder.pointer.place_of() >= 0
    output = replace(output, pointed=replace(output.pointed, hidden=hidden))
    losses = target_losses(output, said, decoder.pointer.place_of())
    balls = output.packing.pack(said) == vocabulary.encode("ball")[0]
    assert losses[balls].tolist() == pytest.approx([-math.log(1e-7)] * len(cells.shares))
    assert losses[~balls].max() < 16
    losses[balls].sum().backward()
    assert not any(p.grad.any() for p in decoder.parameters() if p.grad is not None)


def test_captions_are_read_behind_start_and_said_up_to_end() -> None:
    vocabulary = Vocabulary((*SPECIALS, "a", "dog"))
    read, said, real = padded([["a"], ["a", "dog"]], vocabulary)
    assert read.tolist() == [[START, 4, PAD], [START, 4, 5]]
    assert said.tolist() == [[4, END, PAD], [4, 5, END]]
    assert real.tolist() == [[True, True, False], [True, True, True]]


def test_training_lowers_the_loss_and_leaves_the_bank(
    decoder: AttentionDecoder,
    mix: Mix,
    vocabulary: Vocabulary,
    pictures: list[Captioned],
    named: NamedPictures,
    tmp_path: Path,
) -> None:
    assert decoder.pointer is not None
    before = {name: value.clone() for name, value in decoder.pointer.state_dict().items()}
    losses = [
        found
        for found, _ in train(
            decoder, mix, vocabulary, steps=160, learning_rate=5e-2, bf16=False, seed=1
        )
    ]
    first, last = (torch.tensor(part).mean(0) for part in (losses[:5], losses[-5:]))
    assert (last < 0.5 * first).all()
    assert not decoder.training
    after = decoder.pointer.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    learned = {"switch.weight", "switch.bias", "read.weight", "read.bias", "plural"}
    assert {"switch.weight", "read.weight"} <= changed <= learned

    some = [p for p in pictures if p.kind == "flickr8k"][:6]
    scored = ScoredPictures(
        tuple(p.digest for p in some), tuple((" ".join(p.captions[0]),) for p in some)
    )
    scores, found = evaluate(decoder, vocabulary, named.store, scored, batch_size=4)
    assert len(found) == 6
    assert set(scores) == {"bleu4", "cider_d"}
    assert scores["bleu4"] > 60  # untrained: 0

    folder = tmp_path / "model"
    save(folder, ColourEncoder(), decoder, vocabulary, config=CONFIG, metrics={"toys": scores})
    weights = load_file(folder / "model.safetensors")
    stored = weights["decoder.lstm_word.weight"]
    assert stored.dtype == torch.float16
    assert torch.equal(stored, decoder.lstm_word.weight.half())
    assert json.loads((folder / "metrics.json").read_text())["toys"] == scores
    read = Vocabulary.from_json((folder / "vocabulary.json").read_text("utf-8"))
    assert read == vocabulary


def test_a_seed_gives_the_same_losses(
    head: ConceptHead,
    pictures: list[Captioned],
    texts: list[list[str]],
    named: NamedPictures,
    vocabulary: Vocabulary,
) -> None:
    bank = head.bank()
    sizes = {"embedding_dim": 8, "hidden_dim": 8, "attention_dim": 8, "feature_dim": 8}
    config = replace(decoder_config(*bank.vectors.shape), **sizes)
    runs = [
        [
            losses
            for losses, _ in train(
                build_decoder(bank, WORDS, vocabulary, config=config, seed=seed),
                Mix(pictures, texts, named, WORDS, sizes=SIZES, seed=seed),
                vocabulary,
                steps=3,
                seed=seed,
            )
        ]
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_rates_and_averages_by_hand(decoder: AttentionDecoder) -> None:
    assert rate_factor(0, 1000) == pytest.approx(1 / 200)
    assert rate_factor(500, 1000) == pytest.approx(0.02 + 0.98 / 2)
    assert rate_factor(1000, 1000) == pytest.approx(0.02)
    average = AveragedWeights(decoder)
    with torch.no_grad():
        decoder.output.bias.zero_()
        average.state["output.bias"].zero_()
        decoder.output.bias.add_(1)
    average.update(decoder, 0)
    assert average.state["output.bias"] == pytest.approx(19 / 20)  # decay of 1/20 in step 0
    average.update(decoder, 10**6)
    assert average.state["output.bias"][0].item() == pytest.approx(0.95 * 0.998 + 0.002)


def test_a_vocabulary_without_the_forms_is_an_error(
    head: ConceptHead, vocabulary: Vocabulary
) -> None:
    words = tuple(w for w in vocabulary.words if w != "fire hydrants")
    with pytest.raises(ConfigError, match="lacks a form of the concept 'fire hydrant'"):
        build_decoder(head.bank(), WORDS, replace(vocabulary, words=words))
    config = replace(decoder_config(0, 8), hidden_dim=8)
    with pytest.raises(ConfigError, match="decoder.concepts is 0"):
        build_decoder(head.bank(), WORDS, vocabulary, config=config)
