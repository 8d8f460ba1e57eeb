"""The example scripts run, and the page about one step shows what its script prints."""

import json
import re
import runpy
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def numbers(text: str) -> dict[str, list[str]]:
    """Lines of the form `name  number  number`."""
    lines = re.findall(r"^(\w+) +((?:-?\d+\.\d+ *)+)$", text, re.MULTILINE)
    return {name: values.split() for name, values in lines}


def test_one_step_agrees_with_the_library_and_with_its_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runpy.run_path(str(ROOT / "examples" / "one_step.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "The library finds the same numbers." in printed
    assert len(numbers(printed)) == 13
    assert numbers((ROOT / "docs" / "one-step.md").read_text("utf-8")) == numbers(printed)


def test_one_step_notices_a_different_library() -> None:
    example = runpy.run_path(str(ROOT / "examples" / "one_step.py"))
    values = vars(example["by_hand"]())
    values = values | {"h_1": [values["h_1"][0] + 1e-3, values["h_1"][1]]}
    with pytest.raises(AssertionError, match="h_1"):
        example["check"](example["Numbers"](**values))


def test_the_clip_shows_three_photographs_for_two_seconds_each(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    example = runpy.run_path(str(ROOT / "examples" / "make_clip.py"))
    example["make_clip"](tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as clip:
        frames = [frame.to_ndarray(format="rgb24").astype(float) for frame in clip.decode(video=0)]
    assert len(frames) == 90
    steps = [abs(a - b).mean() for a, b in pairwise(frames)]
    cuts = sorted(range(len(steps)), key=steps.__getitem__)[-2:]
    assert sorted(cuts) == [29, 59]


def test_learning_curves_are_drawn_from_the_logs_of_runs(tmp_path: Path) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "learning_curves.py"))
    runs = [tmp_path / "one", tmp_path / "other"]
    for k, run in enumerate(runs):
        run.mkdir()
        lines = [
            {"kind": "evaluation", "epoch": 0, "cider_d": 0.1 + k, "loss": 5.0},
            {"kind": "train", "step": 1, "loss": 60.0},
            {"kind": "evaluation", "epoch": 1, "cider_d": 30.0 + k, "loss": 3.0},
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (run / "log.jsonl").write_text(text)
    assert [record["cider_d"] for record in example["evaluations"](runs[1])] == [1.1, 31.0]
    example["draw"](runs, "cider_d", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
