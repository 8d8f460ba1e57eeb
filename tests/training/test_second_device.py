"""Training and captions on a second device: all tensors lie there, the numbers are the CPU's.

The device is that of `tests.helpers.toy_card`, which raises where tensors of two devices meet.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from regard.captioner import Captioner
from regard.errors import ConfigError, DeviceError
from regard.model.attention import AdditiveScores
from regard.model.decoder import AttentionDecoder
from regard.model.encoders.small_cnn import SmallCNN
from regard.recipes import override
from regard.training import train
from regard.training.devices import Devices
from regard.training.logs import Silent
from regard.training.loop import train_step
from regard.training.objectives import cross_entropy
from regard.training.objectives.base import Batch, Loss
from regard.training.objectives.cross_entropy import CrossEntropy
from regard.training.objectives.reinforce import HardAttentionObjective
from regard.training.setup import TrainingRun, prepare_run
from tests.helpers import toy_card, toys
from tests.helpers.together import curve
from tests.training.test_devices import KINDS, toy_recipe

TOY = toy_card.install()


class Notes(Silent):
    """Keeps the messages of a run; stops it at a step."""

    def __init__(self, last_step: int = 10**9) -> None:
        self.lines: list[str] = []
        self.last_step = last_step

    def message(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, step: int, *_: object) -> None:
        if step == self.last_step:
            raise InterruptedError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """17 training and 5 val pictures, encoded by the first run."""
    folder = tmp_path_factory.mktemp("data")
    toys.write_data(folder, 22)
    return folder


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=() if k in ("soft", "hard") else pytest.mark.slow) for k in KINDS],
)
def test_fifty_steps_have_the_losses_of_the_cpu(kind: str, data: Path) -> None:
    """Dropout, views, sampled cells and captions are the same, because the CPU draws them."""
    recipe = toy_recipe(
        data, kind, "training.batch_size=8", "training.epochs=10", "training.save_every=0",
        "evaluation.limit=2", "evaluation.diary_pictures=0",
    )  # fmt: skip
    for device in ("cpu", "toy"):
        train(recipe, data / f"{kind}-{device}", device=device)
    wanted = curve(data / f"{kind}-cpu")
    assert len(wanted) == 50
    rounding = 1e-2 if kind == "bf16" else 1e-4
    assert curve(data / f"{kind}-toy") == pytest.approx(wanted, rel=rounding)
    if kind != "bf16":
        wanted = curve(data / f"{kind}-cpu", "cider_d", "evaluation")
        assert curve(data / f"{kind}-toy", "cider_d", "evaluation") == pytest.approx(wanted, 1e-4)


@pytest.mark.parametrize("resident", ["on", "off"])
def test_annotations_on_the_device_or_read_ahead_are_the_same(
    resident: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = toy_recipe(data, "soft", f"training.resident={resident}", "training.accumulate=2")
    notes = Notes()
    train(recipe, tmp_path / "toy", device="toy", report=notes)
    train(recipe, tmp_path / "cpu", device="cpu")
    assert curve(tmp_path / "toy") == pytest.approx(curve(tmp_path / "cpu"), rel=1e-5)
    assert any("are resident on toy" in line for line in notes.lines) == (resident == "on")
    run = prepare_run(recipe, tmp_path / "run", False, Silent(), Devices("toy"))
    run.pictures.make_resident(resident)
    assert run.pictures.is_resident == (resident == "on")
    if not run.pictures.reads_ahead:
        return
    chunks = [run.chunks[:4], run.chunks[4:8]]
    train_step(run, chunks[0], 1.0, chunks[1])
    monkeypatch.setattr(run.pictures, "_read_batch", lambda *_: pytest.fail("it was read before"))
    train_step(run, chunks[1], 1.0)


@pytest.mark.parametrize(("first", "second"), [("cpu", "toy"), ("toy", "cpu")])
def test_a_run_goes_on_on_another_device(
    first: str, second: str, data: Path, tmp_path: Path
) -> None:
    recipe = toy_recipe(data, "hard")
    train(recipe, tmp_path / "whole", device="cpu")
    with pytest.raises(Exception, match="cannot continue|^$"):
        train(recipe, tmp_path / "run", device=first, report=Notes(5))
    notes = Notes()
    best = train(recipe, tmp_path / "run", resume=True, device=second, report=notes)
    assert any(f"saved on {first} and continues on {second}" in line for line in notes.lines)
    assert curve(tmp_path / "run") == pytest.approx(curve(tmp_path / "whole"), rel=1e-5)
    saved = torch.load(tmp_path / "run" / "last" / "training.pt", weights_only=True)
    assert all(type(w) is Tensor and w.device.type == "cpu" for w in saved["decoder"].values())
    picture = toys.picture(1)
    texts = {Captioner.load(best, device=d).caption(picture).text for d in ("cpu", "toy")}
    assert len(texts) == 1


# Strays


def add_stray(function: Any) -> Any:
    def with_stray(*args: Any, **settings: Any) -> Any:
        found = function(*args, **settings)
        if found.dim():
            return found + torch.zeros(found.shape[-1])
        return (found + torch.zeros(2)).mean()

    return with_stray


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (cross_entropy, "doubly_stochastic"),
        (cross_entropy, "caption_logprob"),
        (AdditiveScores, "forward"),
        (AttentionDecoder, "_deepen"),
        (SmallCNN, "forward"),
    ],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_a_tensor_of_the_cpu_is_found(
    owner: Any, name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = toy_recipe(data, "fine-tuned", "training.epochs=1")
    monkeypatch.setattr(owner, name, add_stray(getattr(owner, name)))
    train(recipe, tmp_path / "cpu", device="cpu")
    with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
        train(recipe, tmp_path / "toy", device="toy")


def test_a_generator_of_the_cpu_is_found() -> None:
    with pytest.raises(RuntimeError, match="device type for generator"):
        torch.empty(3, device=TOY).uniform_(generator=torch.Generator())


@pytest.mark.parametrize("attention", ["soft", "hard"])
@pytest.mark.parametrize("scores", ["additive", "dot", "uniform"])
def test_losses_and_gradients_stay_on_the_meta_device(attention: str, scores: str) -> None:
    decoder = toys.decoder(
        attention=attention, scores=scores, position="sinusoidal", grid_shape=(2, 2),
        feature_dim=5, annotation_norm=True, dropout=0.3, embedding_dropout=0.1,
    ).train()  # fmt: skip
    tokens = torch.tensor([[1, 5, 6, 0], [1, 5, 0, 0], [1, 7, 8, 5], [1, 5, 5, 0]])
    cells = torch.ones(2, 4, dtype=torch.bool)
    batch = Batch(torch.randn(2, 4, 6), cells, tokens, tokens.roll(-1, 1), tokens != 0, (0, 1))
    meta = torch.device("meta")
    decoder, batch = decoder.to(meta), batch.to(meta)
    config = toys.recipe().objective
    objective = CrossEntropy(config) if attention == "soft" else HardAttentionObjective(config)
    projected = decoder.project(batch.vectors, batch.mask)
    loss = objective.to(meta).loss(decoder, projected, batch, torch.Generator())
    loss.total.backward()
    assert {loss.total.device, *(part.device for part in loss.parts.values())} == {meta}
    assert all(p.grad is None or p.grad.device == meta for p in decoder.parameters())
    assert loss.words == 12


# Captions


@pytest.mark.parametrize(
    "options",
    [
        {"beam": 3},
        {"method": "greedy"},
        {"method": "sample", "seed": 3},
        {"beam": 2, "block_ngram": 2, "length_penalty": 0.7, "n_best": 2},
    ],
    ids=str,
)
def test_captions_are_those_of_the_cpu(options: dict[str, Any]) -> None:
    captioner = toys.captioner(gate="feature", position="learned")
    moved = captioner.to("toy")
    assert (captioner.device, moved.device) == ("cpu", "toy:0")
    pictures = [toys.picture(seed) for seed in range(5)]
    for one, other in zip(
        captioner.caption(pictures, max_length=8, **options),
        moved.caption(pictures, max_length=8, **options),
        strict=True,
    ):
        assert one.text == other.text
        assert one.score == pytest.approx(other.score, abs=1e-5)


@pytest.mark.parametrize("context", ["expected", "argmax", "sample"])
def test_hard_attention_looks_at_the_same_cells(context: str) -> None:
    soft = toys.captioner()
    decoder = toys.decoder(
        annotation_dim=soft.encoder.annotation_dim, attention="hard", grid_shape=(2, 2)
    )
    recipe = replace(
        soft.config,
        decoder=decoder.config,
        objective=replace(soft.config.objective, kind="hard_attention"),
    )
    captioner = Captioner(soft.encoder, decoder, soft.vocabulary, recipe, name="hard", device="cpu")
    found = [
        one.caption(toys.picture(), context=context, max_length=6)
        for one in (captioner, captioner.to("toy"))
    ]
    assert found[0].text == found[1].text
    assert [w.location for w in found[0].words] == [w.location for w in found[1].words]


# Memory


def full(size: str = "2.50 GiB") -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError(
        f"CUDA out of memory. Tried to allocate {size}. GPU 0 has a total capacity of 79.11 GiB of "
        "which 1.20 GiB is free. Process 7 has 77.90 GiB memory in use."
    )


@pytest.fixture
def two_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory in which two pictures of a batch have room, and no more."""
    whole = CrossEntropy.loss

    def loss(self: CrossEntropy, decoder: Any, projected: Any, batch: Batch, draws: Any) -> Loss:
        if len(batch.items) > 2:
            raise full()
        return whole(self, decoder, projected, batch, draws)

    monkeypatch.setattr(CrossEntropy, "loss", loss)


@pytest.mark.parametrize("device", ["cpu", "toy"])
def test_a_batch_that_does_not_fit_takes_more_passes(
    device: str, data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    recipe = toy_recipe(data, "soft", "training.batch_size=12")
    train(recipe, tmp_path / "whole", device=device)
    request.getfixturevalue("two_pictures")
    notes = Notes()
    train(recipe, tmp_path / "run", device=device, report=notes, fit_memory=True)
    assert curve(tmp_path / "run") == pytest.approx(curve(tmp_path / "whole"), rel=1e-5)
    said = [line for line in notes.lines if "the memory of" in line]
    assert len(said) == 2  # 6 pictures, then 3, then 2
    assert "each batch now takes 4 passes, of 2 pictures or fewer" in said[-1]
    saved = torch.load(tmp_path / "run" / "last" / "training.pt", weights_only=True)
    assert saved["position"]["passes"] == 4


def test_full_memory_says_how_much_was_asked_for_and_what_to_change(
    data: Path, tmp_path: Path, two_pictures: None
) -> None:
    recipe = toy_recipe(data, "soft", "training.batch_size=12", "training.resident=on")
    with pytest.raises(DeviceError) as raised:
        train(recipe, tmp_path / "run", device="toy")
    message = str(raised.value)
    assert (
        "the memory of toy:0 is full: 2.50 GiB more were requested, but only 1.20 GiB are"
        in message
    )
    for advice in ("--batch-size auto, a number below 12", "--precision bf16. Or set",
                   "training.resident to off."):  # fmt: skip
        assert advice in message
    assert isinstance(raised.value, ConfigError)


def test_other_errors_are_not_taken_for_full_memory(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Loss:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(CrossEntropy, "loss", broken)
    with pytest.raises(RuntimeError, match="^shapes differ$"):
        train(toy_recipe(data), tmp_path / "run", device="cpu", fit_memory=True)


# fp16


def prepared(data: Path, folder: Path, device: str) -> TrainingRun:
    recipe = toy_recipe(data, "soft", "training.precision=fp16")
    return prepare_run(recipe, folder, False, Silent(), Devices(device))


@pytest.mark.parametrize("device", ["cpu", "toy"])
def test_fp16_scales_the_loss_and_skips_steps_that_overflow(
    device: str, data: Path, tmp_path: Path
) -> None:
    run = prepared(data, tmp_path / "run", device)
    state = run.state
    assert state.scales_loss
    before = [p.detach().clone() for p in state.parameters()]
    state.loss_scale = 2.0**126
    update = train_step(run, run.chunks[:4], 1.0)
    assert update.loss > 0
    assert state.loss_scale == 2.0**125
    assert all(torch.equal(p, b) for p, b in zip(state.parameters(), before, strict=True))
    state.loss_scale, state.unscaled_steps = 2.0**10, 1999
    train_step(run, run.chunks[:4], 1.0)
    assert (state.loss_scale, state.unscaled_steps) == (2.0**11, 0)
    assert any(not torch.equal(p, b) for p, b in zip(state.parameters(), before, strict=True))


def test_fp16_learns_as_fp32_does(data: Path, tmp_path: Path) -> None:
    for precision in ("fp16", "fp32"):
        recipe = toy_recipe(data, "soft", "training.epochs=4")
        train(recipe, tmp_path / precision, device="cpu", precision=precision)
        stored = json.loads((tmp_path / precision / "best" / "config.json").read_text())
        assert stored["recipe"]["training"]["precision"] == precision
    wanted = curve(tmp_path / "fp32")
    assert curve(tmp_path / "fp16") == pytest.approx(wanted, rel=2e-2)


def test_a_resumed_run_may_change_its_precision(data: Path, tmp_path: Path) -> None:
    recipe = toy_recipe(data, "soft", "training.epochs=1", "training.precision=fp16")
    train(recipe, tmp_path / "run", device="cpu")
    run = prepare_run(recipe, tmp_path / "run", True, Silent(), Devices(), "fp32")
    assert run.recipe.training.precision == "fp32"
    assert not run.state.scales_loss
    with pytest.raises(ConfigError, match=r"training\.precision"):
        override(recipe, ["training.precision=fp8"])
