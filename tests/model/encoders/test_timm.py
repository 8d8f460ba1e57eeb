"""timm backbones: the paper's VGG-19 and others, from weights on the disk to a caption."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from regard.captioner import Captioner
from regard.cli.main import main
from regard.config import EncoderConfig, Recipe
from regard.errors import ConfigError, MissingExtra
from regard.model.encoders import Encoder, build_encoder
from regard.recipes import override
from regard.training import train
from tests.helpers import toys

ROOT = Path(__file__).parents[3]
TINY = "test_resnet.r160_in1k"  # timm's own for tests: 0.4 million weights, BatchNorm, bilinear


def build(name: str, size: int, level: int, **settings: Any) -> Encoder:
    config = EncoderConfig(f"timm:{name}", image_size=size, level=str(level), **settings)
    return build_encoder(config, pretrained=False)


@pytest.fixture(scope="module")
def vgg19(timm: ModuleType) -> Encoder:
    return build("vgg19.tv_in1k", 224, 4)


def put_into_cache(timm: ModuleType, cache: Path, name: str) -> dict[str, torch.Tensor]:
    """Lay weights where `hf download` would, and return them."""
    place = cache / f"models--timm--{name}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    (place / "snapshots" / ("0" * 40)).mkdir(parents=True)
    weights = timm.create_model(name, pretrained=False).state_dict()
    for key in weights:
        if "running_var" in key:  # as if it had been trained
            weights[key] = torch.rand(weights[key].shape) + 0.5
    save_file(weights, place / "snapshots" / ("0" * 40) / "model.safetensors")
    return weights


@pytest.fixture
def cache(timm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of weights, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def recipe(folder: Path, *settings: str, **encoder: Any) -> Recipe:
    captions, images = toys.write_data(folder, 4)
    made = replace(
        toys.recipe(dropout=0.3),
        encoder=EncoderConfig(f"timm:{TINY}", image_size=64, level="3", **encoder),
    )
    places = [f"data.annotations={captions}", f"data.images={images}", "data.min_count=1"]
    sizes = ["training.batch_size=4", "training.captions_per_image=2", "training.epochs=1"]
    return override(made, [*places, *sizes, "evaluation.diary_pictures=1", *settings])


# What a backbone gives


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(
    ("name", "size", "level", "grid", "features"),
    [
        (TINY, 64, 3, 4, 192),
        ("mobilenetv3_small_050", 96, -1, 3, 288),
        ("convnext_tiny", 224, -1, 7, 768),
        ("vit_small_patch14_dinov2", 196, -1, 14, 384),
        ("swin_tiny_patch4_window7_224", 224, -1, 7, 768),
        pytest.param("swin_tiny_patch4_window7_224", 448, 3, 14, 768, marks=pytest.mark.slow),
        ("fastvit_t8", 128, 3, 4, 384),  # "vit" in its name and no fixed size
        ("test_mambaout", 64, 0, 16, 16),  # channels last, as many as rows
        pytest.param("resnet101", 224, 3, 14, 1024, marks=pytest.mark.slow),
    ],
)
def test_the_grid_and_features_of_a_backbone(
    name: str, size: int, level: int, grid: int, features: int
) -> None:
    encoder = build(name, size, level)
    assert encoder.grid_shape == (grid, grid)
    assert encoder.annotation_dim == features
    assert not encoder.training
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        vectors = encoder(pixels)
    assert vectors.shape == (2, grid * grid, features)
    assert bool(vectors.isfinite().all())


def test_channels_last_maps_are_turned(timm: ModuleType) -> None:
    encoder: Any = build("test_mambaout", 64, 0)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        rows_cols_features = encoder._network(pixels)[0]
        vectors = encoder(pixels)
    assert torch.equal(vectors.view(rows_cols_features.shape), rows_cols_features)


def test_vgg19_at_level_4_is_the_paper_s_grid(vgg19: Encoder) -> None:
    assert vgg19.grid_shape == (14, 14)
    assert vgg19.annotation_dim == 512
    assert vgg19(torch.zeros(1, 3, 224, 224)).shape == (1, 196, 512)


def test_vgg19_at_level_4_is_conv5_4_after_relu_before_the_last_pool(vgg19: Encoder) -> None:
    """Against VGG-19 written out: sixteen 3×3 convolutions with ReLU, a pool after four blocks."""
    weights = vgg19.state_dict()
    kernels = [weights[k] for k in weights if k.endswith("weight")]
    biases = [weights[k] for k in weights if k.endswith("bias")]
    assert [len(k) for k in kernels] == [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    x = pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    layers = iter(zip(kernels, biases, strict=True))
    for block, convolutions in enumerate((2, 2, 4, 4, 4)):
        x = F.max_pool2d(x, 2) if block else x
        for _ in range(convolutions):
            x = F.relu(F.conv2d(x, *next(layers), padding=1))
    with torch.no_grad():
        found = vgg19.feature_map(pixels)
    torch.testing.assert_close(found, x)
    assert float((found == 0).float().mean()) > 0.1  # ReLU has been at work
    assert found.shape == (1, 512, 4, 4)


def test_preprocessing_is_that_of_the_weights(vgg19: Encoder) -> None:
    spec = vgg19.spec
    assert spec.mean == pytest.approx((123.675, 116.28, 103.53))  # ImageNet's × 255
    assert spec.std == pytest.approx((58.395, 57.12, 57.375))
    assert (spec.size, spec.resize, spec.interpolation) == (224, "squash", "bilinear")
    vit = build("test_vit.r160_in1k", 64, -1, resize="crop").spec
    assert vit.mean == vit.std == (127.5, 127.5, 127.5)
    assert (vit.size, vit.resize, vit.interpolation) == (64, "crop", "bicubic")


@pytest.mark.usefixtures("timm")
def test_building_leaves_the_random_numbers_of_the_caller() -> None:
    before = torch.get_rng_state()
    build(TINY, 64, 3)
    assert torch.equal(torch.get_rng_state(), before)


# Trained, saved, loaded


@pytest.mark.parametrize("trainable", [False, True], ids=["frozen", "fine-tuned"])
def test_a_backbone_trains_is_saved_and_loads_without_a_network(
    trainable: bool, timm: ModuleType, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = put_into_cache(timm, cache, TINY)
    best = train(recipe(tmp_path, trainable=trainable), tmp_path / "run")
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["kind"] == "train" for line in log) == 2

    saved = load_file(best / "model.safetensors")
    prefix = "encoder._network."
    kept = {k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)}
    same = {k for k, v in kept.items() if torch.equal(v, start[k])}
    statistics = {k for k in kept if "running" in k}
    assert statistics
    assert statistics <= same  # BatchNorm keeps what ImageNet taught it
    learned = set(kept) - same
    assert bool(learned) == trainable

    config = json.loads((best / "config.json").read_text())
    assert config["preprocessing"] == {
        "size": 64,
        "resize": "squash",
        "interpolation": "bilinear",
        "mean": [127.5] * 3,
        "std": [127.5] * 3,
    }

    # From here on neither weights of timm nor a network: the folder holds everything.
    def refuse(*_: object) -> None:
        raise AssertionError("loading a checkpoint opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    cache.rename(tmp_path / "elsewhere")
    model = Captioner.load(best)
    assert model.encoder.digest() == config["encoder"]["digest"]
    said = model.caption(toys.picture(5), min_length=2)
    for half in (False, True):
        model.save(tmp_path / "again", half=half)
        again = Captioner.load(tmp_path / "again")
        assert again.encoder.digest() == model.encoder.digest()
        if not half:
            heard = again.caption(toys.picture(5), min_length=2)
            assert (heard.text, heard.score) == (said.text, said.score)
            assert (heard.trace.alpha == said.trace.alpha).all()


def test_weights_are_read_as_they_lie_in_the_cache(timm: ModuleType, cache: Path) -> None:
    start = put_into_cache(timm, cache, TINY)
    config = EncoderConfig(f"timm:{TINY}", image_size=64, level="4")
    weights = build_encoder(config, pretrained=True).state_dict()
    assert len(weights) > 50
    for key, value in weights.items():
        assert torch.equal(value, start[key.removeprefix("_network.")]), key


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(
    "name",
    [
        "test_convnext",
        pytest.param("test_vit", marks=pytest.mark.slow),
        pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow),
        pytest.param("vgg19", marks=pytest.mark.slow),
    ],
)
def test_frozen_backbones_are_exported(name: str) -> None:
    from regard.model.encoders.onnx_encoder import encode_with

    size = 224 if "swin" in name else 64
    encoder = build(name, size, 4 if name == "vgg19" else -1)
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).numpy()
    one, other = (encode_with(encoder, runtime=r)(pixels) for r in ("torch", "onnxruntime"))
    torch.testing.assert_close(torch.from_numpy(one), torch.from_numpy(other), rtol=0, atol=2e-3)


# What goes wrong


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("name", "size", "level", "says"),
    [
        ("resnet1O1", 224, "3", r"no backbone 'resnet1O1'. Did you mean .*'resnet101'"),
        ("qqqqqqqq", 224, "3", r"no backbone 'qqqqqqqq'. `timm.list_models\(\)`"),
        ("test_resnet.nosuch", 64, "3", "nosuch"),
        (TINY, 64, "9", r"encoder.level is '9'; .* feature maps 0 to 4"),
        ("test_vit", 64, "9", r"encoder.level is '9'; test_vit has the feature maps 0 to 5"),
        (TINY, 64, "stride16", "index of a feature map, such as 3 or -1"),
        (TINY, 72, "3", "every cell covers the same number of pixels"),
        ("test_vit", 72, "-1", "image_size is 72, which timm:test_vit cannot read.*divisible"),
        ("test_maxvit", 72, "-1", "72"),
    ],
)
def test_a_setting_that_does_not_fit_is_a_config_error(
    name: str, size: int, level: str, says: str
) -> None:
    config = EncoderConfig(f"timm:{name}", image_size=size, level=level)
    with pytest.raises(ConfigError, match=says) as caught:
        build_encoder(config, pretrained=False)
    assert len(str(caught.value)) < 500


def test_weights_that_cannot_be_had(cache: Path) -> None:
    config = EncoderConfig(f"timm:{TINY}", image_size=64, level="3")
    with pytest.raises(ConfigError, match=f"weights of {TINY} cannot be had") as caught:
        build_encoder(config)
    message = str(caught.value)
    for needed in (f"hf download timm/{TINY}", f"models--timm--{TINY}", str(cache), "-lite0"):
        assert needed in message


def test_weights_that_lie_on_no_hub(
    timm: ModuleType, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(cache))
    config = EncoderConfig("timm:legacy_seresnet18.in1k", image_size=64, level="3")
    with pytest.raises(ConfigError, match="unreachable.*seresnet18-.*pth") as caught:
        build_encoder(config)
    assert f"{cache}/checkpoints" in str(caught.value)


def test_timm_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r"'timm'.*regard\[timm\]"):
        build(TINY, 64, 3)


BROKEN = {
    "another torch's": 'raise RuntimeError("operator torchvision::nms does not exist")',
    "half imported": 'raise AttributeError("module torchvision has no attribute extension")',
    "without its library": 'raise OSError("libcudart.so.13: cannot open shared object file")',
    "absent": "raise ModuleNotFoundError(\"No module named 'torchvision'\", name='torchvision')",
}


def break_torchvision(folder: Path, kind: str) -> Path:
    """Make packages `timm`, which imports torchvision, and `torchvision`, which cannot be."""
    for name, code in (("timm", "import torchvision"), ("torchvision", BROKEN[kind])):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(code)
    return folder


@pytest.mark.parametrize("kind", BROKEN)
def test_a_torchvision_that_does_not_fit(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(break_torchvision(tmp_path, kind))
    for name in ("timm", "torchvision"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for _ in range(2):  # the second import must fail no worse than the first
        with pytest.raises(MissingExtra, match=r"'torchvision'.*regard\[timm\]") as caught:
            build(TINY, 64, 3)
        assert ("belongs to torch" in str(caught.value)) == (kind != "absent")


def test_with_a_broken_torchvision_everything_else_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stubs = break_torchvision(tmp_path / "stubs", "another torch's")
    command = [sys.executable, "-m", "regard", "caption", str(ROOT / "examples" / "dog.jpg")]
    monkeypatch.setenv("PYTHONPATH", f"{stubs}:{ROOT / 'src'}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "dog.jpg: " in done.stdout

    captions, images = toys.write_data(tmp_path, 4)
    monkeypatch.syspath_prepend(stubs)
    for name in ("timm", "torchvision"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    settings = ["--set", f"encoder.name=timm:{TINY}", "--set", "data.min_count=1"]
    places = ["--data", str(captions), "--images", str(images), "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["regard", "train", *places, *settings])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "torchvision" in lines[0]
