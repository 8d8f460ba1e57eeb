"""Nothing that a user brings is run: the code is searched for ways to, and malicious files try."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import regard
from regard import CheckpointError, DatasetError, MediaError, RegardError
from regard.captioner import Captioner
from regard.checkpoint.components import MANIFEST
from regard.checkpoint.folder import file_digest, load_checkpoint
from regard.cli.output import OutputFolder
from regard.config import EncoderConfig
from regard.data.store import AnnotationStore, StoreKey
from regard.errors import ConfigError
from regard.media import read_image
from regard.media.scan.scan_reader import read_scan
from regard.media.video.video_reader import read_clip
from regard.model.encoders import build_encoder
from regard.pretrained import find_model
from tests.helpers import toys
from tests.helpers.scan_files import spec

ROOT = Path(__file__).parents[1]
SOURCE = Path(regard.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
UNSAFE_IMPORTS = {
    "pickle",
    "dill",
    "marshal",
    "shelve",
    "cloudpickle",
    "joblib",
    "yaml",
    "jsonpickle",
}
UNSAFE_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load"),
    *("torch.jit.load", "np.fromregex", "pandas.read_pickle", "tempfile.mktemp"),
}
MUST_SAY = {"torch.load": ("weights_only", "True"), "np.load": ("allow_pickle", "False")}
"""Calls that are safe with an argument alone."""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_module_has_a_way_to_run_what_it_reads(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & UNSAFE_IMPORTS
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in UNSAFE_IMPORTS
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            said = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert called not in UNSAFE_CALLS
            assert said.get("shell", "False") == "False"
            name, value = MUST_SAY.get(called, ("", ""))
            assert not name or said.get(name) == value, f"{called} without {name}={value}"


class Runs:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.place),)


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A folder that is there once a pickle was loaded; the test fails if it is."""
    return tmp_path / "trap"


@pytest.fixture
def pickled(trap: Path) -> bytes:
    content = pickle.dumps(Runs(trap))
    pickle.loads(content)  # it works where it is loaded
    trap.rmdir()
    return content


def numpy_file(trap: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Runs(trap)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def torch_file(trap: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"decoder": Runs(trap)}, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    toys.captioner().save(folder, training_state={"step": 1})
    return folder


@pytest.mark.parametrize(
    "name", ["config.json", "vocabulary.json", "model.safetensors", "training.pt", "metrics.json"]
)
def test_a_pickle_in_a_checkpoint_is_not_run(
    name: str, model: Path, tmp_path: Path, trap: Path, pickled: bytes
) -> None:
    for number, content in enumerate((pickled, torch_file(trap), numpy_file(trap))):
        folder = shutil.copytree(model, tmp_path / f"{number}")
        (folder / name).write_bytes(content)
        with pytest.raises(CheckpointError):
            load_checkpoint(folder, training=True)
        if name != "training.pt":  # which captioning does not read
            with pytest.raises(CheckpointError):
                Captioner.load(folder)
    assert not trap.exists()


def test_a_pickle_in_a_store_is_not_run(tmp_path: Path, trap: Path, pickled: bytes) -> None:
    key = StoreKey("e", (2,), 3)
    store = AnnotationStore(tmp_path / "store", key)
    for _ in store.fill(
        [("digest", "plain", "file")],
        lambda pairs: (np.zeros((1, 2, 3), np.float16), np.ones((1, 2), bool)),
    ):
        pass
    for suffix in (".npy", ".json"):
        file = next((tmp_path / "store").glob(f"shard-*{suffix}"))
        whole = file.read_bytes()
        for content in (pickled, torch_file(trap), numpy_file(trap)):
            file.write_bytes(content)
            with pytest.raises(DatasetError):
                AnnotationStore(tmp_path / "store", key)
        file.write_bytes(whole)
    assert not trap.exists()


@pytest.mark.parametrize("suffix", [".npy", ".jpg", ".png", ".tif", ".nii", ".dcm", ".mp4"])
def test_a_pickle_for_a_picture_is_not_run(
    suffix: str, tmp_path: Path, trap: Path, pickled: bytes
) -> None:
    path = tmp_path / f"file{suffix}"
    reads = {".nii": read_scan, ".dcm": read_scan, ".mp4": read_clip}.get(suffix, read_image)
    arguments = (spec(),) if reads is not read_image else ()
    for content in (pickled, torch_file(trap), numpy_file(trap)):
        path.write_bytes(content)
        with pytest.raises(MediaError):
            reads(path, *arguments)  # type: ignore[operator]
    assert not trap.exists()


def test_a_pickle_for_weights_is_not_run(tmp_path: Path, trap: Path, pickled: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    config = EncoderConfig(name="small_cnn", level="stride8", image_size=32, weights=str(path))
    for content in (pickled, torch_file(trap)):
        path.write_bytes(content)
        with pytest.raises(ConfigError):
            build_encoder(config)
    assert not trap.exists()


def forged(folder: Path, name: str) -> None:
    """Put a graph's digest where its own was, as who forges a model would."""
    values = json.loads((folder / MANIFEST).read_text("utf-8"))
    values["files"][name] = file_digest(folder / name)
    (folder / MANIFEST).write_text(json.dumps(values), "utf-8")


@pytest.mark.parametrize("place", ["../secret.bin", "/etc/passwd", "sub/../../secret.bin"])
def test_a_graph_reads_no_file_outside_of_its_folder(place: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    folder = shutil.copytree(find_model(None, "volume"), tmp_path / "model")
    (tmp_path / "secret.bin").write_bytes((folder / "model.safetensors").read_bytes())
    graph = onnx.load(str(folder / "init.onnx"), load_external_data=False)
    entries = [e for w in graph.graph.initializer for e in w.external_data if e.key == "location"]
    assert entries
    for entry in entries:
        entry.value = place
    (folder / "init.onnx").write_bytes(graph.SerializeToString())
    forged(folder, "init.onnx")
    with pytest.raises(CheckpointError):
        Captioner.load(folder).caption(np.arange(27.0).reshape(3, 3, 3), beam=1)


@pytest.mark.parametrize("name", ["../encoder.onnx", "/tmp/encoder.onnx", "other.onnx"])
def test_a_manifest_of_graphs_names_no_other_file(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(find_model(None, "volume"), tmp_path / "model")
    values = json.loads((folder / MANIFEST).read_text("utf-8"))
    values["files"][name] = values["files"]["encoder.onnx"]
    (folder / MANIFEST).write_text(json.dumps(values), "utf-8")
    with pytest.raises(CheckpointError, match="damaged"):
        Captioner.load(folder)


@pytest.mark.parametrize("option", ["pretrained=true", 'pretrained_url="http://example.org"'])
def test_a_checkpoint_fetches_no_weights_by_its_encoders_name(option: str) -> None:
    pytest.importorskip("monai")
    config = EncoderConfig(name=f"monai:HoVerNet?{option}", medium="volume", level="stride4")
    with pytest.raises(ConfigError, match="would download weights"):
        build_encoder(config, pretrained=False)


@pytest.mark.parametrize("name", ["../../etc/passwd.jpg", "/etc/passwd", "..", "a/../../b.png", ""])
def test_what_is_written_for_a_file_stays_in_the_folder(name: str, tmp_path: Path) -> None:
    stem = OutputFolder(tmp_path / "out", "--out").stem(name)
    assert stem.parent == tmp_path / "out"
    assert stem.name not in ("", ".")
    assert (stem.with_name(stem.name + ".png")).resolve().parent == (tmp_path / "out").resolve()


def test_a_name_of_a_model_is_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from regard.cli.models_command import info

    folder = shutil.copytree(find_model(None, "volume"), tmp_path / "model")
    values = json.loads((folder / "config.json").read_text("utf-8")) | {"name": "[/red]x[link=y]"}
    (folder / "config.json").write_text(json.dumps(values), "utf-8")
    info(str(folder), as_json=False)
    assert "[/red]x[link=y]" in capsys.readouterr().out


def test_every_package_that_is_named_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
             if line and not line.startswith("#")]  # fmt: skip
    assert all(re.fullmatch(r"[\w.-]+==[\w.+-]+( ;.*| #.*)?", line.strip()) for line in lines), (
        lines
    )
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    named = [*project["dependencies"], *(r for rs in project["optional-dependencies"].values()
                                         for r in rs)]  # fmt: skip
    wanted = {re.split(r"[\[<>=!~; ]", name)[0].lower().replace("_", "-")
              for name in named if "==" not in name}  # fmt: skip
    assert wanted - pinned <= {"regard"}


def test_no_error_repeats_what_is_too_long_to_be_read() -> None:
    assert len(str(RegardError("x" * 100_000))) <= 3000
    assert str(RegardError("short")) == "short"
