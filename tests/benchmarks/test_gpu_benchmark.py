"""The benchmark of GPUs runs, and counts what its documentation works out by hand."""

import json

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import gpu_work
from benchmarks.__main__ import app
from benchmarks.gpu import measure_gpu
from regard.errors import ConfigError
from regard.text.vocabulary import END, PAD, START


@pytest.mark.parametrize("as_json", [False, True], ids=["tables", "JSON"])
def test_it_runs_in_a_tiny_form(as_json: bool) -> None:
    with torch.random.fork_rng():
        done = CliRunner().invoke(app, ["gpu", "--small", *["--json"] * as_json])
    assert done.exit_code == 0, done.output
    if not as_json:
        assert "| beam 3 | |" in done.stdout
        return
    figures = json.loads(done.stdout)
    large = figures["training, large batch"]
    assert large["captions a batch"] == 40
    assert large["captions/s"] * large["epoch, s"] == pytest.approx(24 * 5)
    assert len(large["nats a word in each tenth of the first epoch"]) == 3
    assert figures["beam 3"]["captions/s"] > 0
    assert figures["pictures"]["pictures/s from JPEG"] > 0
    assert figures["kernels against float64"]["worst relative error"] < 1e-4


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="No CUDA device is available; --small tries"):
        measure_gpu(tiny=False)


def test_the_counts_are_those_worked_out_by_hand() -> None:
    coco = gpu_work.Sizes()
    assert coco.pictures * coco.captions == 566_435
    # 2 (2·196·512² + 4·512²) once, and 3·17,984,512 + 401,408 for each of 21 words and 2 ends
    assert gpu_work.train_flops(coco, 1, 2, 21) == 2 * 103_809_024 + 23 * 54_354_944
    picture = 196 * 512 * 2
    assert gpu_work.step_bytes(coco, 3, backward=False) == 3 * 2 * picture
    assert gpu_work.step_bytes(coco, 3, backward=True) == 3 * 3 * picture
    moved = gpu_work.train_bytes(coco, 204, 14, 14_000_000)
    assert moved["attention, forward"] == 14 * 204 * 2 * picture
    assert moved["attention, backward"] == (14 * 2 + 1) * 204 * picture
    assert moved["logits"] == 5 * 1020 * 14 * 9490 * 2
    assert moved["weights, gradients, Adam"] == 448e6
    assert gpu_work.beam_bytes(coco, 10, 3, 11)["logits"] == 2 * 10 * 3 * 11 * 9490 * 2


def test_captions_of_the_random_data_are_whole() -> None:
    made = gpu_work.draw_data(gpu_work.TINY, torch.device("cpu"))
    assert made.vectors.shape == (24, 9, 16)
    assert made.vectors.dtype == torch.bfloat16
    assert made.lengths.min() >= 3
    assert made.lengths.max() <= 6
    assert made.lengths.float().mean().item() == pytest.approx(4.5, abs=0.3)
    for row, length in zip(made.tokens.flatten(0, 1), made.lengths.flatten(), strict=True):
        words = row[1 : length + 1]
        assert row[0] == START
        assert row[length + 1] == END
        assert (row[length + 2 :] == PAD).all()
        assert ((words > END + 1) & (words < 60)).all()
    assert max(chunk.length for chunk in made.chunks()) == made.lengths.max()
