"""The manifest of a model's exported graphs, and whether they belong to the model beside them.

    graphs.json   format version, digests of what the graphs were exported from, and of each
    encoder.onnx  pixels -> vectors; of a model of clips, the pixels of one frame
    motion.onnx   pixels, real frames -> motion vectors (models of clips that have them)
    init.onnx     vectors, mask -> values, keys, and the first hidden state and memory
    step.onnx     token, hidden, memory, values, keys, mask -> logits, hidden, memory, alpha, ...

The graphs hold no weights: they point into `model.safetensors` beside them. Only a quantised
encoder has its own.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from regard.checkpoint.folder import Checkpoint, file_digest
from regard.errors import CheckpointError
from regard.util.safe_io import json_of, text_of

MANIFEST = "graphs.json"
FORMAT_VERSION = 1
ENCODER, MOTION, INIT, STEP = "encoder.onnx", "motion.onnx", "init.onnx", "step.onnx"
FILES = (ENCODER, MOTION, INIT, STEP)
"""All that may lie there."""
PRECISIONS = ("float32", "int8")


@dataclass(frozen=True)
class OnnxManifest:
    """What `graphs.json` says.

    Attributes:
        model: digest of those parts of `config.json` that the graphs depend on.
        weights: digest of `model.safetensors`.
        files: digest of each graph by its name.
        per_frame: whether the encoder's graph reads a frame of a clip, not the clip.
        pictures_per_item: see `Reader`.
        precision: of the encoder: "float32" or "int8".
        regard_version: that made them.
    """

    model: str
    weights: str
    files: dict[str, str]
    per_frame: bool
    pictures_per_item: int
    precision: str
    regard_version: str

    def to_json(self) -> str:
        """Return the text of `graphs.json`."""
        return json.dumps({"format_version": FORMAT_VERSION} | asdict(self), indent=2) + "\n"


def model_digest(config: dict[str, Any]) -> str:
    """Return a SHA-256 of what a model's graphs depend on, besides its weights.

    Its name, scores and the data it was trained on may change without making graphs stale.
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
    """Return the graphs that lie in a checkpoint's folder, or None where there are none.

    Raises:
        CheckpointError: they are damaged, or were exported from another model or other weights.
    """
    path = checkpoint.path / MANIFEST
    if not path.is_file():
        return None
    graphs = _read(path)
    # `load_checkpoint` has compared the file with what the config says of it.
    stored = checkpoint.config.get("files", {}).get("model.safetensors")
    weights = stored or file_digest(checkpoint.path / "model.safetensors")
    stale = [
        name
        for name, own, wanted in (
            ("config.json", graphs.model, model_digest(checkpoint.config)),
            ("model.safetensors", graphs.weights, weights),
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


def _read(path: Path) -> OnnxManifest:
    try:
        values = json_of(text_of(path))
        version = values.pop("format_version")
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has format_version {version!r}; this regard knows {FORMAT_VERSION}. "
                "Update regard, or export the model again."
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
