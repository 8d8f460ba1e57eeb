"""Toys that several tests of the recipe share; they are made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from projects.everyday.bank import ConceptHead, train_head
from projects.everyday.encode import SETS, files_of, fill_store
from projects.everyday.mix import Captioned, read_pictures
from projects.everyday.naming import NamedPictures, name_pictures
from projects.everyday.tests.coloured_toys import PARTS, WORDS, ColourEncoder, write_data
from projects.everyday.weak_labels import read_examples
from regard.data import AnnotationStore


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("everyday") / "data")


@pytest.fixture(scope="session")
def store(data: Path) -> AnnotationStore:
    files = [file for name in SETS for file in files_of(data, name)]
    return fill_store(data.parent / "store", files, ColourEncoder(), parts=PARTS, bf16=False)


@pytest.fixture(scope="session")
def head(data: Path, store: AnnotationStore) -> ConceptHead:
    examples, _ = read_examples(data, store, WORDS)
    projection = torch.randn(64, PARTS.tokens, generator=torch.Generator().manual_seed(0))
    return train_head(
        examples, parts=PARTS, projection=projection, epochs=200, batch_size=16, bf16=False
    )


@pytest.fixture(scope="session")
def pictures(data: Path) -> list[Captioned]:
    return read_pictures(data, WORDS)


@pytest.fixture(scope="session")
def named(store: AnnotationStore, head: ConceptHead, pictures: list[Captioned]) -> NamedPictures:
    folder = store.folder.parent / "naming"
    name_pictures(store, [picture.digest for picture in pictures], head.bank(), folder)
    return NamedPictures(store, folder)
