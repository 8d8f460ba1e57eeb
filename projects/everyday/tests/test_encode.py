"""The store is filled once; annotations without both parts are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from projects.everyday.encode import (
    VIEW,
    check_parts,
    encoder_config,
    files_of,
    fill_store,
    open_store,
    read_labels,
)
from projects.everyday.tests.coloured_toys import PARTS, ColourEncoder
from regard import ConfigError, DatasetError
from regard.data import AnnotationStore
from regard.media import digest_of


def test_a_filled_store_has_the_encoders_annotations(data: Path, store: AnnotationStore) -> None:
    encoder, file = ColourEncoder(), files_of(data, "labels")[0]
    prepared = encoder.prepare(encoder.read(file))
    expected = encoder(torch.from_numpy(prepared.pixels)[None])
    vectors, mask = open_store(store.folder).read([(digest_of(file), VIEW)])
    np.testing.assert_allclose(vectors, expected.numpy(), atol=2e-3)  # float16
    assert mask.all()


def test_only_missing_pictures_are_encoded(data: Path, tmp_path: Path) -> None:
    files, encoder, reports = files_of(data, "flickr8k"), ColourEncoder(), list[tuple[int, int]]()

    def fill(count: int) -> int:
        encoder.batches = 0
        fill_store(
            tmp_path / "store", files[:count], encoder, parts=PARTS, bf16=False,
            report=lambda done, total: reports.append((done, total)),
        )  # fmt: skip
        return encoder.batches

    assert [fill(10), fill(10), fill(24)] == [2, 0, 2]
    assert reports == [(8, 10), (10, 10), (18, 24), (24, 24)]


def test_bf16_changes_annotations_a_little(data: Path, tmp_path: Path) -> None:
    files = files_of(data, "general")
    read = [
        fill_store(tmp_path / str(bf16), files, ColourEncoder(), parts=PARTS, bf16=bf16).read(
            [(digest_of(file), VIEW) for file in files]
        )[0]
        for bf16 in (True, False)
    ]
    assert 0 < np.abs(read[0].astype(float) - read[1]).max() < 0.1


def test_parts_that_are_missing_or_not_normalised_are_errors() -> None:
    vectors = torch.randn(2, 3, sum(PARTS.sizes))
    with pytest.raises(ConfigError, match="gives 20 features; expected 768"):
        check_parts(vectors)
    with pytest.raises(ConfigError, match="the part 'tokens'.*normalised"):
        check_parts(vectors, PARTS)
    parts = [torch.nn.functional.layer_norm(p, p.shape[-1:]) for p in vectors.split(PARTS.sizes, 2)]
    check_parts(torch.cat(parts, -1), PARTS)
    parts[1] = parts[1] * 1.5
    with pytest.raises(ConfigError, match="the part 'dense'"):
        check_parts(torch.cat(parts, -1), PARTS)


def test_unreadable_places_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="store.json cannot be read.*command encode"):
        open_store(tmp_path)
    with pytest.raises(DatasetError, match="labels.csv cannot be read.*columns file, label"):
        read_labels(tmp_path)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "labels.csv").write_text("name,label\nx.jpg,dog\n")
    with pytest.raises(DatasetError, match="labels.csv"):
        read_labels(tmp_path)


def test_the_encoder_reads_squares_of_224_pixels() -> None:
    config = encoder_config("somewhere", level="last")
    assert (config.image_size, config.resize, config.level) == (224, "squash", "last")
    assert config.weights == "somewhere"
