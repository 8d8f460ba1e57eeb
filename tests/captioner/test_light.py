"""The light path: the shipped models without torch, equal to torch, from the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import regard
from regard.backends.onnx_backend import OnnxBackend
from regard.captioner import Captioner
from regard.errors import CheckpointError, ConfigError, MissingExtra, UnknownName
from regard.export import export_model
from regard.pretrained import shipped_models
from regard.util.onnx_session import Graph
from tests.helpers.alike import assert_same

SAMPLES = Path(regard.__file__).parent / "samples"
PICTURES = sorted(map(str, SAMPLES.glob("*.jpg")))[:6]

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # whoever imports it fails
from regard.cli.main import main
sys.argv[0] = "regard"
try:
    main()
finally:
    assert sys.modules["torch"] is None
"""


def regard_without_torch(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", params=["flickr8k-soft", "flickr8k-hard"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Captioner, Captioner]:
    """A shipped model on graphs in float32 and on torch."""
    folder = shipped_models()[request.param]
    if json.loads((folder / "graphs.json").read_text())["precision"] != "float32":
        folder = export_model(folder, out=tmp_path_factory.mktemp("float32") / request.param)
    light = Captioner.load(folder, backend="onnx")
    return light, regard.load(request.param, backend="torch")


def test_sample_pictures_get_the_same_captions_and_traces(
    pair: tuple[Captioner, Captioner],
) -> None:
    light, heavy = pair
    assert isinstance(light.backend, OnnxBackend)
    assert not isinstance(heavy.backend, OnnxBackend)
    for one, other in zip(
        light.caption(PICTURES, n_best=2), heavy.caption(PICTURES, n_best=2), strict=True
    ):
        assert_same(one, other)
        assert [c.text for c in one.n_best] == [c.text for c in other.n_best]


def test_eight_bits_change_the_shipped_model_a_little() -> None:
    """Its vectors point where those of float32 do, and most of its words are the same."""
    graphs = json.loads((shipped_models()["flickr8k-soft"] / "graphs.json").read_text())
    assert graphs["precision"] == "int8"
    light, heavy = (regard.load("flickr8k-soft", backend=b) for b in ("onnx", "torch"))
    media = [light.reader.read(file) for file in PICTURES]
    one, other = (np.asarray(model.annotate(media).vectors) for model in (light, heavy))
    cosine = (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)
    assert 0.9 < cosine.mean() < 0.9999  # else it is not the one that is meant
    ours, theirs = (
        {(i, word) for i, c in enumerate(model.caption(PICTURES)) for word in c.text.split()}
        for model in (light, heavy)
    )
    assert len(ours & theirs) > 0.6 * len(ours | theirs)


def test_the_most_likely_location_is_the_same_one() -> None:
    light, heavy = (regard.load("flickr8k-hard", backend=b) for b in ("onnx", "torch"))
    for one, other in zip(
        light.caption(PICTURES[:2], context="argmax"),
        heavy.caption(PICTURES[:2], context="argmax"),
        strict=True,
    ):
        assert_same(one, other)
        assert one.trace.location is not None


def test_sampled_locations_come_from_the_seed() -> None:
    light = regard.load("flickr8k-hard", backend="onnx")
    one, again, other = (
        light.caption(PICTURES[0], context="sample", beam=1, seed=seed) for seed in (1, 1, 2)
    )
    assert one.to_json() | {"seconds": 0} == again.to_json() | {"seconds": 0}
    assert one.trace.location is not None
    assert other.trace.location is not None
    assert not np.array_equal(one.trace.location, other.trace.location)


def test_a_light_model_captions_clips_as_torch_does(pair: tuple[Captioner, Captioner]) -> None:
    from regard.config import VideoConfig
    from tests.helpers.toy_media import clip

    for grid in ("temporal", "spatio_temporal"):
        config = VideoConfig(frames=4, grid=grid)
        one, other = (
            model.for_clips(config).caption([clip(3), clip(4, seed=1)], beam=2) for model in pair
        )
        for ours, theirs in zip(one, other, strict=True):
            assert_same(ours, theirs)


def test_the_shipped_scan_model_is_light_too() -> None:
    pytest.importorskip("nibabel")
    light, heavy = (regard.load(medium="volume", backend=b) for b in ("auto", "torch"))
    assert isinstance(light.backend, OnnxBackend)
    sample = str(SAMPLES / "hippocampus.nii.gz")
    assert_same(light.caption(sample), heavy.caption(sample))
    assert light.reader.spec == heavy.reader.spec
    assert light.reader.pictures_per_item == heavy.reader.pictures_per_item


def test_modules_are_loaded_when_they_are_asked_for(pair: tuple[Captioner, Captioner]) -> None:
    light, heavy = pair
    assert light.encoder is light.encoder
    assert light.encoder.digest() == heavy.encoder.digest()
    for name in ("name", "level", "grid_axes", "grid_shape", "input_shape", "annotation_dim"):
        assert getattr(light.reader, name) == getattr(heavy.reader, name)


def test_saving_leaves_no_graphs_behind(tmp_path: Path) -> None:
    light = regard.load(backend="onnx")
    light.save(tmp_path / "model", half=True)
    assert not list((tmp_path / "model").glob("*.onnx"))
    assert not (tmp_path / "model" / "graphs.json").exists()
    assert not isinstance(Captioner.load(tmp_path / "model").backend, OnnxBackend)
    with pytest.raises(CheckpointError, match="regard export"):
        Captioner.load(tmp_path / "model", backend="onnx")


def test_a_backend_that_is_not_there_is_named() -> None:
    with pytest.raises(UnknownName, match="tensorflow"):
        regard.load(backend="tensorflow")
    with pytest.raises(ConfigError, match="runs on the cpu"):
        regard.load(backend="onnx", device="cuda")


def test_the_command_line_captions_without_torch() -> None:
    done = regard_without_torch("caption", PICTURES[0], "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["caption"] == regard.load("everyday", backend="onnx").caption(PICTURES[0]).text
    done = regard_without_torch("caption", PICTURES[0], "--json", "--model", "flickr8k-hard")
    other = regard.load("flickr8k-hard", backend="torch").caption(PICTURES[0])
    assert json.loads(done.stdout)["caption"] == other.text
    done = regard_without_torch("models")
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in shipped_models())
    done = regard_without_torch("info", "flickr8k-hard")
    assert done.returncode == 0, done.stderr
    assert "onnxruntime (float32 encoder) or torch" in done.stdout


def test_the_command_line_explains_without_torch(tmp_path: Path) -> None:
    options = ["--model", "flickr8k-soft", "--animation", "none", "--beam", "1"]
    done = regard_without_torch("explain", PICTURES[0], "--out", tmp_path, *options)
    assert done.returncode == 0, done.stderr
    names = {path.suffix for path in tmp_path.iterdir()}
    assert names == {".png", ".html", ".json"}


def test_what_needs_torch_says_which_extra_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments in (["train", "flickr8k-soft"], ["export", "flickr8k-soft"]):
        done = regard_without_torch(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1
        assert "pip install 'regard[train]'" in done.stderr
    light = regard.load(backend="onnx")
    plain = tmp_path / "plain"
    light.save(plain)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "regard.checkpoint.build")
    with pytest.raises(MissingExtra, match=r"regard\[train\].*regard export"):
        Captioner.load(plain)


@pytest.mark.data
@pytest.mark.slow
def test_two_hundred_val_pictures_get_the_same_captions(
    pair: tuple[Captioner, Captioner], shared_data: Path
) -> None:
    from regard.data import load_dataset

    folder = shared_data / "flickr8k"
    items = load_dataset(folder / "dataset_flickr8k.json", folder / "images").split("val").items
    files = [item.file for item in items[:200]]
    light, heavy = (model.caption(files) for model in pair)
    for one, other in zip(light, heavy, strict=True):
        assert_same(one, other)


def test_a_graph_of_another_model_is_named(tmp_path: Path) -> None:
    folder = shipped_models()["hippocampus-soft"]
    names = {"encoder": "step.onnx", "init": "encoder.onnx", "step": "init.onnx"}
    graphs = {name: Graph.of(folder / file, 1) for name, file in names.items()}
    backend = OnnxBackend(graphs, grid_shape=(6, 8, 6))
    with pytest.raises(CheckpointError, match="does not run"):
        backend.encode(np.zeros((1, 1, 24, 32, 24), np.float32), ())
    backend = OnnxBackend({"encoder": graphs["init"], "init": graphs["init"]}, grid_shape=(6, 8, 6))
    annotations = backend.encode(np.zeros((1, 1, 24, 32, 24), np.float32), ())
    with pytest.raises(CheckpointError, match="does not (run|output)"):
        backend.init_state(annotations)


@pytest.mark.parametrize("pictures", [0, "1", None, [1]])
def test_a_damaged_manifest_of_graphs_is_named(pictures: object, tmp_path: Path) -> None:
    folder = shutil.copytree(shipped_models()["hippocampus-soft"], tmp_path / "model")
    values = json.loads((folder / "graphs.json").read_text("utf-8"))
    (folder / "graphs.json").write_text(json.dumps(values | {"pictures_per_item": pictures}))
    with pytest.raises(CheckpointError, match="pictures_per_item"):
        Captioner.load(folder)
