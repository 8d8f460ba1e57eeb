"""A checkpoint is a folder that needs nothing else.

    config.json         format version, regard's version, recipe, preprocessing, encoder, ids,
                        digests of the next two
    vocabulary.json     words and how captions are cut
    model.safetensors   `decoder.*` and `encoder.*` weights; float16 where shipped
    metrics.json        scores with their settings
    README.md           model card
    training.pt         only where the run can be resumed; loaded weights-only
    graphs.json, *.onnx only where `regard export` made the model light

It is written whole or not at all (`regard.util.atomic`). Reading it needs no torch until the
weights are asked for.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from regard.checkpoint.validate import check_config, check_metrics
from regard.errors import CheckpointError, needs_torch
from regard.text.vocabulary import SPECIALS, Vocabulary
from regard.util.atomic import recovered, replaced_whole
from regard.util.safe_io import Unreadable, json_of, text_of

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT_VERSION = 1
SPECIAL_IDS = {word: i for i, word in enumerate(SPECIALS)}
"""Which id means what; stored in every config and compared when it is read."""

_NEEDED = ("config.json", "vocabulary.json", "model.safetensors")
_DIGESTED = ("vocabulary.json", "model.safetensors")
_FAULTS_SHOWN = 4


@dataclass(frozen=True)
class Checkpoint:
    """The parts of a checkpoint.

    Attributes:
        path: its folder.
        config: `config.json`.
        vocabulary: the words.
        shapes: of the weights, by name.
        metrics: `metrics.json`; empty where there is none.
        training_state: `training.pt` where it was asked for and exists.
    """

    path: Path
    config: dict[str, Any]
    vocabulary: Vocabulary
    shapes: dict[str, tuple[int, ...]]
    metrics: dict[str, Any]
    training_state: dict[str, Any] | None = None

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The weights by name, float32 (whatever they were stored as); read when asked for.

        Raises:
            MissingExtra: torch is not installed.
        """
        with needs_torch("reading a model's weights"):
            from safetensors.torch import load_file

            weights = load_file(self.path / "model.safetensors")
        return {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the weights whose names begin so, without it, as float32; needs no torch."""
        with safe_open(self.path / "model.safetensors", framework="numpy") as stored:
            return {
                name.removeprefix(prefix): stored.get_tensor(name).astype(np.float32)
                for name in self.shapes
                if name.startswith(prefix)
            }


def save_checkpoint(
    folder: str | Path,
    *,
    config: dict[str, Any],
    vocabulary: Vocabulary,
    weights: dict[str, Tensor],
    metrics: dict[str, Any],
    card: str,
    training_state: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint; an old one at the same place is replaced only when this is whole.

    Args:
        folder: where it shall lie; a checkpoint that is there is replaced as a whole.
        config: plain values; the format version and the files' digests are added.
        vocabulary: the words.
        weights: by name; stored in the type they have.
        metrics: plain values.
        card: the model card, Markdown.
        training_state: tensors and plain values for resuming.

    Raises:
        CheckpointError: it cannot be written, or the folder holds something else; what was
            there before is untouched.
    """
    import torch
    from safetensors.torch import save_file

    folder = Path(folder).resolve()
    try:
        with replaced_whole(folder, marker="config.json") as temporary:
            (temporary / "vocabulary.json").write_text(vocabulary.to_json(), "utf-8")
            # Safetensors refuses tensors that share memory; tied weights are stored once each.
            plain = {
                name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, value in weights.items()
            }
            save_file(plain, temporary / "model.safetensors", metadata={"format": "pt"})
            files = {name: file_digest(temporary / name) for name in _DIGESTED}
            config = {"format_version": FORMAT_VERSION} | config | {"files": files}
            _write_json(temporary / "config.json", config)
            _write_json(temporary / "metrics.json", metrics)
            (temporary / "README.md").write_text(card, "utf-8")
            if training_state is not None:
                torch.save(training_state, temporary / "training.pt")
    except FileExistsError as error:
        raise CheckpointError(
            f"{folder} exists and is no checkpoint, so it is not replaced. Name another folder."
        ) from error
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint {folder} cannot be written: {error}. What was there before is "
            "untouched. Free some space or name another folder."
        ) from error


def load_checkpoint(folder: str | Path, *, training: bool = False) -> Checkpoint:
    """Read a checkpoint.

    Args:
        folder: its folder.
        training: also read `training.pt`.

    Raises:
        CheckpointError: a file is missing or damaged, the format is newer than this regard
            knows, or the parts do not fit each other.
    """
    folder = recovered(Path(folder))
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} is no checkpoint: {', '.join(missing)} missing. Wanted: a folder with "
            f"{', '.join(_NEEDED)}. `regard models` lists the shipped ones."
        )
    config = inspect_checkpoint(folder)
    vocabulary = Vocabulary.from_json(_read_text(folder / "vocabulary.json"))
    checkpoint = Checkpoint(
        folder,
        config,
        vocabulary,
        _shapes(folder / "model.safetensors"),
        _metrics(folder / "metrics.json"),
        _training_state(folder) if training else None,
    )
    _check_fit(checkpoint)
    _check_digests(checkpoint)
    return checkpoint


def inspect_checkpoint(folder: str | Path) -> dict[str, Any]:
    """Read `config.json` alone and check that it says all that a captioner is built from.

    Raises:
        CheckpointError: it is missing, damaged, incomplete, or of an unknown format.
    """
    path = Path(folder) / "config.json"
    config = _read_json(path)
    version = config.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format_version {version!r}; this regard knows {FORMAT_VERSION}. Update "
            "regard, or save the model again with the version that made it."
        )
    check_config(config, str(path))
    return config


def load_weights(module: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Put weights into a module: every one that it has, no other, each of its shape.

    Args:
        module: is filled in place.
        weights: by the names of `module.state_dict()`.
        source: where they come from, for the message.

    Raises:
        CheckpointError: names or shapes differ; the module is then untouched.
    """
    wanted = module.state_dict()
    faults = [f"{key} is missing" for key in wanted if key not in weights]
    faults += [f"{key} belongs to nothing" for key in weights if key not in wanted]
    faults += [
        f"{key} has shape {tuple(weights[key].shape)}, wanted {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in weights and weights[key].shape != value.shape
    ]
    if faults:
        more = f"; and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
        raise CheckpointError(
            f"{source}: the weights do not fit the config: {'; '.join(faults[:_FAULTS_SHOWN])}"
            f"{more}. The files are of different models."
        )
    module.load_state_dict(weights)


def _check_fit(checkpoint: Checkpoint) -> None:
    stored = checkpoint.config["special_ids"]
    if stored != SPECIAL_IDS:
        raise CheckpointError(
            f"{checkpoint.path}: special_ids are {stored}; this regard uses {SPECIAL_IDS}. The "
            "model was made by another program."
        )
    shape = checkpoint.shapes.get("decoder.embedding.weight")
    if shape is None:
        raise CheckpointError(f"{checkpoint.path} holds no word embedding: it is no captioner.")
    if shape[0] != len(checkpoint.vocabulary):
        raise CheckpointError(
            f"{checkpoint.path}: the vocabulary has {len(checkpoint.vocabulary)} words and the "
            f"embedding {shape[0]} rows, so words would be mixed up. vocabulary.json is of "
            "another model."
        )


def _check_digests(checkpoint: Checkpoint) -> None:
    """Refuse files that were changed: a turned bit or two words exchanged fit the config, too."""
    stored = checkpoint.config.get("files", {})  # older checkpoints have none
    for name in _DIGESTED:
        if name in stored and stored[name] != file_digest(checkpoint.path / name):
            raise CheckpointError(
                f"{checkpoint.path / name} is not the file that config.json names: it is damaged, "
                "or of another model. Bring it again; where it was changed on purpose, take "
                "`files` out of config.json."
            )


def file_digest(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, framework="np") as weights:
            return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error


def _metrics(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    metrics = _read_json(path)
    check_metrics(metrics, str(path))
    return metrics


def _training_state(folder: Path) -> dict[str, Any] | None:
    path = folder / "training.pt"
    if not path.is_file():
        return None
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on damaged or unsafe files
        raise CheckpointError(f"{path} is damaged or unsafe: {error}") from error


def _read_text(path: Path) -> str:
    try:
        return text_of(path)
    except Unreadable as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error


def _read_json(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    try:
        values = json_of(text)
    except Unreadable as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds {type(values).__name__}; an object was wanted.")
    return values


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", "utf-8")
