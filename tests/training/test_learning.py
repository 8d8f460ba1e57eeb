"""On synthetic scenes a small model captions correctly and looks at the things it names.

The shipped recipe, objective, optimizer and batches are used; only the pictures stay in
memory. "On that shape": the centre of the cell with the largest weight lies inside the box of
the very object that the word names. The easier share, where the cell overlaps that box, is
printed beside it. The scenes that are judged come from a seed that no setting was chosen on.

That takes minutes. The quick test leaves out the network and the pictures: a cell's vector says
which colour and which shape lie there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from regard.config import Recipe
from regard.media import cell_at, cell_bounds, preprocess, read_image
from regard.model.decoder import AttentionDecoder
from regard.model.encoders.small_cnn import RECEPTIVE_FIELD, SmallCNN
from regard.recipes import find_recipe
from regard.synthetic.scenes import COLOURS, SHAPES, Scene, SceneObject, combinations, make_scenes
from regard.text.vocabulary import build_vocabulary
from regard.training.batches import collate, make_chunks
from regard.training.objectives.base import Batch
from regard.training.objectives.cross_entropy import CrossEntropy
from regard.types import Caption, Grid
from tests.helpers.learning import learn

SIDE, STEPS, RATE = 4, 300, 1e-2  # of the quick test
TRAINING_SCENES, TEST_SCENES, TEST_SEED = 6000, 300, 20261124
Hit = Callable[[Grid, int, SceneObject], bool]


def overlaps(grid: Grid, cell: int, thing: SceneObject) -> bool:
    """Return whether a cell covers part of an object's box."""
    (above, below), (before, after) = cell_bounds(grid, cell)
    top, left, bottom, right = thing.box
    return top < below and above < bottom and left < after and before < right


def centred_on(grid: Grid, cell: int, thing: SceneObject) -> bool:
    """Whether a cell's centre lies inside an object's box."""
    row, column = ((start + stop) / 2 for start, stop in cell_bounds(grid, cell))
    top, left, bottom, right = thing.box
    return top <= row <= bottom and left <= column <= right


def pointing(scenes: list[Scene], grid: Grid, cells: np.ndarray, lies_on: Hit) -> float:
    """Return how often the cells (scenes, 2) lie on the first and second shape named."""
    hits = [
        lies_on(grid, int(cell), thing)
        for scene, row in zip(scenes, cells, strict=True)
        for cell, thing in zip(row, scene.objects[:2], strict=True)
    ]
    return float(np.mean(hits))


def beside_baselines(scenes: list[Scene], grid: Grid, cells: np.ndarray, lies_on: Hit) -> str:
    """Return the share of hits, of a cell drawn uniformly and of the cell in the middle."""
    share = pointing(scenes, grid, cells, lies_on)
    fixed = [
        pointing(scenes, grid, np.full_like(cells, cell), lies_on) for cell in range(grid.cells)
    ]
    middle = cell_at(grid, (32, 32))
    assert middle is not None
    return f"{share:.1%} (uniform {np.mean(fixed):.1%}, centre {fixed[middle]:.1%})"


def peaks(caption: Caption) -> tuple[int, int]:
    """Return the cell with the largest weight for each shape word, the third and the last."""
    words = caption.words
    assert words[2].text in SHAPES
    assert words[-1].text in SHAPES
    return int(words[2].alpha.argmax()), int(words[-1].alpha.argmax())


def check(recipe: Recipe, contexts: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Train, caption unseen scenes, print the shares beside the baselines, and hold them."""
    spec = SmallCNN(recipe.encoder).spec
    training = make_scenes(TRAINING_SCENES)
    pixels = np.stack([preprocess(read_image(s.pixels), spec) for s in training])
    model = learn(recipe, torch.from_numpy(pixels), [s.caption for s in training])
    scenes = make_scenes(TEST_SCENES, split="test", seed=TEST_SEED)
    for context in contexts:
        captions = model.caption([s.pixels for s in scenes], beam=1, context=context)
        assert isinstance(captions, list)
        grid = captions[0].grid
        exact = np.mean([c.text == s.caption for c, s in zip(captions, scenes, strict=True)])
        cells = np.array([peaks(c) for c in captions])
        with capsys.disabled():
            print(
                f"\n{recipe.decoder.attention} {recipe.decoder.scores} ({context}): "
                f"exact captions {exact:.1%}; "
                f"peak on the named shape {beside_baselines(scenes, grid, cells, centred_on)}; "
                f"cell overlaps its box {beside_baselines(scenes, grid, cells, overlaps)}"
            )
        assert exact >= 0.95
        assert pointing(scenes, grid, cells, centred_on) >= 0.90


def variant(attention: str, scores: str) -> Recipe:
    """Return the shipped recipe of an attention and its scores."""
    recipe = find_recipe(f"synthetic-{'dot-' if scores == 'scaled_dot' else ''}{attention}")
    assert (recipe.decoder.attention, recipe.decoder.scores) == (attention, scores)
    return recipe


def rows_of_things(count: int, split: str) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Return vectors (count, 16, 10), captions, and the cells of both things, (count, 2).

    Both lie in one of four rows, the subject to the left. No combination is in two splits.
    """
    draw = np.random.default_rng(["train", "test"].index(split))
    allowed = [c for c in combinations(split) if c[2] == "left of"]
    names = [*COLOURS, *SHAPES]
    vectors = draw.normal(0, 0.05, (count, SIDE**2, len(names))).astype(np.float32)
    cells = np.empty((count, 2), int)
    captions: list[str] = []
    for i in range(count):
        colour, shape, relation, other, other_shape = allowed[draw.integers(len(allowed))]
        cells[i] = draw.integers(SIDE) * SIDE + np.sort(draw.choice(SIDE, 2, replace=False))
        for cell, words in zip(cells[i], ((colour, shape), (other, other_shape)), strict=True):
            vectors[i, cell, [names.index(word) for word in words]] += 1
        captions.append(f"a {colour} {shape} is {relation} a {other} {other_shape}")
    return vectors, captions, cells


@pytest.mark.parametrize("scores", ["additive", "scaled_dot"])
def test_attention_finds_what_the_next_word_names(scores: str) -> None:
    """On new combinations every word is right, and the shape words look at their own thing."""
    vectors, captions, _ = rows_of_things(2000, "train")
    vocabulary = build_vocabulary(captions, min_count=1)
    sizes = {"embedding_dim": 32, "hidden_dim": 64, "attention_dim": 32, "feature_dim": 32}
    recipe = variant("soft", scores)
    config = replace(recipe.decoder, **sizes, grid_shape=(SIDE, SIDE), annotation_norm=True)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = AttentionDecoder(
            config, annotation_dim=vectors.shape[2], vocabulary_size=len(vocabulary)
        )
    objective, draw = CrossEntropy(recipe.objective), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(decoder.parameters(), RATE, fused=True)
    chunks = make_chunks([[vocabulary.encode(caption)] for caption in captions], 1)
    for step in range(STEPS):
        rate = RATE * min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / STEPS))
        optimizer.param_groups[0]["lr"] = rate
        items = draw.choice(len(captions), 32, replace=False)
        mask = torch.ones(len(items), SIDE**2, dtype=torch.bool)
        words = collate([chunks[i] for i in items])
        batch = Batch(torch.from_numpy(vectors[items]), mask, *words, tuple(map(int, items)))
        projected = decoder.project(batch.vectors, mask)
        loss = objective.loss(decoder, projected, batch, torch.Generator())
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 5.0)
        optimizer.step()
    vectors, captions, cells = rows_of_things(200, "test")
    tokens, targets, real = collate(make_chunks([[vocabulary.encode(c)] for c in captions], 1))
    with torch.inference_mode():
        mask = torch.ones(len(captions), SIDE**2, dtype=torch.bool)
        found = decoder(tokens, decoder.project(torch.from_numpy(vectors), mask), steps=real)
    right = (found.logits.argmax(-1) == targets) | ~real
    assert right.all(1).float().mean() >= 0.95
    looked = found.alpha[:, [2, 8]].argmax(-1).numpy()  # a red circle is left of a blue cross
    assert (looked == cells).mean() >= 0.95


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_soft_attention_learns(capsys: pytest.CaptureFixture[str]) -> None:
    check(variant("soft", "scaled_dot"), ("expected",), capsys)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("scores", ["additive", "scaled_dot"])
@pytest.mark.parametrize("attention", ["soft", "hard"])
def test_every_attention_learns(
    attention: str, scores: str, capsys: pytest.CaptureFixture[str]
) -> None:
    contexts = ("expected", "argmax") if attention == "hard" else ("expected",)
    check(variant(attention, scores), contexts, capsys)


def test_a_cell_sees_its_surroundings_and_no_more() -> None:
    encoder = SmallCNN(find_recipe("synthetic-soft").encoder)
    assert encoder.spec.size / 3 >= RECEPTIVE_FIELD
    noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pixels = noise.requires_grad_()
    cell = 3 * 8 + 4
    encoder(pixels)[0, cell].sum().backward()
    seen = pixels.grad[0].abs().sum(0) > 0  # type: ignore[index]
    rows, columns = (np.flatnonzero(seen.any(axis).numpy()) for axis in (1, 0))
    # Centred on rows 24-32 and columns 32-40, the cell's own place.
    assert (rows[0], rows[-1] + 1) == (28 - RECEPTIVE_FIELD // 2, 28 + RECEPTIVE_FIELD // 2)
    assert (columns[0], columns[-1] + 1) == (36 - RECEPTIVE_FIELD // 2, 36 + RECEPTIVE_FIELD // 2)
