"""Teaching: a word that no caption held is named where it is shown."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from regard.backends.torch_backend import TorchBackend
from regard.captioner import Captioner
from regard.config import DecoderConfig, ObjectiveConfig
from regard.decoding import DecodingOptions, decode
from regard.errors import ConfigError, UnknownName
from regard.model.concepts import Directions, forget, teach
from regard.model.decoder import AttentionDecoder
from regard.text.vocabulary import END, PAD, SPECIALS, START, UNKNOWN, Vocabulary
from regard.training.objectives.base import Batch
from regard.training.objectives.cross_entropy import CrossEntropy
from regard.types import Annotations
from tests.helpers import pointing, toys

SHAPES = ("circle", "square", "star", "cross", "ring", "arrow", "heart", "moon")
CAPTIONS = SPECIALS + ("a", "and", *SHAPES)
CELLS, SIZE, TYPICAL = 9, 16, 64
NEW = 8  # the shape of no caption


@dataclass(frozen=True)
class World:
    """Pictures of two shapes: cells that show them lie near the shape's direction."""

    looks: torch.Tensor

    def pictures(self, shapes: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
        """Return (N, L, D) of the shapes (N, 2): the first in the left column, then the right."""
        vectors = 0.15 * torch.randn(len(shapes), CELLS, SIZE, generator=draw)
        vectors[:, [0, 3, 6]] += self.looks[shapes[:, :1]]
        vectors[:, [2, 5, 8]] += self.looks[shapes[:, 1:]]
        vectors[:, [1, 4, 7]] += self.looks[-1]
        return vectors


@pytest.fixture(scope="module")
def world() -> World:
    draw = torch.Generator().manual_seed(0)
    looks = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=draw)).Q[: NEW + 2]
    return World(looks * 3)


@pytest.fixture(scope="module")
def trained(world: World) -> AttentionDecoder:
    """Says "a circle and a star" of the shapes of captions; trained with hidden concepts."""
    config = DecoderConfig(
        embedding_dim=24, hidden_dim=32, attention_dim=16, dropout=0.1, concepts=len(SHAPES),
        concept_dim=SIZE, concept_dropout=0.5, position="learned", grid_shape=(3, 3),
        concept_negatives=TYPICAL,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = AttentionDecoder(config, annotation_dim=SIZE, vocabulary_size=len(CAPTIONS))
    pointer = decoder.pointer
    assert pointer is not None
    with torch.no_grad():
        pointer.cell.weight.copy_(torch.eye(SIZE))
        pointer.whole.weight.copy_(torch.eye(SIZE))
        pointer.sharpness.copy_(torch.tensor([14.0, 4.0]))
    forms = torch.arange(len(SHAPES))[:, None].expand(-1, 2) + CAPTIONS.index("circle")
    centred = functional.layer_norm(world.looks[: len(SHAPES)], (SIZE,))
    pointer.set_bank(forms, centred, torch.full((len(SHAPES),), 9.0))
    pointer.negatives = typical(decoder, world)
    objective, draw = CrossEntropy(ObjectiveConfig()), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(decoder.parameters(), 4e-3)
    mask = torch.ones(32, CELLS, dtype=torch.bool)
    a, und = CAPTIONS.index("a"), CAPTIONS.index("and")
    for _ in range(350):
        shapes = torch.randint(len(SHAPES), (32, 2), generator=draw)
        said = shapes + CAPTIONS.index("circle")
        fixed = [torch.full((32,), token) for token in (START, a, und, a, END)]
        words = torch.stack([*fixed[:2], said[:, 0], fixed[2], fixed[3], said[:, 1], fixed[4]], 1)
        vectors = world.pictures(shapes, draw)
        steps = torch.ones(32, 6, dtype=torch.bool)
        batch = Batch(vectors, mask, words[:, :-1], words[:, 1:], steps, tuple(range(32)))
        projected = decoder.project(vectors, mask)
        optimizer.zero_grad()
        objective.loss(decoder.train(), projected, batch, draw).total.backward()
        optimizer.step()
    return decoder.eval()


def typical(decoder: AttentionDecoder, world: World) -> torch.Tensor:
    """Directions of a random cell and of the whole, of pictures of known shapes."""
    draw = torch.Generator().manual_seed(9)
    shapes = torch.randint(len(SHAPES), (TYPICAL, 2), generator=draw)
    found = directions(decoder, world.pictures(shapes, draw))
    cell = torch.randint(CELLS, (TYPICAL,), generator=draw)
    return torch.stack([found.cells[torch.arange(TYPICAL), cell], found.whole], 1)


def directions(decoder: AttentionDecoder, vectors: torch.Tensor) -> Directions:
    assert decoder.pointer is not None
    mask = torch.ones(vectors.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        return Directions(*decoder.pointer.likeness(vectors, mask), mask)


def shown(world: World, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of the new shape on one side and of a known one on the other."""
    draw = torch.Generator().manual_seed(seed)
    shapes = torch.randint(len(SHAPES), (count, 2), generator=draw)
    side = torch.randint(2, (count,), generator=draw)
    shapes[torch.arange(count), side] = NEW
    return shapes, world.pictures(shapes, draw)


def captions(decoder: AttentionDecoder, words: Vocabulary, vectors: torch.Tensor):
    mask = torch.ones(vectors.shape[:2], dtype=torch.bool)
    ids = {"start": START, "end": END, "forbidden": (PAD, START, UNKNOWN)}
    read = Annotations(vectors, mask, ())
    found = decode(TorchBackend(None, decoder), read, DecodingOptions(beam=3), **ids)
    return [best for (best, *_) in found]


def texts(shapes: torch.Tensor, names: tuple[str, ...]) -> list[str]:
    return [f"a {names[i]} and a {names[j]}" for i, j in shapes.tolist()]


def test_a_taught_word_is_said_where_it_is_shown(world: World, trained: AttentionDecoder) -> None:
    known = Vocabulary(CAPTIONS)
    shapes, vectors = shown(world, 40, 2)
    wanted = texts(shapes, (*SHAPES, "paper boat"))
    before = [known.decode(h.tokens) for h in captions(trained, known, vectors)]
    assert not set(before) & set(wanted)
    _, examples = shown(world, 8, 3)
    taught, words, lesson = teach(trained, known, "paper boat", directions(trained, examples))
    assert (lesson.word, lesson.plural, lesson.known) == ("paper boat", "paper boats", False)
    assert lesson.named == 1
    assert lesson.odd == ()
    assert lesson.separate
    found = captions(taught, words, vectors)
    after = [words.decode(h.tokens) for h in found]
    right = sum(a == w for a, w in zip(after, wanted, strict=True))
    assert right >= 36, list(zip(after, wanted, strict=True))[:5]
    boat = words.words.index("paper boat")
    for hypothesis, pair in zip(found, shapes.tolist(), strict=True):
        for t in np.flatnonzero(np.array(hypothesis.tokens) == boat):
            assert hypothesis.copied is not None
            assert hypothesis.copied[t] > 0.99
            assert hypothesis.cell is not None
            assert hypothesis.cell[t] % 3 == (0 if pair[0] == NEW else 2)  # where it lies


def test_what_was_known_before_is_said_as_before(world: World, trained: AttentionDecoder) -> None:
    known = Vocabulary(CAPTIONS)
    draw = torch.Generator().manual_seed(4)
    shapes = torch.randint(len(SHAPES), (40, 2), generator=draw)
    vectors = world.pictures(shapes, draw)
    wanted = texts(shapes, SHAPES)
    before = [known.decode(h.tokens) for h in captions(trained, known, vectors)]
    assert sum(b == w for b, w in zip(before, wanted, strict=True)) >= 38
    _, examples = shown(world, 8, 3)
    taught, words, _ = teach(trained, known, "boat", directions(trained, examples))
    assert [words.decode(h.tokens) for h in captions(taught, words, vectors)] == before
    again, kept = forget(taught, words, "boats")
    assert kept == known
    for name, weight in trained.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight, rtol=0, atol=0)


def test_one_picture_teaches_too(world: World, trained: AttentionDecoder) -> None:
    _, examples = shown(world, 1, 5)
    taught, words, lesson = teach(
        trained, Vocabulary(CAPTIONS), "boat", directions(trained, examples)
    )
    assert lesson.named is None
    assert lesson.odd == ()
    _shapes, vectors = shown(world, 20, 6)
    said = [words.decode(h.tokens) for h in captions(taught, words, vectors)]
    assert sum("boat" in text for text in said) >= 15


def test_it_learns_without_typical_cells(world: World, trained: AttentionDecoder) -> None:
    config = replace(trained.config, concept_negatives=0)
    weights = {k: v for k, v in trained.state_dict().items() if k != "pointer.negatives"}
    bare = AttentionDecoder(config, annotation_dim=SIZE, vocabulary_size=len(CAPTIONS))
    bare.load_state_dict(weights)
    bare.eval()
    _, vectors = shown(world, 20, 6)
    _, examples = shown(world, 20, 3)
    taught, words, _ = teach(bare, Vocabulary(CAPTIONS), "boat", directions(bare, examples))
    found = captions(taught, words, vectors)
    assert sum("boat" in words.decode(h.tokens) for h in found) >= 18


def test_a_picture_of_something_else_is_odd(world: World, trained: AttentionDecoder) -> None:
    _, examples = shown(world, 7, 7)
    other = world.pictures(torch.tensor([[0, 1]]), torch.Generator().manual_seed(8))
    given = directions(trained, torch.cat([examples, other]))
    _, _, lesson = teach(trained, Vocabulary(CAPTIONS), "boat", given)
    assert lesson.odd == (7,)
    assert lesson.named == pytest.approx(7 / 8)


def test_a_known_concept_is_averaged_and_its_words_stay(trained: AttentionDecoder) -> None:
    known = Vocabulary(CAPTIONS)
    assert trained.pointer is not None
    looks = trained.pointer.vectors[[3]].unsqueeze(1).expand(4, CELLS, -1)
    mask = torch.ones(4, CELLS, dtype=torch.bool)
    same = Directions(looks, looks[:, 0], mask)
    taught, words, lesson = teach(trained, known, SHAPES[3], same)
    assert lesson.known
    assert words == known
    assert taught.pointer is not None
    old, new = trained.pointer.vectors, taught.pointer.vectors
    assert float(new[-1] @ old[3]) > 0.9
    others = [i for i in range(len(SHAPES)) if i != 3]
    torch.testing.assert_close(new[:-1], old[others], rtol=0, atol=0)
    assert len(taught.pointer.forms) == len(SHAPES)
    assert lesson.plural == SHAPES[3]  # its forms are the bank's


def test_a_word_of_the_vocabulary_alone_keeps_its_rows() -> None:
    model = pointing.captioner()
    before = model.decoder.output.weight.clone()
    lesson = model.teach("Cat", [toys.picture(i, (32, 32)) for i in range(3)])
    assert lesson.word == "cat"
    assert lesson.plural == "cats"
    assert model.vocabulary.words == (*pointing.WORDS_OF_ALL, "cats")
    torch.testing.assert_close(model.decoder.output.weight[:-1], before)
    assert [c.word for c in model.concepts()] == ["dog", "fire hydrant", "bear", "cat"]
    model.forget("cat")
    assert model.vocabulary == pointing.VOCABULARY


def test_a_taught_model_is_saved_and_loaded(tmp_path) -> None:
    model = pointing.captioner()
    model.teach("paper boat", [toys.picture(i, (32, 32)) for i in range(4)])
    model.save(tmp_path / "model", half=True)
    again = Captioner.load(tmp_path / "model")
    assert [c.plural for c in again.concepts()][-1] == "paper boats"
    one, other = (m.caption(toys.picture(0, (32, 32))) for m in (model, again))
    assert one.text == other.text


def test_errors_say_what_to_do(tmp_path) -> None:
    model = pointing.captioner()
    with pytest.raises(ConfigError, match=r"0 pictures of 'boat'.*Give one or more"):
        model.teach("boat", [])
    with pytest.raises(ConfigError, match="holds no letter"):
        model.teach("!", [toys.picture()])
    with pytest.raises(ConfigError, match="'toy' has no pointer"):
        toys.captioner().teach("boat", [toys.picture()])
    with pytest.raises(UnknownName, match="boat"):
        model.forget("boat")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"nothing")
    lesson = model.teach("boat", [toys.picture(0, (32, 32)), str(broken)])
    assert lesson.pictures == 1
    assert lesson.failures[0][0] == str(broken)
    with pytest.raises(ConfigError, match="1 cannot be read"):
        model.teach("kite", [str(broken)])
    for word in ("dog", "fire hydrant", "boat"):
        model.forget(word)
    with pytest.raises(ConfigError, match="only concept"):
        model.forget("bear")
