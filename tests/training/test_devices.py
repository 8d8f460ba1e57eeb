"""Several processes, or several passes, train as one process does with the whole batch."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard.cli.launch import LOST
from regard.cli.main import main
from regard.config import EncoderConfig, Recipe
from regard.data import CaptionDataset
from regard.errors import ConfigError
from regard.model.rng import SlicedGenerator, bernoulli, exponential, sample_categorical
from regard.recipes import override
from regard.training import loop, train
from regard.training.batches import Chunk
from regard.training.devices import Devices
from regard.training.evaluation import _score
from regard.training.loop import Update, own_parts, train_step
from regard.training.setup import TrainingRun
from regard.util.child_python import ranks_in
from tests.helpers import together, toys
from tests.helpers.together import curve

KINDS = {
    "soft": {},
    "bf16": {"training": {"precision": "bf16"}},
    "hard": {"decoder": {"attention": "hard"}, "objective": {"kind": "hard_attention"}},
    "self-critical": {
        "objective": {"kind": "self_critical", "samples": 2, "cross_entropy_weight": 0.5}
    },
    "fine-tuned": {"encoder": {"trainable": True}},
}


def toy_recipe(data: Path, kind: str = "soft", *settings: str) -> Recipe:
    """A recipe with dropout, mirrored pictures, averaged weights and batches that do not divide."""
    recipe = replace(
        toys.recipe(dropout=0.3), encoder=EncoderConfig("small_cnn", 32, level="stride8")
    )
    recipe = override(
        recipe,
        [
            f"data.annotations={data / 'captions.csv'}",
            f"data.images={data / 'images'}",
            f"data.store={data / 'store'}",
            "data.min_count=1",
            "data.flip=true",
            "data.max_length=8",
            "training.epochs=2",
            "training.batch_size=4",
            "training.captions_per_image=2",
            "training.save_every=2",
            "optimizer.learning_rate=0.01",
            "optimizer.ema_decay=0.5",
            "evaluation.diary_pictures=2",
            *settings,
        ],
    )
    sections = KINDS[kind].items()
    return replace(recipe, **{n: replace(getattr(recipe, n), **values) for n, values in sections})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """17 training and 5 val pictures: neither divides by 2 or 3."""
    folder = tmp_path_factory.mktemp("data")
    toys.write_data(folder, 22)
    return folder


@pytest.fixture(scope="module")
def runs(data: Path) -> Path:
    """Every kind trained by two processes; the first encodes the pictures."""
    started = [(toy_recipe(data, kind), data / kind, False) for kind in KINDS]
    assert together.together(2, together.train_runs, started) == [0, 0]
    return data


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_are_one_with_the_doubled_batch(kind: str, runs: Path) -> None:
    """Dropout masks, mirrored views and sampled cells and captions agree, too."""
    alone = runs / f"{kind}-alone"
    train(toy_recipe(runs, kind, "training.batch_size=8"), alone)
    wanted = curve(alone)
    assert len(wanted) == 2 * 5
    rounding = 1e-3 if kind == "bf16" else 1e-5  # sums of bf16 products end in other bits
    assert curve(runs / kind) == pytest.approx(wanted, rel=rounding)
    # In bf16 a word that is hardly likelier than the next may tip, and with it a score.
    for score in ("loss",) if kind == "bf16" else ("loss", "cider_d", "bleu1"):
        wanted = curve(alone, score, "evaluation")
        assert curve(runs / kind, score, "evaluation") == pytest.approx(wanted, rel=rounding)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["soft", "hard", "self-critical"])
def test_accumulated_passes_are_one_with_the_joint_batch(kind: str, runs: Path) -> None:
    passes = runs / f"{kind}-passes"
    train(toy_recipe(runs, kind, "training.accumulate=2"), passes)
    assert curve(passes) == pytest.approx(curve(runs / kind), rel=1e-5)


def test_the_gradient_of_passes_is_the_joint_batch_s(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[list[torch.Tensor]] = []

    class Stop(Exception):
        pass

    def one_step(run: TrainingRun, chunks: list[Chunk], factor: float, *_: object) -> Update:
        train_step(run, chunks, factor)
        found.append([p.grad.clone() for p in run.state.parameters() if p.grad is not None])
        raise Stop

    monkeypatch.setattr(loop, "train_step", one_step)
    for name, sizes in (("joint", (12, 1)), ("passes", (4, 3))):
        settings = [
            "optimizer.clip_norm=0",
            "training.epochs=1",
            f"training.batch_size={sizes[0]}",
            f"training.accumulate={sizes[1]}",
        ]
        with pytest.raises(Stop):
            train(toy_recipe(runs, "soft", *settings), tmp_path / name)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def state(run: Path) -> dict[str, torch.Tensor]:
    saved = torch.load(run / "last" / "training.pt", weights_only=True)
    assert saved["position"]["epoch"] == 2
    averages = {f"average {i}": a for i, a in enumerate(saved["average"]["average"])}
    return saved["decoder"] | averages | {"generator": saved["generator"]}


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_run_and_the_same_number_goes_on_bit_for_bit(
    rank: int, runs: Path, tmp_path: Path
) -> None:
    recipe = toy_recipe(runs, "hard")
    began = time.monotonic()
    statuses = together.together(2, together.train_and_die, recipe, tmp_path / "run", rank, 7)
    assert statuses[rank] == -9
    assert statuses[1 - rank] == LOST
    assert time.monotonic() - began < 60
    resumed = [(Recipe(), tmp_path / "run", True)]
    assert together.together(2, together.train_runs, resumed) == [0, 0]
    wanted = state(runs / "hard")
    for name, value in state(tmp_path / "run").items():
        assert torch.equal(value, wanted[name]), name
    assert curve(tmp_path / "run") == curve(runs / "hard")


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 3])
def test_another_number_of_devices_goes_on_up_to_rounding(
    world: int, runs: Path, tmp_path: Path
) -> None:
    recipe = toy_recipe(runs, "soft")
    together.together(2, together.train_and_die, recipe, tmp_path / "run", 1, 3)
    resumed = [(Recipe(), tmp_path / "run", True)]
    assert together.together(world, together.train_runs, resumed) == [0] * world
    assert curve(tmp_path / "run") == pytest.approx(curve(runs / "soft"), rel=1e-5)
    for kind in ("loss", "cider_d"):
        wanted = curve(runs / "soft", kind, "evaluation")
        assert curve(tmp_path / "run", kind, "evaluation") == pytest.approx(wanted, rel=1e-5)


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 20))
def test_every_picture_is_in_one_part_and_shares_add_up(
    world: int, parts: int, pictures: int
) -> None:
    class Rank(Devices):
        def __init__(self, rank: int) -> None:
            self.rank, self.world = rank, world  # type: ignore[misc]

    taken = [list(own_parts(Rank(rank), parts, pictures)) for rank in range(world)]
    assert len({len(of_rank) for of_rank in taken}) == 1
    seen = [i for of in taken for part, share in of if share for i in range(pictures)[part]]
    assert sorted(seen) == list(range(pictures))
    assert sum(share for of in taken for _, share in of) == pytest.approx(1)
    assert all(list(range(pictures)[part]) for of in taken for part, _ in of)


@pytest.mark.parametrize("draw", [exponential, lambda x, s, g: bernoulli(x, s, 0.5, g)])
def test_parts_draw_what_the_whole_draws(draw: object) -> None:
    like = torch.zeros(())

    def drawn(source: object, rows: int) -> torch.Tensor:
        return draw(like, (rows, 5), source)  # type: ignore[operator]

    whole = drawn(torch.Generator().manual_seed(3), 7 * 2).view(7, 2, 5)
    for part in (slice(0, None, 3), slice(1, None, 3), slice(2, None, 3), slice(0, 1)):
        pictures = len(range(7)[part])
        found = drawn(SlicedGenerator(torch.Generator().manual_seed(3), part, 7), pictures * 2)
        assert torch.equal(found.view(-1, 2, 5), whole[part])


def test_a_column_is_drawn_as_torch_draws_it() -> None:
    weights = torch.rand(400, 6, generator=torch.Generator().manual_seed(0))
    found = sample_categorical(weights, torch.Generator().manual_seed(1))
    wanted = torch.multinomial(weights, 1, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found, wanted[:, 0])


def test_a_picture_counted_twice_or_never_is_an_error(data: Path) -> None:
    from regard.data import load_dataset

    val = load_dataset(data / "captions.csv", data / "images").split("val")
    none = CaptionDataset((), "")
    with pytest.raises(RuntimeError, match="got 0 captions for 5"):
        _score([({}, 1.0, 1)], val, toys.vocabulary())
    with pytest.raises(RuntimeError, match="got 1 captions for 0"):
        _score([({"a": None}, 1.0, 1)], none, toys.vocabulary())  # type: ignore[dict-item]


def test_half_an_environment_is_refused() -> None:
    assert ranks_in({}) == ranks_in({"RANK": "0", "WORLD_SIZE": "1"}) == 1
    with pytest.raises(ConfigError, match="MASTER_ADDR, MASTER_PORT are not"):
        ranks_in({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"})


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["regard", "train", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_without_fabric_two_devices_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    monkeypatch.setattr("regard.util.child_python.find_spec", lambda name: None)
    assert command(monkeypatch, "own-data", "--data", str(data), "--devices", "2") == 2
    assert "pip install 'regard[devices]'" in capsys.readouterr().err


def test_several_machines_need_a_meeting_point(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, "own-data", "--data", "a.csv", "--nodes", "2") == 2
    assert "MASTER_ADDR and NODE_RANK are not set" in capsys.readouterr().err
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("NODE_RANK", "2")
    assert command(monkeypatch, "own-data", "--data", "a.csv", "--nodes", "2") == 2
    assert "it is 0 to 1" in capsys.readouterr().err
