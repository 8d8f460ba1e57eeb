"""The benchmarks in a short form: their records, and ratios that a twofold regression breaks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from benchmarks.__main__ import app, main
from benchmarks.caption import make_pictures
from benchmarks.decode import DecodeWork, make_run, measure_decoding
from benchmarks.measure import Timed
from benchmarks.memory import peak_of
from benchmarks.train import TrainWork, measure_training
from benchmarks.workload import (
    Sizes,
    caption_lengths,
    decode_operations,
    make_batch,
    step_operations,
)
from regard.captioner import Captioner

SMALL = Sizes(16, 12, 10, 9, 7, 40)
KEYS = ("captions_per_s", "share_of_gemm_peak", "peak_rss_mb", "ratio_to_textbook",
        "ratio_to_plain", "seconds")  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads that wait for each other on a busy machine measure the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(*arguments: str) -> dict:
    found = CliRunner().invoke(app, [*arguments, "--json"])
    assert found.exit_code == 0, found.output
    record = json.loads(found.stdout)
    assert set(KEYS) <= set(record)
    return record


def test_lengths_are_those_of_captions() -> None:
    lengths = caption_lengths(20_000, np.random.default_rng(0))
    assert (lengths.min(), lengths.max()) == (7, 20)
    assert lengths.mean() == pytest.approx(10.5, abs=0.05)
    assert lengths.std() == pytest.approx(2.4, abs=0.1)


def test_operations_by_hand() -> None:
    """D = 2, E = 3, H = 5, A = 7, L = 11, V = 13; one picture, one caption, four words read."""
    sizes = Sizes(2, 3, 5, 7, 11, 13, gate="feature")
    of_word = 2 * 5 * 7 + 4 * 11 * 7 + 2 * 11 * 2 + 2 * 5 * 2 + 8 * 5 * (3 + 2 + 5)
    of_word += 2 * 5 * 3 + 2 * 2 * 3 + 2 * 3 * 13
    once = 2 * 11 * 2 * 7 + 4 * 2 * 5
    assert decode_operations(sizes, 4, 1) == once + 4 * of_word
    context = 2 * 11 * 2
    assert step_operations(sizes, 4, 1, 1) == 2 * (once + 4 * context) + 3 * 4 * (of_word - context)


def test_the_operations_without_deep_output_are_the_literatures() -> None:
    """0.813 and 1.721 GFLOP per caption of 10.5 words, as published without deep output."""
    for features, published in ((512, 0.813), (2048, 1.721)):
        sizes = Sizes(annotation_dim=features)
        deep = 3 * 11.5 * (2 * 512 * 512 + 2 * features * 512)
        assert (step_operations(sizes, 115, 10, 10) / 10 - deep) / 1e9 == pytest.approx(
            published, rel=0.01
        )


def test_every_implementation_says_captions_of_the_given_lengths() -> None:
    work = DecodeWork(SMALL, pictures=9, batch=4, beam=3)
    ours, plain = (make_run(name, work)[0]() for name in ("regard", "plain"))
    textbook = make_run("textbook", work)[0]()
    assert [len(c) for c in ours] == caption_lengths(9, np.random.default_rng(0)).tolist()
    assert ours == plain
    assert ours[: len(textbook)] == textbook


def test_batches_share_pictures() -> None:
    batch = make_batch(4, 3, SMALL)
    assert (len(batch.vectors), len(batch.tokens)) == (4, 12)


def test_training_is_not_slower_than_the_others() -> None:
    sizes = Sizes(64, 64, 64, 64, 49, 1000)
    report = measure_training(TrainWork(sizes, batch=32), rounds=5, memory=False, square=256)
    assert report.ratio_to_textbook is not None
    assert report.ratio_to_plain is not None
    assert report.ratio_to_textbook > 0.7
    assert report.ratio_to_plain > 0.4
    assert report.share_of_gemm_peak is not None
    assert 0 < report.share_of_gemm_peak < 1


def test_decoding_is_faster_than_the_others() -> None:
    sizes = Sizes(64, 64, 64, 64, 49, 2000)
    report = measure_decoding(
        DecodeWork(sizes, pictures=32, batch=32), rounds=3, memory=False, square=256
    )
    assert report.ratio_to_textbook is not None
    assert report.ratio_to_plain is not None
    assert report.ratio_to_textbook > 1.5
    assert report.ratio_to_plain > 0.6


def test_memory_is_that_of_a_process_of_its_own() -> None:
    arguments = {"items": 20, "captions_per_item": 1, "sizes": None}
    with pytest.raises(Exception, match="make_batch failed"):
        peak_of("benchmarks.workload", "make_batch", arguments, 1)
    taken = peak_of("benchmarks.memory", "peak", {}, 1)
    assert 0 <= taken < 20
    work = TrainWork(SMALL, batch=4).to_json()
    assert taken < peak_of("benchmarks.train", "run_steps", {"name": "regard", "work": work}, 1)


def test_pictures_are_distinct_and_of_one_size(tmp_path: Path) -> None:
    make_pictures(tmp_path, 8)
    files = sorted(tmp_path.iterdir())
    assert len({f.read_bytes() for f in files}) == 8
    for file in files:
        with Image.open(file) as picture:
            assert picture.size == (640, 480)


def test_the_commands_write_their_record() -> None:
    small = ("--annotation-dim", "8", "--cells", "4", "--vocabulary", "30", "--no-memory")
    record = run(
        "train", *small, "--threads", "1", "--batch", "4", "--rounds", "2", "--against", "plain"
    )
    assert record["ratio_to_plain"] > 0
    assert record["ratio_to_textbook"] is None
    record = run("decode", *small, "--pictures", "4", "--against", "none")
    assert record["captions_per_s"] > 0
    record = run("store", *small[:4], "--rows", "32", "--batch", "8", "--rounds", "3")
    assert record["rows_per_s"] > 0
    assert 0 < record["waiting_share"] < 1


def test_captions_take_the_threads_that_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int | None] = []
    real = Captioner.accelerated

    def accelerated(self: Captioner, pictures: int, *, cores: int | None = None) -> Captioner:
        taken.append(cores)
        return real(self, pictures, cores=cores)

    monkeypatch.setattr(Captioner, "accelerated", accelerated)
    record = run(
        "caption",
        "--pictures",
        "2",
        "--beam",
        "1",
        "--rounds",
        "1",
        "--threads",
        "1",
        "--no-memory",
    )
    assert taken == [1]
    assert record["settings"]["threads"] == 1


def test_the_textbook_is_compared_by_the_words_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its few pictures may have shorter captions than all of them."""
    work = DecodeWork(SMALL, pictures=6)
    reads = (caption_lengths(6, np.random.default_rng(0)) + 1).astype(float)
    monkeypatch.setattr(
        "benchmarks.decode.take_turns", lambda turns, **_: Timed({name: [1.0] for name in turns})
    )
    monkeypatch.setattr("benchmarks.decode.GemmPeak", lambda _: SimpleNamespace(rate=1.0))
    found = measure_decoding(work, against=("textbook",), memory=False)
    assert found.ratio_to_textbook == pytest.approx(reads.sum() / reads[:4].sum())
    read = int((3 * (reads - 1) + 1).sum())  # the first word by one row, the rest by three
    assert found.share_of_gemm_peak == pytest.approx(decode_operations(work.sizes, read, 6))


def test_wrong_settings_are_refused() -> None:
    for arguments in (("start", "--rounds", "0"), ("train", "--batch", "0"),
                      ("decode", "--pictures", "0"),
                      ("train", "--precision", "fp8"), ("decode", "--against", "both"),
                      ("train", "--batch", "5", "--captions-per-image", "2")):  # fmt: skip
        found = CliRunner().invoke(app, list(arguments))
        assert found.exit_code != 0


def test_an_error_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "decode", "--against", "both"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "benchmarks: --against is 'both'; it must be textbook, plain or none.\n"
    )


def test_it_runs_from_the_root_of_a_checkout() -> None:
    command = [sys.executable, "-m", "benchmarks", "--help"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    for name in ("train", "decode", "caption", "store", "start", "gpu"):
        assert name in done.stdout
