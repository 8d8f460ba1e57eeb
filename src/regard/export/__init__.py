"""From a trained model to a light one: its graphs, written into its folder.

The graphs are traced from the same modules that training runs, point into the weights that lie
there already, and are compared with the modules before they are kept.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from regard.backends import Backend
from regard.backends.onnx_backend import OnnxBackend
from regard.backends.torch_backend import TorchBackend
from regard.checkpoint.components import (
    ENCODER,
    FILES,
    MANIFEST,
    Components,
    OnnxManifest,
    build_components,
    model_digest,
)
from regard.checkpoint.folder import Checkpoint, file_digest, load_checkpoint
from regard.errors import CheckpointError, ConfigError, UnknownName
from regard.export.quantise import quantised
from regard.export.trace_graphs import trace_model
from regard.export.weights import pointed_at, stored_weights
from regard.model.encoders import Encoder, FrameEncoder
from regard.text.vocabulary import UNKNOWN
from regard.types import Annotations, Grid
from regard.util.atomic import replaced_whole
from regard.version import __version__

TARGETS = ("onnx",)
WEIGHTS = "model.safetensors"
_EXAMPLES = 200
_SAME = 1e-3  # largest difference to the modules, on random input, that passes


def export_model(
    folder: str | Path,
    *,
    to: str = "onnx",
    out: str | Path | None = None,
    int8: bool = False,
    examples: Sequence[str | Path] = (),
) -> Path:
    """Write a model's graphs, so that it captions without torch.

    Args:
        folder: its checkpoint.
        to: "onnx".
        out: a folder for a copy of the checkpoint with the graphs; None: into `folder` itself. An
            earlier copy that lies there is replaced as a whole, another checkpoint never.
        int8: quantise the encoder; captions then differ a little.
        examples: pictures (clips, scans) like those to be captioned, by whose ranges it is
            quantised; the first 200 are read.

    Returns:
        The folder that holds the graphs.

    Raises:
        CheckpointError: the checkpoint is damaged, or the folder cannot be written.
        ConfigError: an encoder is to be quantised and no examples came, or the other way round;
            or `out` holds another model, or one that can be trained on.
        MediaError: an example cannot be read.
        UnknownName: there is no such format.
        MissingExtra: onnxscript, or what the encoder needs, is not installed.
    """
    if to not in TARGETS:
        raise UnknownName("format to export to", to, TARGETS)
    if int8 != bool(examples):
        raise ConfigError(
            "an encoder is quantised by the ranges that it has on examples: give int8 (--int8) "
            "and examples (--calibrate FOLDER) together, or neither."
        )
    checkpoint = load_checkpoint(folder)
    place = Path(out).resolve() if out is not None else checkpoint.path
    _check_replaced(checkpoint, place)
    model = build_components(checkpoint)
    pixels = _pixels(model.encoder, examples[:_EXAMPLES]) if int8 else None
    try:
        with _place(checkpoint, place) as target:
            _write(model, checkpoint, target, pixels)
    except FileExistsError as error:
        raise CheckpointError(
            f"{place} exists and is no checkpoint, so it is not replaced. Name another folder."
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"{place} cannot be written: {error}. Name another folder with --out."
        ) from error
    return place


def _check_replaced(checkpoint: Checkpoint, place: Path) -> None:
    """Refuse a place where a copy would cost more than an earlier copy: now, not after the work.

    Raises:
        ConfigError: another model lies there, or one with the state of its training.
    """
    if place.resolve() == checkpoint.path.resolve() or not (place / "config.json").is_file():
        return  # what is no checkpoint is not replaced either: `replaced_whole`
    held = place / WEIGHTS
    same = held.is_file() and file_digest(held) == file_digest(checkpoint.path / WEIGHTS)
    if not same or (place / "training.pt").exists():
        what = "the state of a training" if same else "other weights"
        raise ConfigError(
            f"{place} is there and holds {what}, so it is not replaced; wanted a new folder, or a "
            f"copy of {checkpoint.path} made before. Name another folder, or remove this one."
        )


def _pixels(encoder: Encoder, examples: Sequence[str | Path]) -> np.ndarray:
    """Return what the encoder's graph reads of examples: items, or the real frames of clips."""
    found: list[np.ndarray] = []
    for example in examples:
        prepared = encoder.prepare(encoder.read(example))
        if isinstance(encoder, FrameEncoder):
            found += list(prepared.pixels[: len(prepared.grid.spans)])
        else:
            found.append(prepared.pixels)
    return np.stack(found)


@contextmanager
def _place(checkpoint: Checkpoint, place: Path) -> Generator[Path]:
    """Yield the folder to write graphs into: the checkpoint's own, or a copy's."""
    if place.resolve() == checkpoint.path.resolve():
        yield place
        return
    with replaced_whole(place, marker="config.json") as copy:
        for file in checkpoint.path.iterdir():
            if file.name not in (*FILES, MANIFEST, "training.pt") and file.is_file():
                shutil.copyfile(file, copy / file.name)
        yield copy


def _write(
    model: Components, checkpoint: Checkpoint, folder: Path, examples: np.ndarray | None
) -> None:
    graphs = trace_model(model.encoder, model.decoder)
    if examples is not None:
        graphs[ENCODER] = quantised(graphs[ENCODER], examples)
    stored = stored_weights(checkpoint.path / WEIGHTS)
    for name, graph in graphs.items():
        if examples is None or name != ENCODER:  # quantised weights are the graph's own
            pointed_at(graph, stored, WEIGHTS)
    per_frame = isinstance(model.encoder, FrameEncoder)
    exact = examples is None
    with _beside(folder) as new:
        for name, graph in graphs.items():
            (new / name).write_bytes(graph.SerializeToString(deterministic=True))
        _check_same(model, new, list(graphs), per_frame=per_frame, encoder=exact)
        manifest = _manifest(model, checkpoint, new, list(graphs), exact=exact)
        (new / MANIFEST).write_text(manifest.to_json(), "utf-8")
        # Without its manifest a folder has no graphs: a kill in between leaves a model for torch.
        for name in (MANIFEST, *FILES):
            (folder / name).unlink(missing_ok=True)
        for name in (*graphs, MANIFEST):
            (new / name).replace(folder / name)


@contextmanager
def _beside(folder: Path) -> Generator[Path]:
    """Yield a folder within, with the weights: what is there stays until all else is written."""
    new = folder / ".graphs.new"
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir()
        try:
            os.link(folder / WEIGHTS, new / WEIGHTS)
        except OSError:  # a file system without links
            shutil.copyfile(folder / WEIGHTS, new / WEIGHTS)
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _manifest(
    model: Components, checkpoint: Checkpoint, folder: Path, names: list[str], *, exact: bool
) -> OnnxManifest:
    return OnnxManifest(
        model=model_digest(checkpoint.config),
        weights=file_digest(checkpoint.path / WEIGHTS),
        files={name: file_digest(folder / name) for name in names},
        per_frame=isinstance(model.encoder, FrameEncoder),
        pictures_per_item=model.encoder.pictures_per_item,
        precision="float32" if exact else "int8",
        regard_version=__version__,
    )


def _check_same(
    model: Components, folder: Path, names: list[str], *, per_frame: bool, encoder: bool
) -> None:
    """Compare graphs and modules on random input.

    Args:
        model: the modules.
        folder: with the graphs.
        names: of the graphs.
        per_frame: see `OnnxManifest`.
        encoder: whether the encoder's vectors must be the same, too.

    Raises:
        CheckpointError: they differ.
    """
    draw = np.random.default_rng(0)
    grid = Grid(model.encoder.grid_axes, model.encoder.grid_shape, (), ())
    pixels = draw.standard_normal((3, *model.encoder.input_shape)).astype(np.float32)
    mask = np.ones((3, grid.cells), bool)
    if model.encoder.medium == "video":
        mask.reshape(3, grid.shape[0], -1)[0, grid.shape[0] // 2 + 1 :] = False
    words = draw.integers(UNKNOWN, len(model.vocabulary), (2, 6))
    torch_backend = TorchBackend(model.encoder, model.decoder)
    onnx_backend = OnnxBackend.open(folder, names, grid_shape=grid.shape, per_frame=per_frame)
    wanted = torch_backend.encode(pixels, (grid,) * 3, mask)
    found = onnx_backend.encode(pixels, (grid,) * 3, mask)
    if not encoder:
        found = replace(found, vectors=np.asarray(wanted.vectors))
    one, other = (
        _followed(backend, annotations, words)
        for backend, annotations in ((torch_backend, wanted), (onnx_backend, found))
    )
    worst = max(
        float(np.abs(a - b).max() / (1 + np.abs(a).max())) for a, b in zip(one, other, strict=True)
    )
    if not worst < _SAME:
        raise CheckpointError(
            f"{folder}: the exported graphs differ from the model by {worst:.2g}, so they are not "
            "kept. That is a fault of regard or of the exporter; please report it."
        )


def _followed(backend: Backend, annotations: Annotations, words: np.ndarray) -> list[np.ndarray]:
    """Return all numbers of a backend while it reads words (T, B)."""
    projected, state = backend.init_state(annotations, words.shape[1] // len(annotations.grids))
    seen = [annotations.vectors, projected.values]  # keys are in a form of the backend's own
    for token in words:
        step = backend.step(backend.asarray(token), state, projected)
        state = step.state
        seen += [step.logits, step.alpha, state.hidden, state.memory]
    return [np.asarray(x) for x in seen]


__all__ = ["TARGETS", "export_model"]
