"""The small encoder learns the large one's cells; its batches keep features and targets aligned."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from projects.everyday.distil import (
    FROZEN_BLOCKS,
    Lessons,
    augmented,
    distil,
    first_features,
    losses,
    normalised,
    targets_of,
)
from projects.everyday.encode import VIEW, training_files
from projects.everyday.tests.coloured_toys import PARTS, WORDS
from projects.everyday.weak_labels import weak_labels
from regard.config import DecoderConfig, EncoderConfig
from regard.data import AnnotationStore
from regard.media import digest_of
from regard.model.encoders import build_encoder
from regard.model.encoders.efficientnet_lite import DistilledLite
from regard.model.pointer import Pointer

CONFIG = EncoderConfig(
    "efficientnet_lite0_clip", 64, "dense", "squash", trainable=True, frozen_blocks=FROZEN_BLOCKS
)


@pytest.fixture
def student() -> DistilledLite:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = build_encoder(CONFIG, pretrained=False)
    assert isinstance(made, DistilledLite)
    return made


@pytest.fixture
def pointer() -> Pointer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Pointer(DecoderConfig(concepts=4, concept_dim=16, concept_split=768), 1280, 8)
        made.set_bank(torch.arange(8).view(4, 2), torch.randn(4, 16), torch.zeros(4))
    return made


def test_targets_are_the_means_of_the_cells_below(store: AnnotationStore, data: Path) -> None:
    digest = digest_of(training_files(data)[0])
    found = targets_of(store, [digest, digest], 2, PARTS).float()
    assert found.shape == (2, 4, sum(PARTS.sizes))
    cells = torch.from_numpy(store.read([(digest, VIEW)])[0][0]).float().view(4, 4, -1)
    corner = normalised(cells[:2, 2:].mean((0, 1)), PARTS)
    torch.testing.assert_close(found[0, 1], corner, atol=2e-3, rtol=0)


def test_flips_and_pasted_rectangles_keep_cells_and_targets_together() -> None:
    cells = torch.arange(6 * 4 * 4.0).view(6, 4, 4, 1)
    fine = cells.repeat_interleave(2, 1).repeat_interleave(2, 2)
    changed = 0
    for seed in range(40):
        features, targets = augmented(fine, cells, random.Random(seed))
        pooled = functional.avg_pool2d(features.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        assert torch.equal(pooled, targets)
        changed += not torch.equal(targets, cells)
    assert 20 < changed < 40


def test_the_loss_is_0_only_at_the_target(pointer: Pointer) -> None:
    wanted = normalised(torch.randn(2, 4, 1280, generator=torch.Generator().manual_seed(1)))
    other = wanted.roll(1, 1)  # the same mean, other cells
    at, off = (losses(x, wanted, torch.full((1280,), 2.0), pointer) for x in (wanted, other))
    assert float(at.total) == pytest.approx(0, abs=1e-5)
    assert float(off.cells) == pytest.approx(float((other - wanted).square().mean()) / 4)
    assert float(off.mean) == pytest.approx(0, abs=1e-6)
    assert float(off.naming) > 0


def test_the_student_comes_closer_and_its_first_blocks_stay(
    student: DistilledLite, pointer: Pointer
) -> None:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(12, 16, 112, generator=generator)
    targets = normalised(torch.randn(8, 4, 1280, generator=generator) + torch.arange(1280) % 3)
    labels = torch.zeros(12, 4)
    labels[torch.arange(12), torch.arange(12) % 4] = 1
    lessons = Lessons(features, range(4, 12), targets, labels, torch.ones(12, 1))
    frozen = {n: p.clone() for n, p in student.named_parameters() if not p.requires_grad}
    run = distil(student, lessons, pointer, samples=8 * 50, batch_size=8, learning_rate=4e-3)
    made = [float(found.total + labelled) for found, labelled in run]
    assert len(made) == 50
    assert np.mean(made[-3:]) < 0.75 * np.mean(made[:3])
    assert frozen
    for name, value in student.named_parameters():
        if name in frozen:
            assert torch.equal(value, frozen[name])


def test_first_features_are_those_of_the_whole_network(student: DistilledLite, data: Path) -> None:
    files = training_files(data)
    features = first_features(student, files[:3])
    pixels = np.stack([student.prepare(student.read(Path(file))).pixels for file in files[:3]])
    with torch.inference_mode():
        whole = student(torch.from_numpy(pixels))
        found = student.finish(features.float())
    assert (functional.cosine_similarity(found, whole, dim=-1) > 0.999).all()
    examples = weak_labels(data, WORDS)
    assert len(examples.targets) == len(examples.absence) == len(files)
    assert (examples.targets.any(1) | (examples.absence[:, 0] > 0)).sum() > 0
    for row, absence in zip(examples.targets, examples.absence, strict=True):
        assert row.any() or float(absence) != 0.5
