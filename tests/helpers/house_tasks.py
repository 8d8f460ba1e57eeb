"""Traces of one caption and of one training step: which of the package's files they enter.

`python -m tests.helpers.house_tasks caption` (or `step`) runs the task in its own process and
prints the files as JSON; `traced` starts that process. A file is entered when one of its functions
is called.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

SAMPLE = "samples/dog.jpg"
STEP_STARTS = "plan_epoch"
"""The function that the training loop asks for its first batch."""
STEP_ENDS = "progress"
"""The method of a training run's reporter that is called after every update."""

ROOT = Path(__file__).parents[2]


@cache
def source() -> Path:
    """Return the folder of the package, without importing it."""
    spec = importlib.util.find_spec("regard")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


class Recorder:
    """Records the package's files whose functions are called, on all threads."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self._folder = str(source()) + os.sep

    def start(self) -> None:
        """Start recording. Functions that are already running count as called."""
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            self._called(frame, "call", None)
            frame = frame.f_back
        threading.setprofile(self._called)
        sys.setprofile(self._called)

    def stop(self) -> None:
        """Stop recording."""
        threading.setprofile(None)
        sys.setprofile(None)

    def _called(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(self._folder) and _is_function(code):
            self.files.add(code.co_filename.removeprefix(self._folder))


def _is_function(code: CodeType) -> bool:
    """Return whether code is a function's.

    Bodies of modules and classes run at import and do not count. Comprehensions do not count
    either, since they may be part of such a body.
    """
    optimized = bool(code.co_flags & inspect.CO_OPTIMIZED)
    return optimized and not code.co_name.endswith(("comp>", "genexpr>"))


def trace_caption() -> dict[str, list[str]]:
    """Caption the sample by the command line, in this process."""
    sys.argv = ["regard", "caption", str(source() / SAMPLE)]
    recorder = Recorder()
    recorder.start()
    try:
        runpy.run_module("regard", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(f"regard caption ended with status {ended.code}") from ended
    recorder.stop()
    imported = [name for name in sys.modules if name.split(".")[0] == "regard"]
    return {"files": sorted(recorder.files), "modules": sorted(imported)}


class _StepMade(Exception):
    """Stops the training run after its first update."""


class _Reporter:
    """Accepts every report of a training run and stops the run after the first update."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __getattr__(self, name: str) -> Callable[..., None]:
        return self._end if name == STEP_ENDS else lambda *_: None

    def _end(self, *_: object) -> None:
        self._recorder.stop()
        raise _StepMade


def _start_at_first_batch(recorder: Recorder) -> None:
    """Make the recorder start when the training loop asks for its first batch."""

    def watched(function: Callable[..., object]) -> Callable[..., object]:
        def start(*args: object, **kwargs: object) -> object:
            recorder.start()
            return function(*args, **kwargs)

        return start

    loaded = [vars(module) for name, module in sys.modules.items() if name.startswith("regard.")]
    users = [names for names in loaded if STEP_STARTS in names]
    assert users, f"no module has a function {STEP_STARTS}"
    for names in users:
        names[STEP_STARTS] = watched(names[STEP_STARTS])


def _write_pictures(folder: Path) -> Path:
    """Write eight small pictures of one colour each; return the CSV of their captions."""
    from PIL import Image

    lines = ["file,caption,split"]
    for i in range(8):
        Image.new("RGB", (64, 64), (30 * i, 90, 255 - 30 * i)).save(folder / f"{i}.png")
        split = "val" if i % 4 == 3 else "train"
        lines += [f"{i}.png,a {word} runs,{split}" for word in ("dog", "cat")]
    captions = folder / "captions.csv"
    captions.write_text("\n".join(lines) + "\n", "utf-8")
    return captions


def _recipe(folder: Path) -> Any:
    """Return a recipe like the shipped soft one with a small decoder and small pictures."""
    import regard

    recipe = regard.Recipe()
    changes = {
        "data": {"annotations": str(_write_pictures(folder)), "images": str(folder)},
        "encoder": {"image_size": 64},
        "decoder": {"embedding_dim": 8, "hidden_dim": 10, "attention_dim": 7, "feature_dim": 12},
        "objective": {"label_smoothing": 0.1, "lambda_ds": 0.1},
        "optimizer": {"name": "adamw", "schedule": "cosine", "ema_decay": 0.998},
        "training": {"batch_size": 4, "captions_per_image": 2},
        "evaluation": {"diary_pictures": 0},
    }
    changes["data"] |= {"min_count": 1, "flip": True}
    changes["decoder"] |= {"annotation_norm": True, "gate": "scalar", "dropout": 0.5}
    sections = {name: replace(getattr(recipe, name), **values) for name, values in changes.items()}
    return replace(recipe, **sections)


def trace_step() -> dict[str, list[str]]:
    """Train soft attention on stored annotations for one step, in this process."""
    sys.modules["onnxscript"] = None  # type: ignore[assignment]  # else the encoder is traced: 10 s
    import regard

    train, recorder = regard.train, Recorder()
    _start_at_first_batch(recorder)
    with tempfile.TemporaryDirectory() as name:
        try:
            train(_recipe(Path(name)), Path(name) / "run", report=_Reporter(recorder))
        except _StepMade:
            return {"files": sorted(recorder.files)}
    raise AssertionError(f"the reporter's {STEP_ENDS} was never called")


@cache
def traced(task: str) -> dict[str, list[str]]:
    """Run a task in a process of its own; return the files and modules it used."""
    paths = [str(source().parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.house_tasks", task],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


TASKS = {"caption": trace_caption, "step": trace_step}

if __name__ == "__main__":
    print(json.dumps(TASKS[sys.argv[1]]()))
