"""Export of a trained model as graphs in its folder, so that it captions without torch.

The graphs are traced from the modules that training runs, and their weights point into the
safetensors file of the model. They are compared with the modules before they are kept.
"""

import json
import os
import shutil
import struct
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
    weights_digest,
)
from regard.checkpoint.folder import (
    ENCODER_WEIGHTS,
    WEIGHTS,
    Checkpoint,
    file_digest,
    load_checkpoint,
)
from regard.errors import CheckpointError, ConfigError, UnknownName
from regard.export.integer_products import use_integer_products
from regard.export.trace_graphs import quantise, trace_model
from regard.model.encoders import Encoder, FrameEncoder, own_part
from regard.model.encoders.int8_weights import SCALE
from regard.text.vocabulary import UNKNOWN
from regard.types import Annotations, Grid
from regard.util.atomic import replaced_whole
from regard.util.folder_lock import Report, beside, ignore, locked
from regard.version import __version__

TARGETS = ("onnx",)
_COMMAND = "regard export"
_EXAMPLES = 200
_TOLERANCE = 1e-3  # largest difference to the modules on random input
_COMPARED, _COSINE = 8, 0.99  # examples, and the least mean cosine of vectors in 8 bits
_TYPES = {"F32": "FLOAT", "F16": "FLOAT16", "BF16": "BFLOAT16", "I8": "INT8", "I64": "INT64"}


def export_model(
    folder: str | Path,
    *,
    to: str = "onnx",
    out: str | Path | None = None,
    int8: bool = False,
    examples: Sequence[str | Path] = (),
    report: Report = ignore,
) -> Path:
    """Write a model's graphs, so that it captions without torch.

    Args:
        folder: its checkpoint.
        to: "onnx".
        out: a folder for a copy of the checkpoint with the graphs; None: `folder` itself. An
            earlier copy in `out` is replaced as a whole, another checkpoint never.
        int8: quantise the encoder; captions then differ a little.
        examples: pictures (clips, scans) like those to be captioned, for the ranges of the
            quantised values; the first 200 are read.
        report: receives a line if the lock of a process that was killed is taken over.

    Returns:
        The folder that holds the graphs.

    Raises:
        CheckpointError: the checkpoint is damaged, or the folder cannot be written.
        ConfigError: only one of `int8` and `examples` is given; or `out` holds another model, or
            one whose training can be resumed; or another process fills the folder.
        MediaError: an example cannot be read.
        UnknownName: the format does not exist.
        MissingExtra: onnxscript, or what the encoder needs, is not installed.
    """
    if to not in TARGETS:
        raise UnknownName("format to export to", to, TARGETS)
    if int8 != bool(examples):
        raise ConfigError(
            "quantising an encoder needs the ranges of its values on examples: give int8 (--int8) "
            "and examples (--calibrate FOLDER) together, or neither."
        )
    checkpoint = load_checkpoint(folder)
    place = Path(out).resolve() if out is not None else checkpoint.path
    _check_replaced(checkpoint, place)
    model = build_components(checkpoint)
    pixels = _pixels(model.encoder, examples[:_EXAMPLES]) if int8 else None
    try:
        with _place(checkpoint, place, report) as target:
            _write(model, checkpoint, target, pixels)
    except FileExistsError as error:
        raise CheckpointError(
            f"{place} exists and is not a checkpoint, so it is not replaced. Name another folder."
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"{place} cannot be written: {error}. Name another folder with --out."
        ) from error
    return place


def _check_replaced(checkpoint: Checkpoint, place: Path) -> None:
    """Check, before any work, that a copy would only replace an earlier copy.

    Raises:
        ConfigError: the folder holds another model, or one with a training state.
    """
    if place.resolve() == checkpoint.path.resolve() or not (place / "config.json").is_file():
        return  # `replaced_whole` does not replace other folders
    pairs = {place / WEIGHTS: checkpoint.path / WEIGHTS}
    if checkpoint.encoder_file is not None:
        pairs[place / ENCODER_WEIGHTS] = checkpoint.encoder_file
    same = all(
        held.is_file() and file_digest(held) == file_digest(own) for held, own in pairs.items()
    )
    if not same or (place / "training.pt").exists():
        what = "the state of a training" if same else "other weights"
        raise ConfigError(
            f"{place} exists and holds {what}, so it is not replaced; expected a new folder, or a "
            f"copy of {checkpoint.path} made before. Name another folder, or remove this one."
        )


def _pixels(encoder: Encoder, examples: Sequence[str | Path]) -> np.ndarray:
    """Return the examples as inputs of the encoder's graph: items, or the real frames of clips."""
    found: list[np.ndarray] = []
    for example in examples:
        prepared = encoder.prepare(encoder.read(example))
        if isinstance(encoder, FrameEncoder):
            found += list(prepared.pixels[: len(prepared.grid.spans)])
        else:
            found.append(prepared.pixels)
    return np.stack(found)


@contextmanager
def _place(checkpoint: Checkpoint, place: Path, report: Report) -> Generator[Path]:
    """Yield the folder to write graphs into: the checkpoint's own, or a copy."""
    if place.resolve() == checkpoint.path.resolve():
        with locked(place, _COMMAND, report, lock=beside(place.resolve())):
            yield place
        return
    new = replaced_whole(place, marker="config.json", command=_COMMAND, report=report)
    with new as copy:
        for file in checkpoint.path.iterdir():
            if file.name not in (*FILES, MANIFEST, "training.pt") and file.is_file():
                shutil.copyfile(file, copy / file.name)
        if checkpoint.encoder_file is not None:  # it may lie in another model's folder
            shutil.copyfile(checkpoint.encoder_file, copy / ENCODER_WEIGHTS)
        yield copy


def _write(
    model: Components, checkpoint: Checkpoint, folder: Path, examples: np.ndarray | None
) -> None:
    graphs = trace_model(model.encoder, model.decoder)
    own = own_part(model.encoder)
    if examples is not None and own is None:
        graphs[ENCODER] = quantise(graphs[ENCODER], examples)
    locations = checkpoint.with_tied(weight_locations(checkpoint.path / WEIGHTS))
    if checkpoint.encoder_file is not None:
        stored = weight_locations(checkpoint.encoder_file)
        locations |= {checkpoint.encoder_prefix + name: place for name, place in stored.items()}
    for graph in graphs.values():
        point_to_file(graph, locations)  # but a quantised graph, which holds its weights
    if examples is not None and own is not None:
        use_integer_products(graphs[ENCODER], own[1], checkpoint.encoder_prefix, examples)
    exact = examples is None
    weights = [checkpoint.path / WEIGHTS, checkpoint.encoder_file]
    with _beside(folder, [file for file in weights if file is not None]) as new:
        for name, graph in graphs.items():
            (new / name).write_bytes(graph.SerializeToString(deterministic=True))
        close = None if own is None or examples is None else examples[:_COMPARED]
        _check_same(model, new, list(graphs), encoder=exact, close=close)
        manifest = _manifest(model, checkpoint, new, list(graphs), exact=exact)
        (new / MANIFEST).write_text(manifest.to_json(), "utf-8")
        # Graphs without a manifest do not count: a kill in between leaves a model for torch.
        for name in (MANIFEST, *FILES):
            (folder / name).unlink(missing_ok=True)
        for name in (*graphs, MANIFEST):
            (new / name).replace(folder / name)


@contextmanager
def _beside(folder: Path, weights: Sequence[Path]) -> Generator[Path]:
    """Yield a temporary folder inside, with the weights. Old graphs stay until all are written."""
    new = folder / ".graphs.new"
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir()
        for file in weights:
            try:
                os.link(file, new / file.name)
            except OSError:  # a file system without links
                shutil.copyfile(file, new / file.name)
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _manifest(
    model: Components, checkpoint: Checkpoint, folder: Path, names: list[str], *, exact: bool
) -> OnnxManifest:
    return OnnxManifest(
        model=model_digest(checkpoint.config),
        weights=weights_digest(checkpoint, checkpoint.path / WEIGHTS),
        files={name: file_digest(folder / name) for name in names},
        per_frame=isinstance(model.encoder, FrameEncoder),
        pictures_per_item=model.encoder.pictures_per_item,
        precision="float32" if exact else "int8",
        regard_version=__version__,
        encoder_weights=weights_digest(checkpoint, checkpoint.encoder_file),
    )


def _check_same(
    model: Components,
    folder: Path,
    names: list[str],
    *,
    encoder: bool,
    close: np.ndarray | None = None,
) -> None:
    """Compare graphs and modules on random input.

    Args:
        model: the modules.
        folder: with the graphs.
        names: names of the graphs.
        encoder: whether the encoder's vectors are compared, too.
        close: pixels on which the encoder's vectors must be close (`_COSINE`), (N, *input_shape).

    Raises:
        CheckpointError: they differ.
    """
    draw = np.random.default_rng(0)
    per_frame = isinstance(model.encoder, FrameEncoder)
    grid = Grid(model.encoder.grid_axes, model.encoder.grid_shape, (), ())
    pixels = draw.standard_normal((3, *model.encoder.input_shape)).astype(np.float32)
    mask = np.ones((3, grid.cells), bool)
    if model.encoder.medium == "video":
        mask.reshape(3, grid.shape[0], -1)[0, grid.shape[0] // 2 + 1 :] = False
    words = draw.integers(UNKNOWN, len(model.vocabulary), (2, 6))
    torch_backend = TorchBackend(model.encoder, model.decoder)
    own = folder / ENCODER_WEIGHTS
    onnx_backend = OnnxBackend.open(
        folder,
        names,
        grid_shape=grid.shape,
        per_frame=per_frame,
        encoder_weights=own if own.is_file() else None,
    )
    if close is not None:
        _check_close(torch_backend, onnx_backend, close, grid)
    wanted = torch_backend.encode(pixels, (grid,) * 3, mask)
    found = onnx_backend.encode(pixels, (grid,) * 3, mask)
    if not encoder:
        found = replace(found, vectors=np.asarray(wanted.vectors))
    pairs = zip(
        _outputs(torch_backend, wanted, words), _outputs(onnx_backend, found, words), strict=True
    )
    worst = max(float(np.abs(a - b).max() / (1 + np.abs(a).max())) for a, b in pairs)
    if not worst < _TOLERANCE:
        raise CheckpointError(
            f"{folder}: the exported graphs differ from the model by {worst:.2g}, so they are not "
            "kept. This is a bug of regard or of the exporter; please report it."
        )


def _check_close(exact: Backend, rounded: Backend, pixels: np.ndarray, grid: Grid) -> None:
    """Raise if the directions of 8-bit vectors differ too much from those of the exact ones."""
    grids = (grid,) * len(pixels)
    one, other = (np.asarray(b.encode(pixels, grids).vectors) for b in (exact, rounded))
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    cosine = float(((one * other).sum(-1) / norms).mean())
    if not cosine > _COSINE:
        raise CheckpointError(
            f"in 8 bits the encoder's vectors have a mean cosine of {cosine:.3f} to the exact ones "
            f"on the examples; expected more than {_COSINE}. The graphs are not kept. Export the "
            "model without int8, or with examples more like the pictures to be captioned."
        )


def _outputs(backend: Backend, annotations: Annotations, words: np.ndarray) -> list[np.ndarray]:
    """Return all outputs of a backend while it reads words (T, B)."""
    projected, state = backend.init_state(annotations, words.shape[1] // len(annotations.grids))
    seen = [annotations.vectors, projected.values]  # each backend has its own form of keys
    for token in words:
        step = backend.step(backend.asarray(token), state, projected)
        state = step.state
        seen += [step.logits, step.alpha, state.hidden, state.memory]
        seen += [] if step.copied is None else [step.copied]
    return [np.asarray(x) for x in seen]


# Weights


@dataclass(frozen=True)
class WeightLocation:
    """The place of a weight in a safetensors file.

    Attributes:
        dtype: name in safetensors: "F16", "F32", ...
        shape: its sizes.
        start: offset of its bytes in the file.
        length: number of its bytes.
        file: the file's name.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    length: int
    file: str = WEIGHTS


def weight_locations(path: Path) -> dict[str, WeightLocation]:
    """Return the place of each weight in a safetensors file."""
    with path.open("rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    found: dict[str, WeightLocation] = {}
    for name, weight in header.items():
        start, stop = weight["data_offsets"]
        shape = tuple(weight["shape"])
        start += 8 + size
        stop += 8 + size
        found[name] = WeightLocation(weight["dtype"], shape, start, stop - start, path.name)
    return found


def point_to_file(graph: Any, locations: dict[str, WeightLocation]) -> Any:
    """Replace the weights of a graph by pointers into files beside it, in place.

    The graph casts weights that are stored as float16, and de-quantises those in 8 bits;
    onnxruntime does so once, when it loads (`open_session`).

    Args:
        graph: an `onnx.ModelProto` whose initialisers have the names of the weights.
        locations: locations of the weights.

    Raises:
        ConfigError: a weight has another shape than in the graph.
    """
    from onnx import TensorProto, helper

    first: list[Any] = []
    for weight in list(graph.graph.initializer):
        name, place = weight.name, locations.get(weight.name)
        if place is None:
            continue  # a constant of the graph's own
        scale = locations.get(name + SCALE)
        known = place.dtype in _TYPES and (scale is not None or place.dtype != "I8")
        if place.shape != tuple(weight.dims) or not known:
            raise ConfigError(
                f"the weight {name} is stored as {place.dtype} {place.shape}, and the graph "
                f"takes {tuple(weight.dims)} of another type: the model cannot be exported."
            )
        if place.dtype in ("F32", "I64"):
            _point(weight, place)
            continue
        weight.name = f"{name}.stored"
        _point(weight, place)
        if place.dtype == "I8" and scale is not None:
            _point(graph.graph.initializer.add(name=name + SCALE), scale)
            inputs = [weight.name, name + SCALE]
            first.append(helper.make_node("DequantizeLinear", inputs, [name], axis=0))
        else:
            first.append(helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT))
    nodes = [*first, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return graph


def _point(weight: Any, place: WeightLocation) -> None:
    """Make an initialiser stand for the bytes of a file."""
    from onnx import TensorProto

    for field in ("raw_data", "float_data", "external_data", "dims"):
        weight.ClearField(field)
    weight.dims.extend(place.shape)
    weight.data_type = getattr(TensorProto, _TYPES[place.dtype])
    weight.data_location = TensorProto.EXTERNAL
    keys = {"location": place.file, "offset": place.start, "length": place.length}
    for key, value in keys.items():
        weight.external_data.add(key=key, value=str(value))
