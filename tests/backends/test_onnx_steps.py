"""Compiled steps in the place of a graph's: the same captions, traces and locations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import regard
from regard.backends.onnx_backend import OnnxBackend
from regard.captioner import Captioner
from regard.checkpoint import load_checkpoint
from regard.errors import ConfigError
from regard.loops import StepWeights, library, native
from regard.pretrained import shipped_models
from regard.types import Caption, DecoderState

pytestmark = pytest.mark.skipif(library("float32") is None, reason="no C++ compiler")

SAMPLES = Path(regard.__file__).parent / "samples"
PICTURES = sorted(map(str, SAMPLES.glob("*.jpg")))
MODELS = ["flickr8k-soft", "flickr8k-hard"]


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest) -> tuple[Captioner, Captioner]:
    """A shipped model with the graph's steps and with compiled ones."""
    light = Captioner.load(shipped_models()[request.param], backend="onnx")
    fast = light.accelerated(len(PICTURES) * 1000, cores=2)
    assert isinstance(fast.backend, OnnxBackend)
    assert "step" not in fast.backend._graphs
    return light, fast


def assert_same(one: Caption, other: Caption) -> None:
    assert (one.text, one.finished) == (other.text, other.finished)
    np.testing.assert_allclose(one.score, other.score, atol=2e-3)
    np.testing.assert_allclose(one.trace.alpha, other.trace.alpha, atol=1e-4)
    for name in ("beta", "location"):
        ours, theirs = getattr(one.trace, name), getattr(other.trace, name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
    for a, b in zip(one.words, other.words, strict=True):
        assert [text for text, _ in a.alternatives] == [text for text, _ in b.alternatives]


@pytest.mark.parametrize(
    "options",
    [{}, {"method": "greedy"}, {"beam": 5, "n_best": 2}, {"context": "argmax"},
     {"context": "sample", "seed": 3, "method": "greedy"}],
    ids=["as it comes", "greedy", "beam 5", "argmax", "sampled"],
)  # fmt: skip
def test_captions_are_those_of_the_graph(
    pair: tuple[Captioner, Captioner], options: dict[str, object]
) -> None:
    light, fast = pair
    if "context" in options and light.config.decoder.attention == "soft":
        options = {k: v for k, v in options.items() if k != "context"}
    for one, other in zip(
        light.caption(PICTURES, **options), fast.caption(PICTURES, **options), strict=True
    ):
        assert_same(one, other)


def test_an_encoder_on_one_core_reads_a_few_pictures_at_a_time(
    pair: tuple[Captioner, Captioner],
) -> None:
    light, fast = pair
    media = [light.reader.read(file) for file in PICTURES[:6]]
    assert fast.backend.at_once == 4
    one, other = light.annotate(media), fast.annotate(media)
    np.testing.assert_allclose(one.vectors, other.vectors, atol=1e-4)
    np.testing.assert_array_equal(one.mask, other.mask)
    assert one.grids == other.grids


def test_a_sample_needs_a_generator(pair: tuple[Captioner, Captioner]) -> None:
    light, fast = pair
    if light.config.decoder.attention == "soft":
        pytest.skip("soft attention draws nothing")
    annotations = fast.annotate([light.reader.read(PICTURES[0])])
    projected, state = fast.backend.init_state(annotations)
    with pytest.raises(ConfigError, match="needs a generator"):
        fast.backend.step(np.array([1]), state, projected, context="sample")


def test_few_items_do_not_wait_for_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native._loaded.cache_clear()
    light = Captioner.load(shipped_models()["flickr8k-soft"], backend="onnx")
    for pictures, compiled in ((200, False), (2000, True)):
        backend = light.accelerated(pictures, cores=2).backend
        assert isinstance(backend, OnnxBackend)
        assert ("step" not in backend._graphs) == compiled
    monkeypatch.setenv("REGARD_KERNELS", "plain")
    backend = light.accelerated(2000, cores=2).backend
    assert isinstance(backend, OnnxBackend)
    assert "step" in backend._graphs


def test_weights_that_do_not_fit_are_not_given_to_loops(pair: tuple[Captioner, Captioner]) -> None:
    """Loops would read beyond them; the model's graph says what is wrong."""
    light, _ = pair
    checkpoint = load_checkpoint(shipped_models()[light.name])
    named = checkpoint.arrays("decoder.")
    config = light.config.decoder
    assert StepWeights.of(named, config) is not None
    for name in named:
        if name.startswith(("feature.", "norm.", "init_", "attention.scores.key.weight")):
            continue  # of the graph "init"
        cut = named | {name: named[name][..., :-1]}
        with pytest.raises(ValueError, match="has the shape"):
            StepWeights.of(cut, config)
    with pytest.raises(KeyError):
        StepWeights.of({}, config)


def test_annotations_of_another_model_are_refused(pair: tuple[Captioner, Captioner]) -> None:
    light, fast = pair
    annotations = light.annotate([light.reader.read(PICTURES[0])])
    projected, _ = light.backend.init_state(annotations)
    assert isinstance(fast.backend, OnnxBackend)
    steps = fast.backend._steps
    assert steps is not None
    given = projected.values, projected.keys, projected.mask
    ready = steps.ready(*given)
    short = np.zeros((1, steps._by_hidden.inner - 1), np.float32)
    with pytest.raises(ValueError, match="states"):
        steps(np.array([1]), DecoderState(short, short), ready)
    for n in range(3):
        wrong = [x[:, :-1] if i == n else x for i, x in enumerate(given)]
        with pytest.raises(ValueError, match="wanted"):
            steps.ready(*wrong)
    with pytest.raises(ValueError, match="wanted"):
        steps.ready(given[0][..., :-1], *given[1:])


def test_clips_keep_the_steps(pair: tuple[Captioner, Captioner]) -> None:
    _, fast = pair
    clips = fast.for_clips()
    assert isinstance(clips.backend, OnnxBackend)
    assert isinstance(fast.backend, OnnxBackend)
    assert clips.backend._steps is fast.backend._steps is not None
