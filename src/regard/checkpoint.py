"""A checkpoint is a folder that needs nothing else.

    config.json         format version, regard's version, recipe, preprocessing, encoder, ids
    vocabulary.json     words and how captions are cut
    model.safetensors   `decoder.*` and `encoder.*` weights; float16 where shipped
    metrics.json        scores with their settings
    README.md           model card
    training.pt         only where the run can be resumed; loaded weights-only

It is written to a temporary folder beside its place and renamed, so that a kill or a full
disk leaves the old one whole.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from regard.errors import CheckpointError
from regard.vocabulary import Vocabulary

FORMAT_VERSION = 1
_NEEDED = ("config.json", "vocabulary.json", "model.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """The parts of a checkpoint.

    Attributes:
        path: its folder.
        config: `config.json`.
        vocabulary: the words.
        weights: by name, float32 (whatever they were stored as).
        metrics: `metrics.json`; empty where there is none.
        training_state: `training.pt` where it was asked for and exists.
    """

    path: Path
    config: dict[str, Any]
    vocabulary: Vocabulary
    weights: dict[str, Tensor]
    metrics: dict[str, Any]
    training_state: dict[str, Any] | None = None


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
        folder: where it shall lie.
        config: plain values; the format version is added.
        vocabulary: the words.
        weights: by name; stored in the type they have.
        metrics: plain values.
        card: the model card, Markdown.
        training_state: tensors and plain values for resuming.

    Raises:
        CheckpointError: it cannot be written; what was there before is untouched.
    """
    folder = Path(folder)
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        temporary.chmod(0o755)
        _write_json(temporary / "config.json", {"format_version": FORMAT_VERSION} | config)
        (temporary / "vocabulary.json").write_text(vocabulary.to_json(), "utf-8")
        # Safetensors refuses tensors that share memory; tied weights are stored once each.
        plain = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format)
                 for k, v in weights.items()}  # fmt: skip
        save_file(plain, temporary / "model.safetensors")
        _write_json(temporary / "metrics.json", metrics)
        (temporary / "README.md").write_text(card, "utf-8")
        if training_state is not None:
            torch.save(training_state, temporary / "training.pt")
        _sync(temporary)
        _swap(temporary, folder)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint {folder} cannot be written: {error}. What was there before is "
            "untouched. Free some space or name another folder."
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def load_checkpoint(folder: str | Path, *, training: bool = False) -> Checkpoint:
    """Read a checkpoint.

    Args:
        folder: its folder.
        training: also read `training.pt`.

    Raises:
        CheckpointError: a file is missing or damaged, the format is newer than this regard
            knows, or the parts do not fit each other.
    """
    folder = _recovered(Path(folder))
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} is no checkpoint: {', '.join(missing)} missing. Wanted: a folder with "
            f"{', '.join(_NEEDED)}. `regard models` lists the shipped ones."
        )
    config = inspect_checkpoint(folder)
    vocabulary = Vocabulary.from_json(_read_text(folder / "vocabulary.json"))
    try:
        weights = load_file(folder / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / 'model.safetensors'} is damaged: {error}.") from error
    checkpoint = Checkpoint(
        folder,
        config,
        vocabulary,
        {k: v.float() if v.is_floating_point() else v for k, v in weights.items()},
        _read_json(folder / "metrics.json") if (folder / "metrics.json").is_file() else {},
        _training_state(folder) if training else None,
    )
    _check_fit(checkpoint)
    return checkpoint


def inspect_checkpoint(folder: str | Path) -> dict[str, Any]:
    """Read `config.json` alone.

    Raises:
        CheckpointError: it is missing, damaged, or of a newer format.
    """
    path = Path(folder) / "config.json"
    config = _read_json(path)
    version = config.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format_version {version!r}; this regard knows {FORMAT_VERSION}. Update "
            "regard, or save the model again with the version that made it."
        )
    return config


def _check_fit(checkpoint: Checkpoint) -> None:
    rows = checkpoint.weights.get("decoder.embedding.weight")
    if rows is None:
        raise CheckpointError(f"{checkpoint.path} holds no word embedding: it is no captioner.")
    if rows.shape[0] != len(checkpoint.vocabulary):
        raise CheckpointError(
            f"{checkpoint.path}: the vocabulary has {len(checkpoint.vocabulary)} words and the "
            f"embedding {rows.shape[0]} rows, so words would be mixed up. vocabulary.json is of "
            "another model."
        )


def _training_state(folder: Path) -> dict[str, Any] | None:
    path = folder / "training.pt"
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on damaged or unsafe files
        raise CheckpointError(f"{path} is damaged or unsafe: {error}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(_read_text(path))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds {type(values).__name__}; an object was wanted.")
    return values


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", "utf-8")


def _sync(folder: Path) -> None:
    """Have the bytes on the disk before the names change."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _swap(temporary: Path, folder: Path) -> None:
    """Put the new folder in the old one's place; the old is kept until the new is there."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    try:
        temporary.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _recovered(folder: Path) -> Path:
    """Return the folder, or the old one that a kill between two renames left beside it."""
    old = folder.with_name(f".{folder.name}.old")
    return old if not folder.exists() and old.exists() else folder
