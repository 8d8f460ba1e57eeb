"""`regard train`: which recipe, which folder, and what is shown."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import regard.cli.progress
import regard.cli.train_command
from regard.cli.main import main
from regard.cli.progress import TrainingProgress
from regard.config import Recipe
from regard.training.devices import Devices


class Trained:
    """Stands for `regard.training.train` and remembers what it was asked."""

    recipe: Recipe
    out: Path
    resume: bool
    hardware: tuple[str, bool]
    stop = False

    def __call__(
        self,
        recipe: Recipe,
        out: Path,
        *,
        resume: bool,
        report: TrainingProgress,
        devices: Devices,
        precision: str,
        fit_memory: bool,
    ) -> Path:
        assert devices.world == 1
        assert devices.device.type == "cpu"
        self.recipe, self.out, self.resume = recipe, out, resume
        self.hardware = precision, fit_memory
        report.message("begun")
        if self.stop:
            raise KeyboardInterrupt
        return out / "best"


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Trained:
    found = Trained()
    monkeypatch.setattr("regard.training.train", found)
    monkeypatch.chdir(tmp_path)
    return found


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["regard", "train", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_a_shipped_recipe_with_settings(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "flickr8k-soft", "--set", "training.epochs=2", "--out", "mine") == 0
    assert trained.recipe.name == "flickr8k-soft"
    assert trained.recipe.training.epochs == 2
    assert (trained.out, trained.resume) == (Path("mine"), False)
    written = capsys.readouterr()
    assert written.out == f"{Path('mine/best')}\n"
    assert "begun" in written.err


@pytest.mark.parametrize(
    ("file", "recipe"), [("a.jpg", "own-data"), ("a.mp4", "own-clips"), ("a.nii.gz", "own-scans")]
)
def test_own_media_need_no_recipe(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, file: str, recipe: str
) -> None:
    Path("d").mkdir()
    Path("d/captions.csv").write_text(f"file,caption\n{file},a dog\n")
    run(monkeypatch, "--data", "d/captions.csv", "--images", "pictures", "--out", "m")
    assert trained.recipe.name == recipe
    assert trained.recipe.data.annotations == str(Path("d/captions.csv"))
    assert trained.recipe.data.images == "pictures"
    run(monkeypatch, "--data", "d/captions.csv", "--out", "m")
    assert trained.recipe.data.images == ""  # beside the captions
    run(monkeypatch, "flickr8k-soft", "--images", "elsewhere", "--out", "m")
    assert trained.recipe.data.images == "elsewhere"


def test_a_model_to_go_on_from_needs_no_recipe(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--init", "flickr8k-hard", "--data", "c.csv", "--images", "photos", "--out", "m"]
    assert run(monkeypatch, *given, "--set", "training.epochs=2") == 0
    recipe = trained.recipe
    assert (recipe.name, recipe.training.init_from) == ("fine-tune", "flickr8k-hard")
    assert (recipe.decoder.attention, recipe.objective.kind) == ("hard", "hard_attention")
    assert (recipe.data.annotations, recipe.data.images) == ("c.csv", "photos")
    assert recipe.training.epochs == 2
    assert run(monkeypatch, "flickr8k-hard", "--init", "flickr8k-soft", "--out", "m") == 0
    assert trained.recipe.training.epochs == 12
    capsys.readouterr()
    assert run(monkeypatch, "fine-tune", "--data", "c.csv", "--out", "m") == 2
    assert "Name it with --init" in capsys.readouterr().err
    assert run(monkeypatch, "--init", "nowhere", "--data", "c.csv", "--out", "m") == 2
    assert "no model 'nowhere'" in capsys.readouterr().err


def test_ranks_go_on_from_the_same_model(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def launch(arguments: list[str], *_: object) -> int:
        asked.append(arguments)
        return 0

    monkeypatch.setattr(regard.cli.train_command, "launch", launch)
    assert run(monkeypatch, "--init", "flickr8k-soft", "--data", "c.csv", "--devices", "2") == 0
    assert "--init flickr8k-soft" in " ".join(asked[0])
    assert "fine-tune" in asked[0][-1]  # the run's folder; no recipe is named


def test_a_run_is_never_written_over(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "flickr8k-soft")
    assert trained.out == Path("runs/flickr8k-soft")
    (trained.out / "last").mkdir(parents=True)
    run(monkeypatch, "flickr8k-soft")
    assert trained.out == Path("runs/flickr8k-soft-2")
    capsys.readouterr()
    assert run(monkeypatch, "flickr8k-soft", "--out", "runs/flickr8k-soft") == 2
    assert "holds a run already" in capsys.readouterr().err


def test_a_run_does_not_mix_with_what_is_no_run(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in ("photos/a.jpg", "model/config.json", "runs/flickr8k-soft/notes.txt"):
        Path(file).parent.mkdir(parents=True)
        Path(file).write_text("mine")
    for folder in ("photos", "model", "photos/a.jpg"):
        assert run(monkeypatch, "flickr8k-soft", "--out", folder) == 2
        assert "holds no run" in capsys.readouterr().err
    assert run(monkeypatch, "flickr8k-soft") == 0
    assert trained.out == Path("runs/flickr8k-soft-2")
    for name in ("annotations", "teacher1", ".cache"):
        Path("stopped", name).mkdir(parents=True)  # what a start leaves that was stopped
    assert run(monkeypatch, "flickr8k-soft", "--out", "stopped") == 0


def test_options_of_the_device_reach_the_run(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = ("xu2015-soft", "--set", "data.annotations=a.csv", "--device", "cpu")
    assert run(monkeypatch, *begin) == 0
    assert trained.hardware == ("", False)
    usual = trained.recipe.training.batch_size
    assert run(monkeypatch, *begin, "--precision", "bf16", "--batch-size", "auto") == 0
    assert trained.hardware == ("bf16", True)
    assert trained.recipe.training.batch_size == usual
    assert run(monkeypatch, *begin, "--batch-size", "7") == 0
    assert trained.hardware == ("", False)
    assert trained.recipe.training.batch_size == 7
    assert run(monkeypatch, *begin, "--batch-size", "many") == 2
    assert "training.batch_size" in capsys.readouterr().err
    assert run(monkeypatch, "--resume", "run", "--batch-size", "7") == 2
    assert "a number for --batch-size" in capsys.readouterr().err
    assert run(monkeypatch, "--resume", "run", "--batch-size", "auto") == 0
    assert trained.hardware == ("", True)
    assert run(monkeypatch, *begin[:-1], "cuda:7") == 2
    assert "device 'cuda:7' cannot be used" in capsys.readouterr().err


def test_resuming_takes_the_runs_own_recipe(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--resume", "runs/a") == 0
    assert (trained.out, trained.resume) == (Path("runs/a"), True)
    for clash in (["flickr8k-soft"], ["--set", "a.b=1"], ["--out", "b"], ["--data", "c.csv"],
                  ["--init", "flickr8k-soft"]):  # fmt: skip
        assert run(monkeypatch, "--resume", "runs/a", *clash) == 2
        assert "Leave out" in capsys.readouterr().err


def test_a_stopped_run_says_how_to_go_on(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.stop = True
    assert run(monkeypatch, "flickr8k-soft", "--out", "mine") == 130
    assert "starts it again" in capsys.readouterr().err  # nothing to resume yet
    Path("mine/last").mkdir(parents=True)
    assert run(monkeypatch, "--resume", "mine") == 130
    assert "regard train --resume mine" in capsys.readouterr().err


def report(console: Console) -> None:
    with TrainingProgress(console) as watcher:
        for step in (1, 2):
            watcher.progress(step, 10, 250.4, {"nll_per_word": 3.25}, 3700.0)
        watcher.evaluated(1, {"cider_d": 46.12, "loss": 2.5}, [("a[1].jpg", "a [red] dog")])


def test_a_terminal_shows_a_bar_scores_and_samples() -> None:
    shown = io.StringIO()
    report(Console(file=shown, force_terminal=True, width=120))
    text = shown.getvalue()
    assert "step 2/10" in text
    assert "250 captions/s, nll_per_word 3.250, 1:01:40 left" in text
    assert "epoch 1: cider_d 46.1, loss 2.500" in text
    assert "a[1].jpg: a [red] dog" in text


def encode(console: Console) -> str:
    with TrainingProgress(console) as watcher:
        for done in range(10, 101, 10):
            watcher.encoded(done, 100)
        watcher.progress(1, 10, 250.4, {"nll_per_word": 3.25}, 3700.0)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_encoding_moves_a_bar_that_goes_when_all_is_encoded() -> None:
    text = encode(Console(file=io.StringIO(), force_terminal=True, width=120))
    assert "encoding, mirrored views too" in text
    assert "view" not in text[text.rindex("step 1/10") :]


def test_encoding_writes_a_line_now_and_then_to_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = encode(Console(file=io.StringIO(), force_terminal=False))
    assert quiet == "encoded 100 views\n"
    monkeypatch.setattr(regard.cli.progress, "_LINE_EVERY", 0.0)
    often = encode(Console(file=io.StringIO(), force_terminal=False))
    assert "view 30/100: encoding" in often


@pytest.mark.parametrize(("every", "lines"), [(0.0, 2), (30.0, 0)])
def test_a_file_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, every: float, lines: int
) -> None:
    monkeypatch.setattr(regard.cli.progress, "_LINE_EVERY", every)
    shown = io.StringIO()
    report(Console(file=shown, force_terminal=False))
    text: Any = shown.getvalue()
    assert "\x1b" not in text
    assert text.count("captions/s") == lines
    assert "epoch 1:" in text


@pytest.mark.parametrize(
    ("encoder", "name", "size", "level"),
    [
        ("clip-vit-b16", "clip_vit_b16", 224, "last"),
        ("lite0", "efficientnet_lite0", 224, "stride32"),
        ("lite2", "efficientnet_lite2", 288, "stride32"),
        ("timm:resnet50", "timm:resnet50", 224, "-1"),
    ],
)
def test_an_encoder_by_one_option(
    trained: Trained,
    monkeypatch: pytest.MonkeyPatch,
    encoder: str,
    name: str,
    size: int,
    level: str,
) -> None:
    assert run(monkeypatch, "flickr8k-tuned", "--encoder", encoder, "--out", "m") == 0
    found = trained.recipe.encoder
    assert (found.name, found.image_size, found.level) == (name, size, level)
    assert (found.resize, found.trainable, found.frozen_blocks) == ("squash", False, 0)
    run(monkeypatch, "own-data", "--encoder", encoder, "--set", "encoder.image_size=320")
    assert trained.recipe.encoder.image_size == 320
    run(monkeypatch, "own-clips", "--encoder", encoder)
    assert trained.recipe.encoder.medium == "video"


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("own-data", "--encoder", "lite1"), "unknown encoder 'lite1'. Did you mean 'lite"),
        (("--init", "flickr8k-soft", "--encoder", "lite0"), "Leave one of them out"),
        (("--resume", "m", "--encoder", "lite0"), "--images, --encoder, --init"),
    ],
)
def test_encoders_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    reason: str,
) -> None:
    assert run(monkeypatch, *arguments) == 2
    assert reason in " ".join(capsys.readouterr().err.split())
