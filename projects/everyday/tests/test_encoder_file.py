"""The encoder file keeps the integers and scales of a quantised ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from projects.everyday.encoder_file import main
from regard.errors import ConfigError
from regard.model.encoders.int8_weights import quantise
from tests.helpers import towers

onnx = pytest.importorskip("onnx")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small tower, at the default size of 224 pixels: 28×28 cells of 8 pixels."""
    towers.use_small_towers(monkeypatch)


def quantised_graph(path: Path, *, zero_point: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write the weights as onnxruntime quantises them; return integers (out, in) and scales."""
    helper, array = onnx.helper, onnx.numpy_helper.from_array
    nodes, held = [], []
    matrices: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, value in towers.hub_weights(cells=28 * 28).items():
        if not name.startswith("vision_model."):
            continue
        if not name.endswith((".out_proj.weight", "_proj.weight", "fc1.weight", "fc2.weight")):
            held.append(array(value.numpy(), name))
            continue
        integers, scale = (x.numpy() for x in quantise(value))
        matrices[name] = integers, scale
        base = f"onnx::MatMul_{len(matrices)}"
        held.append(array(np.ascontiguousarray(integers.T), f"{base}_quantized"))
        held.append(array(scale, f"{base}_scale"))
        held.append(array(np.full(len(scale), zero_point, np.int8), f"{base}_zero_point"))
        bias = name.removesuffix("weight") + "bias"
        nodes += [
            helper.make_node("MatMulInteger", ["x", f"{base}_quantized"], [f"{base}.product"]),
            helper.make_node("Cast", [f"{base}.product"], [f"{base}.cast"], to=1),
            helper.make_node("Add", [bias, f"{base}.cast"], [f"{base}.sum"]),
        ]
    onnx.save(helper.make_model(helper.make_graph(nodes, "tower", [], [], held)), path)
    return matrices


def test_integers_and_scales_are_kept(tmp_path: Path) -> None:
    matrices = quantised_graph(tmp_path / "tower.onnx")
    main(tmp_path / "tower.onnx", tmp_path / "encoder.safetensors")
    written = load_file(tmp_path / "encoder.safetensors")
    layer = "vision_model.encoder.layers.2."
    parts = [matrices[f"{layer}self_attn.{part}_proj.weight"] for part in "qkv"]
    for own, given in (
        ("blocks.2.qkv.weight", [np.concatenate(part) for part in zip(*parts, strict=True)]),
        ("blocks.2.out.weight", matrices[f"{layer}self_attn.out_proj.weight"]),
        ("blocks.2.fc1.weight", matrices[f"{layer}mlp.fc1.weight"]),
        ("blocks.2.fc2.weight", matrices[f"{layer}mlp.fc2.weight"]),
    ):
        assert np.array_equal(written[own].numpy(), given[0])
        assert np.array_equal(written[f"{own}.scale"].numpy(), given[1])


def test_a_folder_of_the_hub_is_rounded(tmp_path: Path) -> None:
    weights = towers.hub_weights(cells=28 * 28)
    (tmp_path / "clip").mkdir()
    save_file(weights, tmp_path / "clip" / "model.safetensors")
    main(tmp_path / "clip", tmp_path / "encoder.safetensors")
    written = load_file(tmp_path / "encoder.safetensors")
    exact = weights["vision_model.encoder.layers.0.mlp.fc1.weight"]
    found = written["blocks.0.fc1.weight"] * written["blocks.0.fc1.weight.scale"][:, None]
    assert bool(((found - exact).abs() <= exact.abs().amax(1, keepdim=True) / 253).all())
    assert torch.equal(written["picture"], weights["vision_model.embeddings.class_embedding"])


def test_sources_that_cannot_be_used(tmp_path: Path) -> None:
    quantised_graph(tmp_path / "odd.onnx", zero_point=1)
    with pytest.raises(ConfigError, match="zero points other than 0"):
        main(tmp_path / "odd.onnx", tmp_path / "encoder.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no model.safetensors or pytorch_model.bin"):
        main(tmp_path / "empty", tmp_path / "encoder.safetensors")
