"""GoogLeNet: torchvision's network and weights, built without torchvision, never fetched."""

import importlib
import socket
from pathlib import Path

import pytest
import torch

from regard.config import EncoderConfig
from regard.errors import ConfigError
from regard.model.encoders import build_encoder
from regard.model.encoders.googlenet import WEIGHTS


def config(**settings: object) -> EncoderConfig:
    return EncoderConfig(**({"name": "googlenet", "image_size": 64} | settings))  # type: ignore[arg-type]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of weights, and no way to the network."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it went online"))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_shapes_at_both_levels() -> None:
    for level, cells, features in (("stride32", 2, 1024), ("stride16", 4, 832)):
        encoder = build_encoder(config(level=level), pretrained=False)
        assert encoder(torch.zeros(1, 3, 64, 64)).shape == (1, cells * cells, features)
        assert (encoder.grid_shape, encoder.annotation_dim) == ((cells, cells), features)


@pytest.mark.usefixtures("timm")
def test_it_is_torchvision_s_network_by_the_same_weights(cache: Path) -> None:
    models = importlib.import_module("torchvision.models")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = models.googlenet(
            weights=None, transform_input=True, aux_logits=True, init_weights=False
        ).eval()
        for module in theirs.modules():  # statistics as different as trained ones are
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
        pixels = torch.rand(2, 3, 96, 96) * 255
    torch.save(theirs.state_dict(), cache / WEIGHTS)
    ours = build_encoder(config(image_size=96))
    seen: list[torch.Tensor] = []
    theirs.inception5b.register_forward_hook(lambda *args: seen.append(args[2]))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        theirs((pixels / 255 - mean[:, None, None]) / std[:, None, None])
        found = ours((pixels - 127.5) / 127.5)
    expected = seen[0].flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert float(expected.std()) > 0.01


def test_absent_weights_are_one_clear_error(cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"are missing.*-lite0") as error:
        build_encoder(config())
    assert str(cache) in str(error.value)
    assert WEIGHTS in str(error.value)


def test_broken_and_foreign_weights(cache: Path) -> None:
    (cache / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="is damaged"):
        build_encoder(config())
    torch.save({"fc.weight": torch.zeros(1)}, cache / WEIGHTS)
    with pytest.raises(ConfigError, match="it lacks conv1"):
        build_encoder(config())


def test_wrong_levels_and_sizes() -> None:
    with pytest.raises(ConfigError, match="stride16, stride32"):
        build_encoder(config(level="3"), pretrained=False)
    with pytest.raises(ConfigError, match="multiples of 32"):
        build_encoder(config(image_size=100), pretrained=False)
