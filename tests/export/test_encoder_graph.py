"""Graphs whose encoder has its own file of weights in 8 bits."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from regard.backends.onnx_backend import OnnxBackend
from regard.captioner import Captioner
from regard.checkpoint.components import read_manifest
from regard.checkpoint.folder import load_checkpoint
from regard.errors import CheckpointError
from regard.export import export_model
from tests.helpers import towers, toys

onnx = pytest.importorskip("onnx")
FILE = "encoder.safetensors"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        towers.use_small_towers(patch)
        return export_model(towers.saved(tmp_path_factory.mktemp("exported") / "everyday"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    towers.use_small_towers(monkeypatch)


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "everyday"))


def words(model: Captioner) -> list[list[str]]:
    pictures = [toys.picture(i, (32, 32)) for i in range(3)]
    return [[word.text for word in caption.words] for caption in model.caption(pictures, beam=2)]


def test_graph_and_modules_agree(folder: Path) -> None:
    light, heavy = (Captioner.load(folder, backend=b) for b in ("onnx", "torch"))
    assert isinstance(light.backend, OnnxBackend)
    media = [light.reader.read(toys.picture(i, (40, 60))) for i in range(3)]
    found, wanted = (np.asarray(m.annotate(media).vectors) for m in (light, heavy))
    assert np.abs(found - wanted).max() < 1e-4
    assert words(light) == words(heavy)
    assert words(light.with_backend(light.backend.on_one_core())) == words(heavy)


def test_the_exact_graph_on_processors_whose_8_bit_sums_may_overflow(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The option that 8-bit graphs get there would change its weights' zero points."""
    monkeypatch.setattr("regard.util.onnx_session._sums_may_overflow", lambda: True)
    light, heavy = (Captioner.load(folder, backend=b) for b in ("onnx", "torch"))
    assert words(light) == words(heavy)


def test_the_graph_points_at_8_bits(folder: Path) -> None:
    graph = onnx.load(folder / "encoder.onnx", load_external_data=False).graph
    given = {weight.name: weight for weight in graph.initializer}
    matrix = given["encoder.blocks.0.qkv.weight.stored"]
    assert matrix.data_type == onnx.TensorProto.INT8
    places = {entry.value for weight in given.values() for entry in weight.external_data[:1]}
    assert places == {FILE}
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("DequantizeLinear") == 4 * towers.SIZES.blocks
    assert (folder / "encoder.onnx").stat().st_size < 100_000


def test_graphs_of_a_model_that_shares_its_encoder_s_file(folder: Path, tmp_path: Path) -> None:
    hard = towers.saved(tmp_path / "everyday-hard", decoder_seed=1)
    wanted = words(Captioner.load(hard))
    (hard / FILE).unlink()
    export_model(hard)
    assert not (hard / FILE).exists()
    assert words(Captioner.load(hard, backend="onnx")) == wanted
    copy = export_model(hard, out=tmp_path / "elsewhere" / "copy")
    assert (copy / FILE).read_bytes() == (folder / FILE).read_bytes()
    assert words(Captioner.load(copy, backend="onnx")) == wanted


def test_graphs_of_another_encoder_are_stale(folder: Path, tmp_path: Path) -> None:
    other = towers.saved(tmp_path / "elsewhere" / "other", seed=9)
    for name in ("config.json", FILE):
        shutil.copyfile(other / name, folder / name)
    with pytest.raises(CheckpointError, match=r"exported from another encoder.safetensors"):
        Captioner.load(folder)
    manifest = read_manifest(load_checkpoint(export_model(folder)))
    assert manifest is not None
    assert manifest.encoder_weights == load_checkpoint(folder).config["files"][FILE]


def test_a_copy_with_another_encoder_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    other = towers.saved(tmp_path / "elsewhere" / "other", seed=9)
    before = {path.name: path.read_bytes() for path in other.iterdir()}
    with pytest.raises(ValueError, match="holds other weights, so it is not replaced"):
        export_model(folder, out=other)
    assert {path.name: path.read_bytes() for path in other.iterdir()} == before
