"""Graphs of models that point: the same captions, attention and named words as the modules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from regard.backends.onnx_backend import OnnxBackend
from regard.captioner import Captioner
from regard.export import export_model
from regard.types import Annotations
from tests.helpers import pointing, toys
from tests.helpers.alike import assert_same

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module", params=["soft", "hard"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Captioner, Captioner, Path]:
    folder = tmp_path_factory.mktemp(request.param) / "model"
    pointing.captioner(attention=request.param, concept_cells=True).save(folder, half=True)
    export_model(folder)
    return Captioner.load(folder), Captioner.load(folder, backend="torch"), folder


def test_captions_maps_and_named_words_are_the_modules(
    pair: tuple[Captioner, Captioner, Path],
) -> None:
    light, heavy, _ = pair
    assert isinstance(light.backend, OnnxBackend)
    pictures = [toys.picture(i, (32, 32)) for i in range(4)]
    hard = light.config.decoder.attention == "hard"
    named = 0
    for context in ("expected", "argmax") if hard else ("expected",):
        for options in ({"method": "greedy"}, {"beam": 3}, {"method": "sample", "n_best": 2}):
            given = options | {"context": context, "min_length": 3, "max_length": 6}
            one, other = (m.caption(pictures, **given) for m in (light, heavy))
            for ours, theirs in zip(one, other, strict=True):
                assert_same(ours, theirs)
                for a, b in zip(ours.words, theirs.words, strict=True):
                    assert a.copy == pytest.approx(b.copy, abs=1e-4)
                    assert a.copied == pytest.approx(b.copied, abs=1e-3)
                    assert (a.cell, a.source) == (b.cell, b.source)
                    named += a.source == "concept"
    assert named > 10


def test_a_step_sums_to_1_and_equals_the_module(pair: tuple[Captioner, Captioner, Path]) -> None:
    light, heavy, _ = pair
    draw = np.random.default_rng(1)
    vectors = draw.standard_normal((3, 7, light.reader.annotation_dim)).astype(np.float32)
    mask = draw.random((3, 7)) < 0.6
    mask[:, 0] = True
    token = np.array([5, 9, 4, 13, 6, 3])
    hard = light.config.decoder.attention == "hard"
    for context in ("expected", "argmax") if hard else ("expected",):
        steps = []
        for model in (light, heavy):
            asarray = model.backend.asarray
            read = Annotations(asarray(vectors), asarray(mask), ())
            projected, state = model.backend.init_state(read, 2)
            steps.append(model.backend.step(asarray(token), state, projected, context=context))
        ours, theirs = steps
        assert ours.copied is not None
        np.testing.assert_allclose(np.exp(ours.logits).sum(-1), 1, atol=1e-5)
        np.testing.assert_allclose(ours.logits, theirs.logits, atol=1e-4)
        np.testing.assert_allclose(ours.copied, theirs.copied, atol=1e-5)
        assert ours.copied.sum() > 0.1


def test_the_bank_lies_beside_the_graphs(pair: tuple[Captioner, Captioner, Path]) -> None:
    _, _, folder = pair
    outside: set[str] = set()
    for name in ("init.onnx", "step.onnx"):
        graph = onnx.load(folder / name, load_external_data=False)
        assert sum(len(w.raw_data) for w in graph.graph.initializer) < 2000
        outside |= {w.name for w in graph.graph.initializer if w.external_data}
    for name in ("vectors", "read.weight", "whole.weight"):
        assert f"decoder.pointer.{name}.stored" in outside


def test_accelerated_models_keep_the_graph_s_step(pair: tuple[Captioner, Captioner, Path]) -> None:
    light, _, _ = pair
    fast = light.accelerated(5000, cores=2)
    assert isinstance(fast.backend, OnnxBackend)
    assert "step" in fast.backend._graphs
    pictures = [toys.picture(i, (32, 32)) for i in range(3)]
    for one, other in zip(light.caption(pictures), fast.caption(pictures), strict=True):
        assert_same(one, other)
    assert torch.is_tensor(light.decoder.state_dict()["pointer.vectors"])
