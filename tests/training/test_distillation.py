"""Teachers: they see what the learner sees, say what they would say, and must know its words."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from regard.captioner import Captioner
from regard.config import ObjectiveConfig, Recipe
from regard.config.io import from_dict, to_dict
from regard.errors import ConfigError
from regard.recipes import override
from regard.training import train
from regard.training.devices import Devices
from regard.training.distillation import absolute_teachers, mean_probs, open_teachers
from regard.training.fine_tune import fine_tuning_recipe
from regard.training.inputs import make_batch
from regard.training.logs import Silent
from regard.training.setup import TrainingRun, prepare_run
from tests.helpers import toys


def toy_recipe(folder: Path) -> Recipe:
    captions, images = toys.write_data(folder)
    settings = [
        f"data.annotations={captions}",
        f"data.images={images}",
        f"data.store={folder / 'store'}",  # one encoder: the same for learners and teachers
        "data.min_count=1",
        "data.flip=true",
        "data.crops=1",
        "training.epochs=1",
        "training.batch_size=4",
        "training.captions_per_image=2",
        "optimizer.learning_rate=0.01",
        "evaluation.diary_pictures=2",
    ]
    return override(replace(toys.recipe(dropout=0.3), name="toy"), settings)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A recipe, and the folder where a soft and a hard model of its captions lie."""
    folder = tmp_path_factory.mktemp("taught")
    recipe = toy_recipe(folder)
    train(recipe, folder / "soft")
    hard = replace(
        override(recipe, ["training.seed=5"]),
        decoder=replace(recipe.decoder, attention="hard"),
        objective=replace(recipe.objective, kind="hard_attention"),
    )
    train(hard, folder / "hard")
    return recipe, folder


def begun(recipe: Recipe, out: Path, *teachers: Path, weight: float = 0.5) -> TrainingRun:
    changed = replace(
        recipe.objective,
        teachers=tuple(map(str, teachers)),
        teacher_stores=(recipe.data.store,) * len(teachers),
        teacher_weight=weight,
    )
    return prepare_run(replace(recipe, objective=changed), out, False, Silent(), Devices())


def test_a_teacher_says_what_it_says_of_the_same_view(
    taught: tuple[Recipe, Path], tmp_path: Path
) -> None:
    recipe, folder = taught
    names = [folder / run / "last" for run in ("soft", "hard")]
    run = begun(recipe, tmp_path / "run", *names)
    chunks = [run.chunks[0], replace(run.chunks[0])]
    views = ["flip", "crop1"]
    batch = make_batch(chunks, run.splits.train, run.pictures, views)
    items = [run.splits.train.items[i] for i in batch.items]
    found = mean_probs(run.teachers, batch, items, views)
    assert found.shape == (int(batch.steps.sum()), len(run.vocabulary))
    assert not found.is_inference()
    said = []
    for name in names:
        decoder = Captioner.load(name).decoder
        with torch.no_grad():
            projected = decoder.project(batch.vectors, batch.mask)
            unrolled = decoder(batch.tokens, projected, steps=batch.steps)
            said.append(unrolled.packing.pack(unrolled.logits).softmax(-1))
    torch.testing.assert_close(found, sum(said) / 2)
    assert (said[0] - said[1]).abs().max() > 0.01


def test_learning_of_a_teacher_alone_ends_nearer_to_it(
    taught: tuple[Recipe, Path], tmp_path: Path
) -> None:
    recipe, folder = taught
    settings = ["training.epochs=6", "training.seed=9", "decoder.dropout=0.0", "data.crops=0"]
    recipe = override(recipe, [*settings, "objective.lambda_ds=0.0"])
    apart = []
    for weight in (0.0, 1.0):
        run = begun(recipe, tmp_path / f"{weight}", folder / "hard" / "last", weight=weight)
        train(run.recipe, run.folder)
        learner = Captioner.load(run.folder / "last").decoder
        batch = make_batch(run.chunks[:1], run.splits.train, run.pictures, ["plain"])
        with torch.no_grad():
            projected = learner.project(batch.vectors, batch.mask)
            unrolled = learner(batch.tokens, projected, steps=batch.steps)
        own = unrolled.packing.pack(unrolled.logits).log_softmax(-1)
        items = [run.splits.train.items[i] for i in batch.items]
        said = mean_probs(run.teachers, batch, items, ["plain"])
        apart.append(torch.nn.functional.kl_div(own, said, reduction="batchmean").item())
    assert apart[1] < 0.5 * apart[0]


def test_a_teacher_of_other_words_is_refused(taught: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, _ = taught
    toys.captioner().save(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"has 12 words, which differ from the run's"):
        begun(recipe, tmp_path / "run", tmp_path / "other")


def test_a_teacher_of_another_medium_is_refused(
    taught: tuple[Recipe, Path], tmp_path: Path
) -> None:
    recipe, folder = taught
    run = begun(recipe, tmp_path / "run", folder / "soft" / "last")
    clips = replace(run.recipe, encoder=replace(recipe.encoder, medium="video"))
    rest = (run.splits, run.vocabulary, tmp_path, run.reporter.encoded, run.devices)
    with pytest.raises(ConfigError, match="captions pictures, and the run clips"):
        open_teachers(clips, *rest)


def test_a_teacher_that_was_trained_whole_is_encoded_once(
    taught: tuple[Recipe, Path], tmp_path: Path
) -> None:
    recipe, folder = taught
    whole = Captioner.load(folder / "soft" / "last")
    trainable = replace(recipe.encoder, trainable=True)
    whole = whole.with_components(config=replace(whole.config, encoder=trainable))
    whole.save(tmp_path / "whole")
    run = begun(recipe, tmp_path / "run", tmp_path / "whole")
    assert run.teachers[0].pictures.store is not None


def test_what_goes_on_from_a_taught_model_has_no_teachers(
    taught: tuple[Recipe, Path], tmp_path: Path
) -> None:
    recipe, folder = taught
    model = Captioner.load(folder / "soft" / "last")
    objective = replace(recipe.objective, teachers=("gone",), lambda_ds=0.25)
    model = model.with_components(config=replace(model.config, objective=objective))
    model.save(tmp_path / "model")
    found = fine_tuning_recipe(str(tmp_path / "model")).objective
    assert found == replace(recipe.objective, lambda_ds=0.25)


def test_teachers_and_stores_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    config = ObjectiveConfig(teachers=("run", "flickr8k-soft"), teacher_stores=("a", "b"))
    found = absolute_teachers(config)
    assert found.teachers == (str(tmp_path / "run"), "flickr8k-soft")
    assert found.teacher_stores == (str(tmp_path / "a"), str(tmp_path / "b"))


def test_self_critical_training_without_captions_has_no_use_for_teachers() -> None:
    with pytest.raises(ConfigError, match="would have no effect"):
        ObjectiveConfig(kind="self_critical", teachers=("a",))
    ObjectiveConfig(kind="self_critical", teachers=("a",), cross_entropy_weight=0.1)


def test_a_store_is_named_for_every_teacher_or_for_none() -> None:
    with pytest.raises(ConfigError, match="names 1 folders for 2 teachers"):
        ObjectiveConfig(teachers=("a", "b"), teacher_stores=("c",))


def test_names_of_teachers_survive_a_checkpoint_without_their_places(
    taught: tuple[Recipe, Path], tmp_path: Path
) -> None:
    recipe, folder = taught
    place = str(folder / "soft" / "last")
    objective = replace(recipe.objective, teachers=(place,), teacher_stores=(str(tmp_path / "s"),))
    recipe = replace(recipe, objective=objective)
    assert from_dict(Recipe, to_dict(recipe)) == recipe
    train(recipe, tmp_path / "run")
    assert Captioner.load(tmp_path / "run" / "last").config.objective.teachers == (place,)
    best = Captioner.load(tmp_path / "run" / "best").config.objective
    assert best.teachers == ("soft/last",)
    assert best.teacher_stores == ("s",)
    assert list((tmp_path / "s").glob("shard-*.npy"))
