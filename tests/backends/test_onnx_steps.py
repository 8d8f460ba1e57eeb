"""Compiled steps in the place of a graph's: the same captions, traces and locations."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import regard
from regard.backends.onnx_backend import OnnxBackend
from regard.captioner import Captioner
from regard.checkpoint.folder import Checkpoint, load_checkpoint
from regard.errors import ConfigError
from regard.native import cpp_library
from regard.native.cpp_library import library
from regard.native.cpp_step import CppStep, StepWeights
from regard.pretrained import shipped_models
from regard.types import DecoderState
from tests.helpers.alike import assert_same

pytestmark = pytest.mark.skipif(library("float32") is None, reason="no C++ compiler")

SAMPLES = Path(regard.__file__).parent / "samples"
PICTURES = sorted(map(str, SAMPLES.glob("*.jpg")))[:6]
MANY = 5000


def pair_of(name: str) -> tuple[Captioner, Captioner]:
    """A shipped model with the graph's steps and with compiled ones."""
    light = Captioner.load(shipped_models()[name], backend="onnx")
    return light, light.accelerated(MANY, cores=2)


@pytest.fixture(scope="module", params=["flickr8k-soft", "flickr8k-hard"])
def pair(request: pytest.FixtureRequest) -> tuple[Captioner, Captioner]:
    return pair_of(request.param)


@pytest.fixture(scope="module")
def hard() -> tuple[Captioner, Captioner]:
    return pair_of("flickr8k-hard")


def backend_of(captioner: Captioner) -> OnnxBackend:
    assert isinstance(captioner.backend, OnnxBackend)
    return captioner.backend


def steps_of(captioner: Captioner) -> CppStep:
    steps = backend_of(captioner)._cpp_step
    assert steps is not None
    return steps


@pytest.mark.parametrize(
    "options",
    [{}, {"method": "greedy"}, {"beam": 5, "n_best": 2}],
    ids=["as it comes", "greedy", "beam 5"],
)
def test_captions_are_those_of_the_graph(
    pair: tuple[Captioner, Captioner], options: dict[str, object]
) -> None:
    light, fast = pair
    assert "step" in backend_of(light)._graphs
    assert "step" not in backend_of(fast)._graphs
    for one, other in zip(
        light.caption(PICTURES, **options), fast.caption(PICTURES, **options), strict=True
    ):
        assert_same(one, other)


@pytest.mark.parametrize("context", ["argmax", "sample"])
def test_locations_are_those_of_the_graph(hard: tuple[Captioner, Captioner], context: str) -> None:
    options: dict[str, Any] = {"context": context, "seed": 3, "method": "greedy"}
    light, fast = (captioner.caption(PICTURES, **options) for captioner in hard)
    for one, other in zip(light, fast, strict=True):
        assert one.trace.location is not None
        assert_same(one, other)


def test_a_sample_needs_a_generator(hard: tuple[Captioner, Captioner]) -> None:
    light, fast = hard
    annotations = fast.annotate([light.reader.read(PICTURES[0])])
    projected, state = fast.backend.init_state(annotations)
    with pytest.raises(ConfigError, match="needs a generator"):
        fast.backend.step(np.array([1]), state, projected, context="sample")


def test_an_encoder_on_one_core_reads_four_pictures_at_a_time(
    pair: tuple[Captioner, Captioner], monkeypatch: pytest.MonkeyPatch
) -> None:
    light, fast = pair
    media = [light.reader.read(file) for file in PICTURES[:6]]
    whole = light.annotate(media)
    read: list[int] = []
    encode = backend_of(fast).encode

    def counted(pixels: np.ndarray, *others: Any) -> Any:
        read.append(len(pixels))
        return encode(pixels, *others)

    monkeypatch.setattr(fast.backend, "encode", counted)
    parts = fast.annotate(media)
    assert read == [4, 2]
    np.testing.assert_allclose(whole.vectors, parts.vectors, atol=1e-4)
    np.testing.assert_array_equal(whole.mask, parts.mask)
    assert whole.grids == parts.grids


def test_few_items_do_not_wait_for_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpp_library._loaded.cache_clear()
    light = Captioner.load(shipped_models()["flickr8k-soft"], backend="onnx")

    def compiled(pictures: int) -> bool:
        return "step" not in backend_of(light.accelerated(pictures, cores=2))._graphs

    assert not compiled(1999)
    assert compiled(2000)
    assert compiled(200)  # it is there now
    monkeypatch.setenv("REGARD_KERNELS", "plain")
    assert not compiled(2000)


@pytest.mark.parametrize("wrong", ["nothing", "shapes"])
def test_a_model_whose_weights_do_not_fit_stays_with_its_graphs(
    monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    arrays = Checkpoint.arrays

    def damaged(checkpoint: Checkpoint, prefix: str) -> dict[str, np.ndarray]:
        if wrong == "nothing":
            return {}
        return {name: x[..., :-1] for name, x in arrays(checkpoint, prefix).items()}

    monkeypatch.setattr(Checkpoint, "arrays", damaged)
    light = Captioner.load(shipped_models()["flickr8k-soft"], backend="onnx")
    assert "step" in backend_of(light.accelerated(MANY, cores=2))._graphs


def test_weights_that_do_not_fit_are_refused(pair: tuple[Captioner, Captioner]) -> None:
    """Loops would read beyond them."""
    light, _ = pair
    named = load_checkpoint(shipped_models()[light.name]).arrays("decoder.")
    config = light.config.decoder
    assert StepWeights.from_named(named, config) is not None
    for name in named:
        if name.startswith(("feature.", "norm.", "init_", "attention.scores.key.weight")):
            continue  # of the graph "init"
        cut = named | {name: named[name][..., :-1]}
        with pytest.raises(ValueError, match="has the shape"):
            StepWeights.from_named(cut, config)
    with pytest.raises(KeyError):
        StepWeights.from_named({}, config)


def test_annotations_and_states_of_another_model_are_refused(
    pair: tuple[Captioner, Captioner],
) -> None:
    light, fast = pair
    annotations = light.annotate([light.reader.read(PICTURES[0])])
    projected, _ = light.backend.init_state(annotations)
    steps = steps_of(fast)
    given = projected.values, projected.keys, projected.mask
    ready = steps.pack(*given)
    short = np.zeros((1, light.config.decoder.hidden_dim - 1), np.float32)
    with pytest.raises(ValueError, match="states"):
        steps(np.array([1]), DecoderState(short, short), ready)
    for n in range(3):
        wrong = [x[:, :-1] if i == n else x for i, x in enumerate(given)]
        with pytest.raises(ValueError, match="expected"):
            steps.pack(*wrong)
    with pytest.raises(ValueError, match="expected"):
        steps.pack(given[0][..., :-1], *given[1:])


def test_clips_keep_the_steps(pair: tuple[Captioner, Captioner]) -> None:
    _, fast = pair
    assert steps_of(fast.for_clips()) is steps_of(fast)


TEAM = """
import os, sys
import numpy as np
from regard.checkpoint.folder import load_checkpoint
from regard.config import DecoderConfig
from regard.native.cpp_library import library
from regard.native.cpp_step import CppStep, StepWeights
from regard.types import DecoderState

def threads():
    return len(os.listdir("/proc/self/task"))

named = load_checkpoint(sys.argv[1]).arrays("decoder.")
weights, loops = StepWeights.from_named(named, DecoderConfig(scores="additive")), library("float32")
before = threads()
steps = CppStep(weights, loops, threads=int(sys.argv[2]))
cells = np.zeros((2, 9, 512), np.float32)
state = np.zeros((2, 512), np.float32)
ready = steps.pack(cells, cells, np.ones((2, 9), bool))
steps(np.array([1, 1]), DecoderState(state, state), ready)
of_steps = threads() - before
one, out = np.ones(100_000, np.float32), np.empty(100_000, np.float32)
loops.exponentials(one, out)
print(of_steps, threads() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
@pytest.mark.parametrize(("asked", "more"), [(1, 0), (3, 2), (0, 3)])
def test_steps_take_the_threads_that_were_asked_for(asked: int, more: int) -> None:
    """One in a lane, whatever OpenMP would take by itself; other loops then take what they did."""
    command = [sys.executable, "-c", TEAM, str(shipped_models()["flickr8k-soft"]), str(asked)]
    environment = os.environ | {"OMP_NUM_THREADS": "4"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(more), "3"]


def test_steps_in_a_lane_take_one_thread(pair: tuple[Captioner, Captioner]) -> None:
    assert steps_of(pair[1])._threads == 1
