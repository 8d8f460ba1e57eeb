"""The shipped model of scans, on the sample scan and on what it has never seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import regard
from regard.captioner import Captioner
from regard.cli.main import app
from regard.pretrained import find_model

SAMPLE = Path(regard.__file__).parent / "samples" / "hippocampus.nii.gz"
FOLDER = find_model(None, "volume")


@pytest.fixture(scope="module")
def model() -> Captioner:
    pytest.importorskip("monai")
    return Captioner.load(FOLDER)


def test_it_is_small_and_its_card_says_what_it_is() -> None:
    assert FOLDER.name == "hippocampus-soft"
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 10e6
    card = (FOLDER / "README.md").read_text("utf-8").lower()
    for said in ("rule-made text on real scans", "not for clinical use", "cc-by-sa 4.0"):
        assert said in card
    notice = (FOLDER.parent / "NOTICE.md").read_text("utf-8")
    assert "Medical Segmentation" in notice
    assert "CC BY-SA 4.0" in notice


def test_the_sample_scan_is_captioned_in_millimetres(model: Captioner) -> None:
    made = model.caption(SAMPLE, method="greedy")
    assert made.finished
    assert made.notices == ("Not for clinical use.",)
    assert "hippocampus" in made.text
    assert len(made.words) > 40
    assert made.grid.axes == ("slices", "rows", "cols")
    assert made.grid.affine
    assert made.trace.alpha.sum(1) == pytest.approx(np.ones(len(made.words)), abs=1e-3)


def test_the_command_line_takes_it_by_default(tmp_path: Path) -> None:
    pytest.importorskip("monai")
    shutil.copy(SAMPLE, tmp_path / "scan.nii.gz")
    done = CliRunner().invoke(app, ["caption", str(tmp_path / "scan.nii.gz"), "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["model"] == "hippocampus-soft"
    assert record["medium"] == "volume"
    assert "Not for clinical use." in record["notices"]


def test_what_it_was_not_trained_on_is_said(model: Captioner) -> None:
    draw = np.random.default_rng(0)
    scan = model.encoder.read(SAMPLE)
    strange = {
        "noise": draw.normal(size=scan.pixels.shape).astype(np.float32),
        "gradient": np.mgrid[:36, :50, :35][0].astype(np.float32),
        "large": np.kron(scan.pixels, np.ones((3, 3, 3), np.float32)),
        "upside down": np.ascontiguousarray(scan.pixels[::-1]),
    }
    for name, voxels in strange.items():
        notices = model.caption(voxels, max_length=1).notices
        assert any(n.startswith("Unlike the scans that the model was") for n in notices), name
