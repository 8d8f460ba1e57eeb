"""Exported graphs: equal to the modules in every kind of model, small, and never stale."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from regard.backends.onnx_backend import OnnxBackend
from regard.captioner import Captioner
from regard.checkpoint.components import model_digest, read_manifest
from regard.checkpoint.folder import load_checkpoint
from regard.config import EncoderConfig, ObjectiveConfig, Recipe, VideoConfig
from regard.decoding import DecodingOptions, decode
from regard.errors import CheckpointError, ConfigError, UnknownName
from regard.export import export_model
from regard.export.trace_graphs import trace_model
from regard.export.write_graphs import WeightLocation, point_to_file, weight_locations
from regard.model.encoders import build_encoder
from regard.model.encoders.onnx_encoder import trace_graph
from regard.util.onnx_session import Graph, open_session
from tests.helpers import toys
from tests.helpers.toy_media import clip

onnx = pytest.importorskip("onnx")


def captioner(medium: str = "image", motion: str = "none", **decoder: object) -> Captioner:
    """Of 32 pixels and 4×4 cells; clips have 3 frames."""
    video = VideoConfig(frames=3, motion=motion, motion_dim=4)
    config = EncoderConfig("small_cnn", 32, "stride8", medium=medium, video=video)
    encoder = build_encoder(config)
    grid = {"grid_shape": encoder.grid_shape}
    made = toys.decoder(annotation_dim=encoder.annotation_dim, **(grid | decoder))
    kind = "hard_attention" if decoder.get("attention") == "hard" else "cross_entropy"
    recipe = Recipe(
        name="toy", encoder=config, decoder=made.config, objective=ObjectiveConfig(kind=kind)
    )
    return Captioner(encoder, made, toys.vocabulary(), recipe, name="toy")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with its graphs, stored in half precision."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    captioner().save(folder, half=True)
    return export_model(folder)


DECODERS = [
    {"scores": "additive", "gate": "scalar"},
    {"scores": "dot", "gate": "feature", "init": "mean", "feature_dim": 10},
    {"scores": "scaled_dot", "gate": "none", "position": "learned", "temperature": 2.0},
    {"scores": "uniform", "position": "sinusoidal", "annotation_norm": True},
    {"attention": "hard", "tie_embeddings": True, "output_activation": "linear"},
]


@pytest.mark.parametrize(
    "settings",
    # To trace one takes ten seconds.
    [pytest.param(s, marks=pytest.mark.slow if s in DECODERS[:3] else ()) for s in DECODERS],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_every_decoder_says_the_same_on_graphs(settings: dict[str, object]) -> None:
    model = captioner(**settings)
    graphs = {
        name.removesuffix(".onnx"): Graph.of(graph.SerializeToString())
        for name, graph in trace_model(model.encoder, model.decoder).items()
    }
    light = model.with_backend(OnnxBackend(graphs, grid_shape=(4, 4)))
    pictures = [toys.picture(i, (32, 32)) for i in range(3)]
    contexts = ("expected", "argmax") if settings.get("attention") == "hard" else ("expected",)
    for context in contexts:
        for beam in (1, 3):
            options = {"beam": beam, "min_length": 3, "max_length": 6, "context": context}
            one, other = (m.caption(pictures, **options) for m in (light, model))
            for ours, theirs in zip(one, other, strict=True):
                assert ours.text == theirs.text
                np.testing.assert_allclose(ours.trace.alpha, theirs.trace.alpha, atol=1e-5)
                assert ours.score == pytest.approx(theirs.score, abs=1e-4)


@pytest.mark.parametrize("motion", [pytest.param("none", marks=pytest.mark.slow), "conv3d"])
def test_clips_run_on_the_graph_of_a_frame(tmp_path: Path, motion: str) -> None:
    model = captioner("video", motion)
    model.save(tmp_path / "model")
    light = Captioner.load(export_model(tmp_path / "model"))
    assert isinstance(light.backend, OnnxBackend)
    assert light.reader.frames_alone == (motion == "none")
    assert light.reader.pictures_per_item == 3
    media = [clip(3), clip(2, seed=1)]
    annotations = [m.annotate(media) for m in (light, model)]
    np.testing.assert_allclose(annotations[0].vectors, annotations[1].vectors, atol=1e-5)
    one, other = (m.caption(media, beam=2) for m in (light, model))
    for ours, theirs in zip(one, other, strict=True):
        assert ours.text == theirs.text
        np.testing.assert_allclose(ours.trace.alpha, theirs.trace.alpha, atol=1e-5)


def test_cells_and_batch_are_dynamic(exported: Path) -> None:
    """The decoder's graphs read any number of cells, also with padding among them."""
    light, heavy = (Captioner.load(exported, backend=b) for b in ("onnx", "torch"))
    draw = np.random.default_rng(0)
    for items, cells in ((1, 1), (2, 7), (5, 600)):
        vectors = draw.standard_normal((items, cells, 64)).astype(np.float32)
        vectors = vectors[..., : light.reader.annotation_dim]
        mask = draw.random((items, cells)) < 0.7
        mask[:, 0] = True
        found = []
        for model in (light, heavy):
            asarray = model.backend.asarray
            from regard.types import Annotations

            annotations = Annotations(asarray(vectors), asarray(mask), ())
            options = DecodingOptions(beam=2, max_length=4)
            found.append(decode(model.backend, annotations, options, start=1, end=2))
        for ours, theirs in zip(*found, strict=True):
            assert ours[0].tokens == theirs[0].tokens
            np.testing.assert_allclose(ours[0].alpha, theirs[0].alpha, atol=1e-5)


def test_graphs_hold_no_weights_and_nothing_of_the_machine(exported: Path) -> None:
    stored = weight_locations(exported / "model.safetensors")
    for name in ("encoder.onnx", "init.onnx", "step.onnx"):
        graph = onnx.load(exported / name, load_external_data=False)
        own = sum(len(w.raw_data) for w in graph.graph.initializer)
        assert own < 2000
        pointing = [w for w in graph.graph.initializer if w.external_data]
        assert pointing
        for weight in pointing:
            told = {one.key: one.value for one in weight.external_data}
            place = stored[weight.name.removesuffix(".stored")]
            assert told["location"] == "model.safetensors"
            assert (int(told["offset"]), int(told["length"])) == (place.start, place.length)
        content = (exported / name).read_bytes()
        assert b"/" + b"work" not in content
        assert str(Path.home()).encode() not in content or str(Path.home()) == "/"
        assert b".py" not in content


def test_an_export_into_another_folder_copies_the_model(exported: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    captioner().save(plain, half=True)
    before = {path.name: path.read_bytes() for path in plain.iterdir()}
    copy = export_model(plain, out=tmp_path / "light")
    assert {path.name: path.read_bytes() for path in plain.iterdir()} == before
    for name, content in before.items():
        assert (copy / name).read_bytes() == content
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="not replaced"):
        export_model(plain, out=tmp_path / "photos")
    assert (tmp_path / "photos" / "a.jpg").read_bytes() == b"mine"


def test_a_copy_is_replaced_and_another_model_is_not(exported: Path, tmp_path: Path) -> None:
    assert export_model(exported, out=tmp_path / "light") == tmp_path / "light"
    (tmp_path / "light" / "README.md").write_text("of the first copy", "utf-8")
    copy = export_model(exported, out=tmp_path / "light")
    assert (copy / "README.md").read_bytes() == (exported / "README.md").read_bytes()
    other = captioner()
    with torch.no_grad():
        other.decoder.output.bias.add_(1)
    other.save(tmp_path / "best")
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "config.json").write_text("{}", "utf-8")  # of another program
    (copy / "training.pt").write_bytes(b"of the same weights")
    for name, held in (
        ("best", "other weights"),
        ("settings", "other weights"),
        ("light", "the state of a training"),
    ):
        before = {path: path.read_bytes() for path in (tmp_path / name).iterdir()}
        with pytest.raises(ConfigError, match=f"holds {held}, so it is not replaced"):
            export_model(exported, out=tmp_path / name)
        assert {path: path.read_bytes() for path in (tmp_path / name).iterdir()} == before


def test_a_run_stopped_on_the_way_is_exported_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a path from where one stands, as users name it; its training state stays."""
    captioner().save(tmp_path / "run" / "last", training_state={"step": 1})
    monkeypatch.chdir(tmp_path)
    export_model("run/last")
    assert {"step.onnx", "training.pt"} <= {path.name for path in Path("run/last").iterdir()}


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in exported.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def rewritten(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def test_stale_graphs_are_refused(copied: Path, tmp_path: Path) -> None:
    """Other weights of the same shapes would caption nonsense without a word."""
    other = captioner()
    with torch.no_grad():
        other.decoder.output.bias.add_(1)
    other.save(tmp_path / "other", half=True)
    for name in ("model.safetensors", "config.json"):
        (copied / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(CheckpointError, match=r"another model.safetensors.*regard export"):
        Captioner.load(copied)
    assert Captioner.load(copied, backend="torch").name == "toy"  # which needs no graphs
    assert read_manifest(load_checkpoint(export_model(copied))) is not None


def test_graphs_of_another_config_are_refused(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text("utf-8"))
    rewritten(copied, name="renamed")
    assert Captioner.load(copied).name == "renamed"  # which changes no number
    config["recipe"]["decoder"]["temperature"] = 3.0
    rewritten(copied, recipe=config["recipe"])
    with pytest.raises(CheckpointError, match=r"another config.json"):
        Captioner.load(copied)


def test_damaged_graphs_are_refused(copied: Path) -> None:
    step = copied / "step.onnx"
    content = step.read_bytes()
    step.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"step.onnx is not the file"):
        Captioner.load(copied)
    step.unlink()
    with pytest.raises(CheckpointError, match=r"step.onnx is missing"):
        Captioner.load(copied)
    step.write_bytes(content)
    manifest = json.loads((copied / "graphs.json").read_text("utf-8"))
    for damage, says in (
        ({"format_version": 9}, "format_version 9"),
        ({"files": {"step.onnx": ""}}, "damaged"),
        ({"more": 1}, "damaged"),
    ):
        (copied / "graphs.json").write_text(json.dumps(manifest | damage), "utf-8")
        with pytest.raises(CheckpointError, match=says):
            Captioner.load(copied)


def test_a_graph_that_does_not_load_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "step.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match=r"step.onnx cannot be loaded"):
        open_session(tmp_path / "step.onnx")


def test_the_digest_is_of_what_the_graphs_depend_on(exported: Path) -> None:
    config = load_checkpoint(exported).config
    assert model_digest(config) == model_digest(config | {"name": "x", "files": {}})
    assert model_digest(config) != model_digest(config | {"preprocessing": {}})


def test_formats_and_examples_are_checked_first(exported: Path) -> None:
    with pytest.raises(UnknownName, match="tflite"):
        export_model(exported, to="tflite")
    with pytest.raises(ConfigError, match="--calibrate"):
        export_model(exported, int8=True)


def test_an_encoder_in_8_bits_sees_nearly_the_same(exported: Path, tmp_path: Path) -> None:
    files = []
    for i in range(8):
        files.append(tmp_path / f"{i}.jpg")
        files[-1].write_bytes(toys.jpeg(i))
    folder = export_model(exported, out=tmp_path / "small", int8=True, examples=files)
    light, exact = Captioner.load(folder), Captioner.load(exported)
    graphs = read_manifest(load_checkpoint(folder))
    assert graphs is not None
    assert graphs.precision == "int8"
    media = [exact.reader.read(file) for file in files]
    one, other = (m.annotate(media).vectors.reshape(len(files) * 16, -1) for m in (light, exact))
    assert not np.array_equal(one, other)
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosine.mean() > 0.98


def test_weights_lie_where_the_header_says(exported: Path) -> None:
    content = (exported / "model.safetensors").read_bytes()
    weights = load_checkpoint(exported).weights
    for name, place in weight_locations(exported / "model.safetensors").items():
        raw = np.frombuffer(content[place.start : place.start + place.length], np.float16)
        np.testing.assert_array_equal(
            raw.astype(np.float32), weights[name].numpy().astype(np.float32).ravel()
        ) if place.dtype == "F16" else None


def test_a_weight_of_another_shape_is_refused() -> None:
    graph = trace_graph(
        nn.Linear(3, 2),
        (torch.zeros(2, 3),),
        input_names=("x",),
        output_names=("y",),
        dynamic_axes=({},),
    )
    with pytest.raises(ConfigError, match="weight is stored as F16"):
        point_to_file(graph, {"weight": WeightLocation("F16", (3, 3), 0, 18)})


def test_a_disk_that_fills_up_leaves_the_old_graphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    captioner().save(folder)
    export_model(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("regard.export.write_graphs._manifest", full)
    with pytest.raises(CheckpointError, match="No space left"):
        export_model(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
