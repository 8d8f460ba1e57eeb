"""The facts that the shipped model of scans states, on the sample scan and on held-out scans."""

from __future__ import annotations

from pathlib import Path

import pytest

import regard
from projects.hippocampus.data import load_facts, write_data
from projects.hippocampus.evaluate import majority_text, mean_accuracy, score_facts
from projects.hippocampus.text import EXAMPLE, stated_facts
from regard import Captioner

SAMPLE = Path(regard.__file__).parent / "samples" / "hippocampus.nii.gz"


@pytest.fixture(scope="module")
def model() -> Captioner:
    pytest.importorskip("monai")
    return regard.load("hippocampus-soft")


def test_facts_are_read_from_its_caption_of_the_sample_scan(model: Captioner) -> None:
    made = model.caption(SAMPLE, method="greedy")
    facts = stated_facts(made.text, EXAMPLE)  # words alone: ranges depend on the thresholds
    assert len(facts) >= 9


@pytest.mark.data
def test_it_knows_more_than_the_most_frequent_classes(
    model: Captioner, shared_data: Path, tmp_path: Path
) -> None:
    write_data(shared_data / "hippocampus3d", tmp_path, copies=0)
    book = load_facts(tmp_path / "facts.json")
    wanted = [k for k, split in book.splits.items() if split == "test"]
    training = [k for k, split in book.splits.items() if split == "train"]
    made = model.caption([str(tmp_path / "scans" / k) for k in wanted], method="greedy")
    texts = {k: c.text for k, c in zip(wanted, made, strict=True)}
    most = dict.fromkeys(wanted, majority_text(book, training))
    own, majority = (mean_accuracy(score_facts(t, book)) for t in (texts, most))
    assert own > majority + 0.1
    strange = [c.file for c in made if len(c.notices) > 1]
    assert len(strange) <= 0.05 * len(made), strange
