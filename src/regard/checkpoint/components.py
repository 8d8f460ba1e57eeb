"""The components of a captioner, from modules or from a checkpoint.

A checkpoint is loaded as torch modules, or as graphs that `regard export` has written into its
folder, which need no torch:

    graphs.json   format version, digests of what the graphs were exported from, and of each
    encoder.onnx  pixels -> vectors; of a model of clips, the pixels of one frame
    motion.onnx   pixels, real frames -> motion vectors (models of clips that have them)
    init.onnx     vectors, mask -> values, keys, and the first hidden state and memory
    step.onnx     token, hidden, memory, values, keys, mask -> logits, hidden, memory, alpha, ...
                  of a model that points also naming (from init) -> copied

The graphs hold no weights: they point into `model.safetensors` beside them, or into the encoder's
own file. Only an encoder that was quantised by examples has its own.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from regard.backends import Backend
from regard.backends.onnx_backend import OnnxBackend
from regard.checkpoint.folder import (
    ENCODER_WEIGHTS,
    WEIGHTS,
    Checkpoint,
    file_digest,
    load_checkpoint,
)
from regard.config import Recipe
from regard.config.io import from_dict
from regard.errors import CheckpointError, ConfigError, UnknownName, needs_torch
from regard.media.reader import Reader, StoredReader
from regard.text.vocabulary import Vocabulary
from regard.util.safe_io import json_of, text_of

if TYPE_CHECKING:
    from regard.model.decoder import AttentionDecoder
    from regard.model.encoders import Encoder
    from regard.native.cpp_step import CppStep
    from regard.reliability.confidence import Confidence
    from regard.reliability.out_of_distribution import OutOfDistributionDetector

Modules: TypeAlias = "tuple[Encoder, AttentionDecoder]"

_BACKENDS = ("auto", "onnx", "torch")
_GPU_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")
PICTURES_AT_ONCE = 64  # pictures, frames or slices that are encoded together
PICTURES_ON_GPU = 512


@dataclass(frozen=True)
class Components:
    """The components of a captioner.

    Attributes:
        reader: the input format and the attention grid; needs no torch.
        backend: runs the encoder and the decoder's step.
        modules: returns encoder and decoder as modules of torch, loaded at the first call.
        vocabulary: ids to words.
        config: the recipe that built the modules.
        name: printed with every caption.
        device: the device that the model runs on.
        metrics: scores that travel with the model.
        familiarity: compares inputs with the training items; None without their statistics.
        confidence: the probability that a word is right; None without calibration.
        native_step: given the number of pictures, returns the decoder's compiled step on one
            core; None if it is not available or would not pay.
        threads: batches that are captioned side by side; more than 1 only where a call of the
            backend takes one core.
        most_at_once: items of a batch, at most.
    """

    reader: Reader
    backend: Backend
    modules: Callable[[], Modules]
    vocabulary: Vocabulary
    config: Recipe
    name: str
    device: str = "cpu"
    metrics: dict[str, Any] = field(default_factory=dict[str, Any])
    familiarity: OutOfDistributionDetector | None = None
    confidence: Confidence | None = None
    native_step: Callable[[int], CppStep | None] = lambda _: None
    threads: int = 1
    most_at_once: int = PICTURES_AT_ONCE

    @property
    def encoder(self) -> Encoder:
        """The encoder as a module; a model that runs on graphs loads torch for it."""
        return self.modules()[0]

    @property
    def decoder(self) -> AttentionDecoder:
        """The decoder as a module; a model that runs on graphs loads torch for it."""
        return self.modules()[1]


def of_modules(
    encoder: Encoder,
    decoder: AttentionDecoder,
    vocabulary: Vocabulary,
    config: Recipe,
    name: str,
    device: str = "auto",
) -> Components:
    """Return components around two modules, which are not copied.

    Raises:
        DeviceError: the device cannot be used.
    """
    from regard.backends.torch_backend import TorchBackend

    device = placed(device)
    modules = encoder.to(device), decoder.to(device)
    backend = TorchBackend(*modules, device)
    made = Components(encoder, backend, lambda: modules, vocabulary, config, name, device)
    return made if device == "cpu" else replace(made, most_at_once=PICTURES_ON_GPU)


def load_components(folder: str | Path, device: str = "auto", backend: str = "auto") -> Components:
    """Load the components of a checkpoint; see `Captioner.load`."""
    if backend not in _BACKENDS:
        raise UnknownName("backend", backend, _BACKENDS)
    if backend == "onnx" and device not in ("auto", "cpu"):
        raise ConfigError(f"backend='onnx' runs on the cpu, but device is {device!r}.")
    device = "cpu" if backend == "onnx" else placed(device)
    checkpoint = load_checkpoint(folder)
    wants_graphs = device == "cpu" and backend != "torch"
    manifest = read_manifest(checkpoint) if wants_graphs else None
    if manifest is not None:
        return _of_graphs(checkpoint, manifest)
    if backend == "onnx":
        raise CheckpointError(
            f"{checkpoint.path} has no graphs. Make them, where torch is installed: "
            f"regard export {checkpoint.path} --to onnx."
        )
    return build_components(checkpoint, device)


def build_components(checkpoint: Checkpoint, device: str = "cpu") -> Components:
    """Build the components of a checkpoint as modules of torch, in evaluation mode.

    Raises:
        CheckpointError: the parts of the checkpoint do not fit each other.
        ConfigError: the device is not available.
        MissingExtra: torch, or a package that the encoder needs, is not installed.
    """
    recipe = recipe_of(checkpoint)
    modules = _build_modules(checkpoint, recipe)
    name = checkpoint.config["name"]
    components = of_modules(*modules, checkpoint.vocabulary, recipe, name, device)
    return replace(components, **_stored(checkpoint))


def _of_graphs(checkpoint: Checkpoint, manifest: OnnxManifest) -> Components:
    """Return components that run on graphs; torch is loaded only if a module is requested."""
    config = checkpoint.config
    # The sessions open on their own thread while the rest is read.
    backend = OnnxBackend.open(
        checkpoint.path,
        list(manifest.files),
        grid_shape=tuple(config["encoder"]["grid_shape"]),
        per_frame=manifest.per_frame,
        encoder_weights=checkpoint.encoder_file,
    )
    reader = StoredReader.of(config, pictures_per_item=manifest.pictures_per_item)
    recipe = recipe_of(checkpoint)

    def native_step(pictures: int) -> CppStep | None:
        from regard.native import dispatch
        from regard.native.cpp_step import CppStep, StepWeights

        known = recipe.decoder.scores in dispatch.KNOWN_SCORES
        points = recipe.decoder.concepts > 0
        case = dispatch.Case(items=pictures, known_scores=known, pointer=points)
        library = dispatch.ONNX_STEP.library(case)
        if library is None:
            return None
        try:
            weights = StepWeights.from_named(checkpoint.arrays("decoder."), recipe.decoder)
        except (KeyError, ValueError, IndexError):
            return None  # the graphs will say what is wrong with the model
        return CppStep(weights, library, threads=1)

    modules = cache(lambda: _build_modules(checkpoint, recipe))
    components = Components(reader, backend, modules, checkpoint.vocabulary, recipe, config["name"])
    return replace(components, native_step=native_step, **_stored(checkpoint))


def recipe_of(checkpoint: Checkpoint) -> Recipe:
    """Return the recipe in a checkpoint's config; raise CheckpointError if it makes no sense."""
    try:
        return from_dict(Recipe, checkpoint.config["recipe"])
    except (ConfigError, UnknownName) as error:
        raise CheckpointError(f"{checkpoint.path / 'config.json'}: {error}") from error


def _build_modules(checkpoint: Checkpoint, recipe: Recipe) -> Modules:
    hint = f"Or export it where torch is: regard export {checkpoint.path} --to onnx"
    purpose = f"the model {checkpoint.config['name']!r}, as a module of torch,"
    with needs_torch(purpose, "" if (checkpoint.path / MANIFEST).is_file() else hint):
        from regard.checkpoint.build import build_modules
    return build_modules(checkpoint, recipe)


def _stored(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return scores, training statistics and calibration by name.

    Raises:
        CheckpointError: one of them is damaged.
    """
    found: dict[str, Any] = {"metrics": checkpoint.metrics}
    if (values := checkpoint.config.get("familiarity")) is not None:
        from regard.reliability.out_of_distribution import OutOfDistributionDetector

        found["familiarity"] = OutOfDistributionDetector.from_json(values)
    if (values := checkpoint.config.get("confidence")) is not None:
        from regard.reliability.confidence import Confidence

        found["confidence"] = Confidence.from_json(values)
    return found


@dataclass(frozen=True)
class Concept:
    """A concept that a model can name.

    Attributes:
        word: its singular, or only form.
        plural: its plural; the same word where it has one form.
        threshold: the likeness from which on a cell is called so, in logits.
    """

    word: str
    plural: str
    threshold: float


def concepts_of(
    forms: np.ndarray, threshold: np.ndarray, vocabulary: Vocabulary
) -> tuple[Concept, ...]:
    """Return the concepts of a bank, from its forms (C, 2) and thresholds (C,)."""
    return tuple(
        Concept(vocabulary.words[int(one)], vocabulary.words[int(many)], float(least))
        for (one, many), least in zip(forms, threshold, strict=True)
    )


def placed(device: str, report: Callable[[str], None] | None = None) -> str:
    """Return the device of a given name; see `regard.util.torch_device.choose_device`.

    Torch is not imported for "auto" on a machine without a GPU.

    Args:
        device: "auto", "cpu", "cuda", "cuda:1", "mps" or another device of torch.
        report: receives a line that says where the model runs and why, unless it is the CPU for
            want of anything else.

    Raises:
        DeviceError: the device cannot be used.
    """
    if device == "cpu" or (device == "auto" and not may_have_gpu()):
        return "cpu"
    from regard.util.torch_device import choose_device

    placement = choose_device(device)
    if report is not None:
        report(placement.describe())
    return placement.device


def may_have_gpu() -> bool:
    """Return whether torch is installed and could find a GPU on this machine; imports nothing."""
    if sys.platform == "linux" and not any(Path(file).exists() for file in _GPU_FILES):
        return False
    return find_spec("torch") is not None


MANIFEST = "graphs.json"
MANIFEST_VERSION = 1
ENCODER, MOTION, INIT, STEP = "encoder.onnx", "motion.onnx", "init.onnx", "step.onnx"
FILES = (ENCODER, MOTION, INIT, STEP)
"""All graphs that a folder may hold."""


@dataclass(frozen=True)
class OnnxManifest:
    """The contents of `graphs.json`.

    Attributes:
        model: digest of those parts of `config.json` that the graphs depend on.
        weights: digest of `model.safetensors`.
        files: digest of each graph by its name.
        per_frame: whether the encoder's graph reads a frame of a clip, not the clip.
        pictures_per_item: see `Reader`.
        precision: precision of the encoder: "float32" or "int8".
        regard_version: version of regard that wrote them.
        encoder_weights: digest of the encoder's own file; "" if it has none.
    """

    model: str
    weights: str
    files: dict[str, str]
    per_frame: bool
    pictures_per_item: int
    precision: str
    regard_version: str
    encoder_weights: str = ""

    def to_json(self) -> str:
        """Return the text of `graphs.json`."""
        values = {key: value for key, value in asdict(self).items() if value != ""}
        return json.dumps({"format_version": MANIFEST_VERSION} | values, indent=2) + "\n"


def model_digest(config: dict[str, Any]) -> str:
    """Return a SHA-256 of the config values that a model's graphs depend on.

    The name, the scores and the training data may change without making graphs stale.
    """
    recipe = config["recipe"]
    parts = {
        "encoder": recipe.get("encoder"),
        "decoder": recipe.get("decoder"),
        "preprocessing": config["preprocessing"],
        "made": {k: v for k, v in config["encoder"].items() if k != "digest"},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_manifest(checkpoint: Checkpoint) -> OnnxManifest | None:
    """Return the manifest of the graphs in a checkpoint's folder, or None without graphs.

    Raises:
        CheckpointError: graphs are damaged, or were exported from another model or other weights.
    """
    path = checkpoint.path / MANIFEST
    if not path.is_file():
        return None
    graphs = _read(path)
    encoder_weights = weights_digest(checkpoint, checkpoint.encoder_file)
    stale = [
        name
        for name, own, wanted in (
            ("config.json", graphs.model, model_digest(checkpoint.config)),
            (WEIGHTS, graphs.weights, weights_digest(checkpoint, checkpoint.path / WEIGHTS)),
            (ENCODER_WEIGHTS, graphs.encoder_weights, encoder_weights),
        )
        if own != wanted
    ]
    if stale:
        raise CheckpointError(
            f"{checkpoint.path}: its graphs were exported from another {' and '.join(stale)}. "
            f"Export them again: regard export {checkpoint.path} --to onnx. Or delete {MANIFEST}: "
            "the model then runs on torch."
        )
    for name, digest in graphs.files.items():
        file = checkpoint.path / name
        if not file.is_file() or file_digest(file) != digest:
            state = "is not the file that" if file.is_file() else "is missing, which"
            raise CheckpointError(
                f"{file} {state} {MANIFEST} names. Export the graphs again: "
                f"regard export {checkpoint.path} --to onnx."
            )
    return graphs


def weights_digest(checkpoint: Checkpoint, file: Path | None) -> str:
    """Return the digest of a file of a checkpoint's weights; "" for None."""
    if file is None:
        return ""
    # `load_checkpoint` has compared the file with its digest in the config.
    return checkpoint.config.get("files", {}).get(file.name) or file_digest(file)


def _read(path: Path) -> OnnxManifest:
    try:
        values = json_of(text_of(path))
        version = values.pop("format_version")
        if version != MANIFEST_VERSION:
            raise CheckpointError(
                f"{path} has format_version {version!r}; this version of regard "
                f"supports {MANIFEST_VERSION}. Update regard, or export the model again."
            )
        graphs = OnnxManifest(**values)
        if not {ENCODER, INIT, STEP} <= set(graphs.files) <= set(FILES):
            raise ValueError(f"files are {sorted(graphs.files)}")
        together = values["pictures_per_item"]
        if not isinstance(together, int) or together < 1:
            raise ValueError(f"pictures_per_item is {together!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Export the model again.") from error
    return graphs
