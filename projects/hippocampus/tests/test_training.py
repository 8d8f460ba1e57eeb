"""A captioner of scans, from the data set's command to captions in millimetres."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from projects.hippocampus import out_of_distribution
from projects.hippocampus.__main__ import app
from projects.hippocampus.data import load_facts, read_marked_scan, write_data
from projects.hippocampus.evaluate import majority_text, mean_accuracy, nearest_texts, score_facts
from projects.hippocampus.facts import FACTS
from projects.hippocampus.pretrain_masks import train_encoder
from projects.hippocampus.tests.toys import write_task04
from projects.hippocampus.volume_pointing import attention_on_parts, mask_priors
from regard import Captioner, ConfigError, train
from regard.model.encoders import build_encoder
from regard.recipes import find_recipe, override

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
    root = write_task04(tmp_path_factory.mktemp("task04"), 18)
    write_data(root, root / "set", captions=3, copies=1)
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

    model, key = Captioner.load(trained), training[0]
    marked = read_marked_scan(data / "scans" / key, data / "masks" / key)
    made = model.caption(str(data / "scans" / key), prefix="a hippocampus")
    found = attention_on_parts(made, marked, mask_priors([(marked, made.grid)]))
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


def test_the_encoder_is_pretrained_and_training_starts_from_it(data: Path, tmp_path: Path) -> None:
    weights = tmp_path / "encoder.safetensors"
    sizes = [f"--set={one}" for one in SMALL if one.startswith("encoder.volume")]
    arguments = ["train-encoder", str(data), str(weights), "--epochs", "1", *sizes]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("epoch 1: loss ")
    assert "val facts right 0." in done.stdout
    recipe = override(find_recipe("hippocampus-soft"), [*SMALL, f'encoder.weights="{weights}"'])
    encoder = build_encoder(recipe.encoder)
    for name, tensor in load_file(weights).items():
        assert torch.equal(encoder.state_dict()[name], tensor)


def test_an_encoder_without_facts_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"numbers = 0 .* 18 facts and 2 parts"):
        train_encoder(data, tmp_path / "weights", settings=["encoder.volume.numbers=0"])


def test_the_tables_stand_beside_controls_and_baselines(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The scorers have tests of their own, and METEOR starts Java for each kind of text.
    scores = SimpleNamespace(values={"bleu4": 1.0})
    monkeypatch.setattr("projects.hippocampus.evaluate.score_captions", lambda *_, **__: scores)
    out = tmp_path / "tables.json"
    arguments = ["evaluate", str(data), "--model", str(trained), "--control", f"again={trained}"]
    done = CliRunner().invoke(app, [*arguments, "--json", str(out)])
    assert done.exit_code == 0, done.output
    assert "facts (test, 4 scans)" in done.stdout
    tables = json.loads(out.read_text("utf-8"))
    nearest = [f"nearest by {what}" for what in ("voxels", "crop size", "features")]
    texts = ["model", "again", "majority text", *nearest]
    assert list(tables["captions"]) == texts
    assert tables["captions"]["model"] == tables["captions"]["again"]
    assert [row["text"] for row in tables["scores"]] == texts
    assert [row["fact"] for row in tables["facts"]] == [*(fact.name for fact in FACTS), "mean"]
    for row in tables["facts"]:
        assert row["model"] == row["again"] <= row["stated"]


def test_a_control_without_a_name_is_refused(data: Path) -> None:
    found = CliRunner().invoke(app, ["evaluate", str(data), "--control", "runs/one"])
    assert isinstance(found.exception, ConfigError)
    assert "must be NAME=MODEL" in str(found.exception)


def test_notices_are_counted(trained: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = np.mgrid[:24, :30, :24][0].astype(np.float32)
    others = [("gradient", ramp), ("a file that is gone", data / "gone.nii.gz")]
    monkeypatch.setattr(out_of_distribution, "other_scans", lambda: iter(others))
    counts = {c.inputs: c for c in out_of_distribution.count_notices(data, str(trained))}
    assert counts["real train scans"].noticed == 0
    assert counts["twice as large"].noticed == counts["twice as large"].total == 4
    assert counts["gradient"].noticed == 1
    assert counts["a file that is gone"].noticed is None
    assert counts["a file that is gone"].row().startswith("| a file that is gone | refused | 1 | ")
