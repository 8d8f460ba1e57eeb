"""A transformer's encoder in 8 bits: close to the exact one, from the same stored integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regard.captioner import Captioner
from regard.checkpoint.components import read_manifest
from regard.checkpoint.folder import load_checkpoint
from regard.errors import CheckpointError, ConfigError
from regard.export import export_model, write_graphs
from regard.util import onnx_session
from regard.util.onnx_session import open_session
from tests.helpers import towers, toys

onnx = pytest.importorskip("onnx")
FILE = "encoder.safetensors"


def exported_in_8_bits(folder: Path, **options: Any) -> Path:
    pictures: list[str | Path] = []
    for number in range(6):
        path = folder.parent / f"{number}.png"
        Image.fromarray(toys.picture(number, (32, 32))).save(path)
        pictures.append(path)
    return export_model(folder, int8=True, examples=pictures, **options)


@pytest.fixture(scope="module", params=["last", "dense"])
def exported(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        towers.use_small_towers(patch)
        folder = tmp_path_factory.mktemp("exported") / "model"
        return exported_in_8_bits(towers.saved(folder, level=request.param))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    towers.use_small_towers(monkeypatch)


def vectors(model: Captioner, *numbers: int) -> np.ndarray:
    media = [model.reader.read(toys.picture(number, (40, 60))) for number in numbers]
    return np.asarray(model.annotate(media).vectors)


def test_vectors_are_close_and_those_of_a_picture_alone(exported: Path) -> None:
    light, heavy = (Captioner.load(exported, backend=b) for b in ("onnx", "torch"))
    found, wanted = vectors(light, 11, 12, 13), vectors(heavy, 11, 12, 13)
    norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(wanted, axis=-1)
    cosine = (found * wanted).sum(-1) / norms
    assert cosine.mean() > 0.995
    assert np.abs(found - wanted).max() > 1e-4  # it does compute in 8 bits
    assert np.abs(vectors(light, 12)[0] - found[1]).max() < 1e-5
    assert light.caption(toys.picture(1, (32, 32))).words


def test_all_products_with_weights_are_of_integers(exported: Path) -> None:
    graph = onnx.load(exported / "encoder.onnx", load_external_data=False).graph
    kinds = [node.op_type for node in graph.node]
    dense = Captioner.load(exported).config.encoder.level == "dense"
    assert kinds.count("MatMulInteger") == 4 * towers.SIZES.blocks + dense  # and the projection
    assert "DequantizeLinear" not in kinds
    assert {e.value for w in graph.initializer for e in w.external_data[:1]} == {FILE}
    manifest = read_manifest(load_checkpoint(exported))
    assert manifest is not None
    assert manifest.precision == "int8"


def test_sums_that_may_overflow_are_computed_exactly(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime then takes another kernel: the sums are the same whole numbers."""
    pixels = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    found: list[np.ndarray] = []
    for may_overflow in (False, True):
        monkeypatch.setattr(onnx_session, "_sums_may_overflow", lambda told=may_overflow: told)
        session = open_session(exported / "encoder.onnx", 1, weights=exported / FILE)
        found.append(session.run(None, {"pixels": pixels})[0])
    assert np.array_equal(*found)


def test_weights_that_are_not_stored_in_8_bits(tmp_path: Path) -> None:
    towers.captioner().save(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"not stored in 8 bits.*int8=True"):
        exported_in_8_bits(tmp_path / "model")
    assert not (tmp_path / "model" / "graphs.json").exists()


def test_graphs_whose_vectors_differ_too_much_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_graphs, "_COSINE", 1.0)  # which no rounded vector reaches
    folder = towers.saved(tmp_path / "model")
    with pytest.raises(CheckpointError, match="in 8 bits the encoder's vectors have a mean cosine"):
        exported_in_8_bits(folder)
    assert not (folder / "graphs.json").exists()
