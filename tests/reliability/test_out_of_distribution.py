"""What a model says of inputs unlike those that it was trained on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from regard.captioner import Captioner
from regard.config import DataConfig, DecoderConfig, EncoderConfig, Recipe, VolumeConfig
from regard.errors import CheckpointError
from regard.media import ScanSpec, read_media
from regard.model.encoders import build_encoder
from regard.reliability.out_of_distribution import Gaussian, ItemStats, OutOfDistributionDetector
from regard.types import Media, Scan
from tests.helpers import toys

SPEC = ScanSpec((16, 16, 16), (1.0, 1.0, 1.0), "percentile")


def blob(seed: int, shape: tuple[int, ...] = (14, 16, 15)) -> np.ndarray:
    """A scan with something bright in its lower half, somewhere near the middle."""
    draw = np.random.default_rng(seed)
    middle = np.array(shape) * (0.35, 0.5, 0.5) + draw.uniform(-0.7, 0.7, 3)
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    distance = np.linalg.norm(places - middle, axis=-1)
    return (np.exp(-((distance / 4) ** 2)) + draw.normal(0, 0.02, shape)).astype(np.float32)


def scan(voxels: np.ndarray, **changes: object) -> Scan:
    made = read_media(voxels, SPEC)
    assert isinstance(made, Scan)
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model() -> Captioner:
    config = EncoderConfig(
        "monai:resnet10",
        level="stride4",
        medium="volume",
        volume=VolumeConfig(SPEC.shape, SPEC.spacing, SPEC.window, channels=(4, 8, 8, 8)),
    )
    encoder = build_encoder(config)
    sizes = {"embedding_dim": 8, "hidden_dim": 10, "attention_dim": 7}
    decoder = toys.decoder(annotation_dim=encoder.annotation_dim)
    recipe = Recipe(
        name="toy",
        encoder=config,
        decoder=DecoderConfig(**sizes, grid_shape=encoder.grid_shape),  # type: ignore[arg-type]
        data=DataConfig(max_length=40),
    )
    made = Captioner(encoder, decoder, toys.vocabulary(), recipe, name="toy")
    items = (measured(made, scan(blob(i))) for i in range(200, 350))
    return made.with_components(familiarity=OutOfDistributionDetector.fit("volume", items))


def measured(model: Captioner, media: Media) -> ItemStats:
    return ItemStats.measure(
        media, model.encoder.prepare(media), model.annotate([media]).vectors.numpy()[0]
    )


def noticed(model: Captioner, media: Media) -> str:
    notices = model.caption(media, max_length=2).notices
    assert notices[0] == "Not for clinical use."
    assert len(notices) <= 2
    return "".join(notices[1:])


def test_what_is_like_training_gets_no_notice(model: Captioner) -> None:
    assert [noticed(model, scan(blob(seed))) for seed in range(100, 130)] == [""] * 30


@pytest.mark.parametrize(
    ("media", "reason"),
    [
        (scan(blob(0, (40, 16, 15))), "40 mm along slices (14 to 14 there)"),
        (scan(blob(0), affine=np.diag([1.0, 3.0, 1.0, 1.0])), "3 mm between rows (1 to 1 there)"),
        (scan(blob(0), modality="CT"), "it is CT (theirs is not named)"),
        (scan(blob(0)[::-1].copy()), "bright and dark lies elsewhere"),
        (scan(np.random.default_rng(0).normal(size=(14, 16, 15))), "neighbouring values differ"),
        (scan(np.mgrid[:14, :16, :15][1].astype(np.float32)), "bright and dark lies elsewhere"),
    ],
)
def test_what_differs_is_named(model: Captioner, media: Scan, reason: str) -> None:
    said = noticed(model, media)
    assert said.startswith("Unlike the scans that the model was trained on: ")
    assert reason in said


def test_it_travels_with_the_model_and_is_never_required(model: Captioner, tmp_path: Path) -> None:
    model.save(tmp_path / "with")
    again = Captioner.load(tmp_path / "with")
    assert again.familiarity == model.familiarity
    assert noticed(again, scan(blob(0)[::-1].copy()))
    again = again.with_components(familiarity=None)
    again.save(tmp_path / "without")
    assert "familiarity" not in json.loads((tmp_path / "without" / "config.json").read_text())
    assert Captioner.load(tmp_path / "without").familiarity is None
    assert not noticed(again, scan(blob(0)[::-1].copy()))


def test_damaged_familiarity_is_one_clear_error(model: Captioner, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["familiarity"]["clouds"]["layout"].pop("limit")
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="familiarity in config.json is damaged"):
        Captioner.load(tmp_path / "model")


def test_long_captions_are_not_cut_at_the_default_length(model: Captioner) -> None:
    made = model.caption(scan(blob(1)), min_length=40)
    assert len(made.words) == 40


def test_a_cloud_of_other_lengths_is_refused() -> None:
    cloud = Gaussian.fit(np.random.default_rng(0).normal(size=(20, 3)))
    assert cloud.holds(np.zeros(3))
    with pytest.raises(CheckpointError, match="3 numbers, but the model's have 2"):
        cloud.holds(np.zeros(2))


@pytest.mark.parametrize("damage", ["medium", "whitening", "limit"])
def test_a_damaged_familiarity_is_named(damage: str) -> None:
    cloud = {"mean": [0.0, 0.0], "whitening": [[1.0], [0.0, 1.0]], "limit": 1.0}
    stored = {"medium": "volume", "ranges": {}, "modalities": [], "items": 3}
    OutOfDistributionDetector.from_json(stored | {"clouds": {"features": cloud}})
    if damage == "medium":
        stored["medium"] = "smell"
    else:
        cloud[damage] = {"whitening": [[1.0, 0.0]], "limit": "much"}[damage]
    with pytest.raises(CheckpointError, match="familiarity"):
        OutOfDistributionDetector.from_json(stored | {"clouds": {"features": cloud}})
