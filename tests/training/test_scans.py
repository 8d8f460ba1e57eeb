"""A captioner of scans, from the data set's command to captions in millimetres."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from projects.hippocampus.data import load_facts, write_hippocampus
from projects.hippocampus.facts import Marked
from projects.hippocampus.rule_facts import (
    aims,
    majority_text,
    mask_priors,
    mean_accuracy,
    nearest_texts,
    score_facts,
)
from projects.hippocampus.warp import warped
from regard.captioner import Captioner
from regard.errors import ConfigError
from regard.recipes import find_recipe, override
from regard.training import train

nibabel = pytest.importorskip("nibabel")

SMALL = [
    "encoder.volume.shape=[16, 24, 16]",
    "encoder.volume.spacing=[1.5, 1.5, 1.5]",
    "encoder.trainable=true",
    "encoder.volume.channels=[4, 8, 8, 8]",
    "decoder.embedding_dim=16",
    "decoder.hidden_dim=16",
    "decoder.attention_dim=16",
    "decoder.feature_dim=16",
    "decoder.dropout=0.0",
    "training.epochs=2",
    "training.batch_size=8",
    "optimizer.learning_rate=1e-2",
    "evaluation.diary_pictures=0",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, draw = tmp_path_factory.mktemp("task04"), np.random.default_rng(0)
    mask = np.zeros((12, 14, 12), np.uint8)
    mask[5:9, 2:6, 3:7] = 2
    mask[2:6, 6:12, 5:9] = 1
    values = np.choose(mask, (10.0, 30.0, 20.0)).astype(np.float32)
    for name in ("images", "labels"):
        (root / name).mkdir()
    for i in range(18):
        made = warped(Marked(mask, values, (1.0, 1.0, 1.0)), draw)
        for name, array in (("images", made.values), ("labels", made.mask)):
            image = nibabel.Nifti1Image(array.transpose(2, 1, 0), np.eye(4))
            nibabel.save(image, root / name / f"scan_{i:02d}.nii.gz")
    write_hippocampus(root, root / "set", captions=3, copies=1)
    return root / "set"


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    places = [f"data.annotations={data / 'dataset.json'}", f"data.images={data}"]
    recipe = override(find_recipe("hippocampus-soft"), [*SMALL, *places])
    return train(recipe, tmp_path_factory.mktemp("runs") / "soft")


def test_the_loss_falls_and_the_model_comes_back_whole(trained: Path, data: Path) -> None:
    lines = [json.loads(line) for line in (trained.parent / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "evaluation"]
    assert losses[-1] < losses[0] - 0.5
    model = Captioner.load(trained)
    assert model.medium == "volume"
    assert model.familiarity is not None
    assert model.familiarity.ranges["mm between rows"] == (1, 1)
    scan = str(next(iter(sorted((data / "scans").glob("*.nii.gz")))))
    made = model.caption(scan)
    assert made.notices == ("Not for clinical use.",)  # it was trained on this one
    assert made.grid.shape == (4, 6, 4)
    assert made.trace.alpha.sum(1) == pytest.approx(np.ones(len(made.words)), abs=1e-4)
    model.save(trained.parent / "again")
    again = Captioner.load(trained.parent / "again").caption(scan)
    assert again.text == made.text
    assert np.array_equal(again.trace.alpha, made.trace.alpha)


def test_the_card_speaks_of_voxels_and_where_the_text_came_from(trained: Path) -> None:
    card = (trained / "README.md").read_text("utf-8")
    assert "input 16×24×16 voxels of 1.5×1.5×1.5 mm (slices×rows×cols), window percentile" in card
    assert "rule-made text on real scans" in card
    assert "Not for clinical use." in card
    assert "CC-BY-SA 4.0" in card
    assert "Says so where an input is unlike the" in card
    assert "pixels" not in card


def test_a_batch_is_its_scans_one_by_one(trained: Path, data: Path) -> None:
    model = Captioner.load(trained)
    scans = [str(path) for path in sorted((data / "scans").glob("*.nii.gz"))[:3]]
    together = model.caption(scans, method="greedy", max_length=30)
    for scan, made in zip(scans, together, strict=True):
        alone = model.caption(scan, method="greedy", max_length=30)
        assert alone.text == made.text
        assert np.allclose(alone.trace.alpha, made.trace.alpha, atol=1e-5)


def test_facts_and_aims_of_captions_are_scored(trained: Path, data: Path) -> None:
    book = load_facts(data / "facts.json")
    references = {
        image["filename"]: [s["raw"] for s in image["sentences"]]
        for image in json.loads((data / "dataset.json").read_text())["images"]
    }
    training = [k for k, s in book.splits.items() if s == "train" and "_copy" not in k]
    wanted = [k for k, s in book.splits.items() if s == "test"]
    perfect = score_facts({k: references[k][0] for k in wanted}, book)
    assert mean_accuracy(perfect) == 1
    most = score_facts({k: majority_text(book, training) for k in wanted}, book)
    assert all(score.stated == score.scans == len(wanted) for score in most.values())
    vectors = {k: np.array([i], float) for i, k in enumerate(references)}
    near = nearest_texts(vectors, training, training, references)
    assert all(near[k] == references[k][0] for k in training)
    silent = score_facts(dict.fromkeys(wanted, ""), book)
    assert mean_accuracy(silent) == 0

    from projects.hippocampus.data import read_marked

    model, key = Captioner.load(trained), training[0]
    marked = read_marked(data / "scans" / key, data / "masks" / key)
    made = model.caption(str(data / "scans" / key), prefix="a hippocampus")
    found = aims(made, marked, mask_priors([(marked, made.grid)]))
    assert found[0].word == "hippocampus"
    assert 0 <= found[0].pointing.mass <= 1
    # The prior is made of this very mask: nothing beats it by far.
    assert found[0].prior.mass > found[0].prior.uniform_mass


def test_too_few_items_are_not_called_familiar(data: Path, tmp_path: Path) -> None:
    places = [f"data.annotations={data / 'dataset.json'}", f"data.images={data}"]
    recipe = override(find_recipe("hippocampus-soft"), [*SMALL, *places, "data.limit=5"])
    with pytest.raises(ConfigError, match=r"5 training items are too few"):
        train(recipe, tmp_path / "few")
    assert not (tmp_path / "few" / "last").exists()  # known before the first step
