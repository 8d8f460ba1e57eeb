"""CLIP's image tower: its equations, its levels and sizes, and where its weights come from."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from regard.config import EncoderConfig
from regard.errors import ConfigError
from regard.model.encoders import build_encoder, write_weights
from regard.model.encoders.clip_vit import HUB, REVISION, VIT_B16, ClipVit
from regard.model.encoders.int8_weights import packed, quantise, read_weights, unpacked
from tests.helpers import towers


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    towers.use_small_towers(monkeypatch)
    monkeypatch.setattr("regard.pretrained.shipped_models", dict)  # none has a small tower


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot's folder in an empty cache of the hub, which cannot be reached."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "hub" / f"models--{HUB.replace('/', '--')}" / "snapshots" / REVISION
    folder.mkdir(parents=True)
    return folder


def pixels(count: int = 2, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def norm(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def unit(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


def forward(weights: dict[str, np.ndarray], picture: np.ndarray, level: str) -> np.ndarray:
    """The tower in numpy, from the names of the hub: one picture (3, S, S) to cells (L, D)."""
    size, heads = towers.SIZES.patch, towers.SIZES.heads
    kernel = weights["embeddings.patch_embedding.weight"]
    side = picture.shape[1] // size
    cells = [
        np.tensordot(kernel, picture[:, size * r : size * r + size, size * c : size * c + size], 3)
        for r in range(side)
        for c in range(side)
    ]
    x = np.stack([weights["embeddings.class_embedding"], *cells])
    x = norm(x + weights["embeddings.position_embedding.weight"], weights, "pre_layrnorm")
    alike = x
    for block in range(towers.SIZES.blocks):
        layer = f"encoder.layers.{block}."

        def linear(values: np.ndarray, name: str, layer: str = layer) -> np.ndarray:
            return values @ weights[f"{layer}{name}.weight"].T + weights[f"{layer}{name}.bias"]

        inner = norm(x, weights, layer + "layer_norm1")
        query, key, value = (
            linear(inner, f"self_attn.{part}_proj").reshape(len(x), heads, -1) for part in "qkv"
        )
        mixed, same = np.empty_like(value), np.empty_like(value)
        for head in range(heads):
            for other, found in ((key, mixed), (query, same)):
                scores = query[:, head] @ other[:, head].T / np.sqrt(query.shape[-1])
                alpha = np.exp(scores - scores.max(1, keepdims=True))
                found[:, head] = alpha / alpha.sum(1, keepdims=True) @ value[:, head]
        alike = linear(same.reshape(len(x), -1), "self_attn.out_proj")
        x = x + linear(mixed.reshape(len(x), -1), "self_attn.out_proj")
        inner = linear(norm(x, weights, layer + "layer_norm2"), "mlp.fc1")
        x = x + linear(inner / (1 + np.exp(-1.702 * inner)), "mlp.fc2")
    cells = norm(x[1:], weights, "post_layernorm")
    if level == "last":
        return cells
    projected = norm(alike[1:], weights, "post_layernorm") @ weights["visual_projection.weight"].T
    return np.concatenate([unit(cells), unit(projected)], -1)


@pytest.mark.parametrize("level", ["last", "dense"])
def test_the_tower_equals_its_equations(tmp_path: Path, level: str) -> None:
    weights = towers.hub_weights()
    save_file(weights, tmp_path / "hub.safetensors")
    config = EncoderConfig("clip_vit_b16", 32, level, weights=str(tmp_path / "hub.safetensors"))
    encoder = build_encoder(config)
    named = {k.removeprefix("vision_model."): v.double().numpy() for k, v in weights.items()}
    given = pixels()
    with torch.no_grad():
        found = encoder(given)
        assert torch.equal(encoder.feature_map(given).flatten(2).transpose(1, 2), found)
    for picture, vectors in zip(given.double().numpy(), found, strict=True):
        assert np.abs(vectors.numpy() - forward(named, picture, level)).max() < 1e-4


def test_the_shape_of_vit_b16() -> None:
    with torch.device("meta"):
        encoder = ClipVit(
            EncoderConfig("clip_vit_b16", level="last"), pretrained=False, sizes=VIT_B16
        )
    assert encoder.grid_shape == (14, 14)
    assert encoder.annotation_dim == 768
    assert sum(p.numel() for p in encoder.parameters()) == 85_799_424
    assert encoder.spec.interpolation == "bicubic"
    assert [round(v / 255, 8) for v in encoder.spec.mean] == [0.48145466, 0.4578275, 0.40821073]
    assert [round(v / 255, 8) for v in encoder.spec.std] == [0.26862954, 0.26130258, 0.27577711]


def test_other_sizes_resample_the_position_codes() -> None:
    config = EncoderConfig("clip_vit_b16", 48, "last")
    encoder = build_encoder(config, pretrained=False)
    weights = towers.hub_weights()
    name = "vision_model.embeddings.position_embedding.weight"
    row = torch.arange(4.0).repeat_interleave(4)[:, None]  # codes that rise from row to row
    weights[name] = torch.cat([weights[name][:1], row.expand(-1, towers.SIZES.width)])
    encoder.load_pretrained(weights, "made up")
    codes = encoder.state_dict()["position"]
    assert torch.equal(codes[0], weights[name][0])
    grid = codes[1:].view(6, 6, -1)
    assert torch.allclose(grid, grid[:, :1], atol=1e-5)  # as before, the same within a row
    assert bool((grid[1:, 0, 0] > grid[:-1, 0, 0]).all())
    assert encoder(pixels(1, 48)).shape == (1, 36, towers.SIZES.width)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"level": "stride32"}, "encoder.level is 'stride32'; clip_vit_b16 has last, dense"),
        ({"image_size": 36}, "encoder.image_size is 36; clip_vit_b16 takes multiples of 8"),
        ({"weights": "gone.safetensors"}, "'gone.safetensors', which cannot be read"),
    ],
)
def test_wrong_settings(settings: dict[str, object], reason: str) -> None:
    given: dict[str, object] = {"name": "clip_vit_b16", "image_size": 32, "level": "last"}
    with pytest.raises(ConfigError, match=reason):
        build_encoder(EncoderConfig(**(given | settings)))  # type: ignore[arg-type]


def test_weights_of_another_network(tmp_path: Path) -> None:
    weights = towers.hub_weights()
    del weights["vision_model.encoder.layers.1.self_attn.k_proj.bias"]
    save_file(weights, tmp_path / "odd.safetensors")
    config = EncoderConfig("clip_vit_b16", 32, "last", weights=str(tmp_path / "odd.safetensors"))
    with pytest.raises(ConfigError, match=r"odd.safetensors', which does not fit clip_vit_b16"):
        build_encoder(config)


# 8 bits


def test_what_was_stored_in_8_bits_is_stored_again_bit_for_bit() -> None:
    draw = torch.Generator().manual_seed(0)
    scale = torch.rand(20_000, generator=draw) + 0.01
    integers = torch.randint(-127, 128, (20_000, 4), generator=draw).to(torch.int8)
    integers[:, 1] = 127
    integers[7], scale[7] = 0, 1  # a row of zeros
    again, found = quantise(integers * scale[:, None])
    assert torch.equal(again, integers)
    assert torch.equal(found, scale)


def test_8_bits_where_they_are_exact_or_wanted() -> None:
    matrix = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    assert packed({"w": matrix}, ["w"])["w"] is matrix
    stored = packed({"w": matrix, "bias": matrix[0]}, ["w"], lossy=True)
    assert {name: value.dtype for name, value in stored.items()} == {
        "w": torch.int8,
        "w.scale": torch.float32,
        "bias": torch.float32,
    }
    loaded = unpacked(stored)
    assert set(loaded) == {"w", "bias"}
    half_a_step = matrix.abs().amax(1, keepdim=True) / 254
    assert bool(((loaded["w"] - matrix).abs() <= half_a_step * 1.001).all())
    exact = packed(loaded, ["w"])
    assert all(torch.equal(exact[name], stored[name]) for name in stored)


# Places of weights


def vectors(config: EncoderConfig) -> Tensor:
    with torch.no_grad():
        return build_encoder(config)(pixels())


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_weights_from_the_cache_of_the_hub(cache: Path, file: str) -> None:
    weights = towers.hub_weights()
    if file.endswith(".bin"):
        torch.save(weights, cache / file)
    else:
        save_file(weights, cache / file)
    with torch.no_grad():
        wanted = towers.tower()(pixels())
    assert torch.equal(vectors(towers.CONFIG), wanted)


def test_no_weights_and_no_network(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(ConfigError) as raised:
        build_encoder(towers.CONFIG)
    assert "fetching the weights of clip_vit_b16 once: about 600 MB of openai/" in caplog.text
    for part in (
        "cannot be fetched",
        f"hf download {HUB} --revision {REVISION}",
        "encoder.weights",
    ):
        assert part in str(raised.value)


@pytest.mark.usefixtures("cache")
def test_weights_of_a_shipped_model_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = towers.saved(tmp_path / "everyday", seed=5)
    monkeypatch.setattr("regard.pretrained.shipped_models", lambda: {"everyday": folder})
    found = vectors(towers.CONFIG)
    file = str(folder / "encoder.safetensors")
    for weights in (file, str(folder)):
        assert torch.equal(
            found, vectors(EncoderConfig("clip_vit_b16", 32, "last", weights=weights))
        )
    write_weights(towers.tower(seed=5), tmp_path / "own.safetensors", int8=True)
    assert (tmp_path / "own.safetensors").read_bytes() == Path(file).read_bytes()
    assert read_weights(Path(file)).keys() == towers.tower().state_dict().keys()


def test_a_line_is_logged_before_anything_is_fetched(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []

    def download(repo: str, file: str, *, revision: str, local_files_only: bool = False) -> str:
        if local_files_only:
            raise FileNotFoundError(file)
        said.append(caplog.text)
        assert (repo, revision) == (HUB, REVISION)
        save_file(towers.hub_weights(), cache / file)
        return str(cache / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    vectors(towers.CONFIG)
    assert [HUB in text for text in said] == [True]
