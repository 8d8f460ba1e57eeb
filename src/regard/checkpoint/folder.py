"""Reading and checking of checkpoints: folders that hold all that a captioner needs.

    config.json         format version, regard's version, recipe, preprocessing, encoder, ids,
                        digests of the next three
    vocabulary.json     words, and how captions are cut into tokens
    model.safetensors   `decoder.*` and `encoder.*` weights; float16 where shipped
    encoder.safetensors the weights of a large encoder, instead: matrices in 8 bits where that is
                        exact; may lie in another model's folder beside this one
    metrics.json        scores with their settings
    README.md           model card
    training.pt         only if the run can be resumed; loaded weights-only
    graphs.json, *.onnx only if `regard export` wrote them

It is written whole or not at all (`regard.checkpoint.build`). Reading needs no torch until the
weights are asked for.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from regard.config import DecodingConfig
from regard.config.io import to_dict
from regard.errors import CheckpointError, needs_torch
from regard.text.vocabulary import SPECIALS, Vocabulary
from regard.types.media import MEDIA
from regard.util.safe_io import Unreadable, json_of, text_of

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1
SPECIAL_IDS = {word: i for i, word in enumerate(SPECIALS)}
"""The special ids by their words; stored in every config and compared when it is read."""

_NEEDED = ("config.json", "vocabulary.json", "model.safetensors")
WEIGHTS, ENCODER_WEIGHTS = "model.safetensors", "encoder.safetensors"
DIGESTED = ("vocabulary.json", WEIGHTS)
TIED = "decoder.output.weight", "decoder.embedding.weight"
"""Two names of one matrix in a decoder with tied embeddings; stored under the second."""
_OFF_LENGTH = 0.01  # of a concept's vector, stored as float16


@dataclass(frozen=True)
class Checkpoint:
    """The parts of a checkpoint.

    Attributes:
        path: its folder.
        config: `config.json`.
        vocabulary: the words.
        shapes: shapes of the weights, by name.
        metrics: `metrics.json`; empty without it.
        training_state: `training.pt`, if it was requested and exists.
        encoder_file: the encoder's own file of weights, here or in a folder beside this one.
    """

    path: Path
    config: dict[str, Any]
    vocabulary: Vocabulary
    shapes: dict[str, tuple[int, ...]]
    metrics: dict[str, Any]
    training_state: dict[str, Any] | None = None
    encoder_file: Path | None = None

    @property
    def encoder_prefix(self) -> str:
        """The prefix of the weights that are stored in the encoder's own file."""
        return "encoder." + self.config["encoder"].get("prefix", "")

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The weights by name as float32, whatever type they are stored in; read on first use.

        Raises:
            MissingExtra: torch is not installed.
        """
        with needs_torch("reading a model's weights"):
            from regard.model.encoders.int8_weights import read_weights

        weights = read_weights(self.path / WEIGHTS)
        if self.encoder_file is not None:
            own = read_weights(self.encoder_file)
            weights |= {self.encoder_prefix + name: value for name, value in own.items()}
        return self.with_tied(weights)

    def with_tied(self, named: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        """Return values by weight name without a prefix, with both names of a tied weight."""
        output, embedding = (name.removeprefix(prefix) for name in TIED)
        tied = self.config["recipe"].get("decoder", {}).get("tie_embeddings") is True
        return {output: named[embedding]} | named if tied and embedding in named else named

    def arrays(self, prefix: str, only: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        """Return the weights whose names start with a prefix, without it, as float32; no torch.

        `only` names those that are read, without the prefix; empty: all.
        """
        with safe_open(self.path / WEIGHTS, framework="numpy") as stored:
            found = {
                name.removeprefix(prefix): stored.get_tensor(name).astype(np.float32)
                for name in stored.keys()  # noqa: SIM118
                if name.startswith(prefix) and (not only or name.removeprefix(prefix) in only)
            }
        return found if only else self.with_tied(found, prefix)


def load_checkpoint(folder: str | Path, *, training: bool = False) -> Checkpoint:
    """Read a checkpoint.

    Args:
        folder: its folder.
        training: also read `training.pt`.

    Raises:
        CheckpointError: a file is missing or damaged, the format is newer than this version of
            regard supports, or the parts do not fit each other.
    """
    folder = Path(folder)
    if not folder.exists():  # a kill may have left the old one under another name
        from regard.util.atomic import recovered

        folder = recovered(folder)
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} is not a checkpoint: it lacks {', '.join(missing)}. A checkpoint is a "
            f"folder with {', '.join(_NEEDED)}. `regard models` lists the shipped ones."
        )
    config = inspect_checkpoint(folder)
    vocabulary = Vocabulary.from_json(_read_text(folder / "vocabulary.json"))
    checkpoint = Checkpoint(
        folder,
        config,
        vocabulary,
        _shapes(folder / WEIGHTS),
        _metrics(folder / "metrics.json"),
        _training_state(folder) if training else None,
        _encoder_file(folder, config),
    )
    if checkpoint.encoder_file is not None:
        own = _shapes(checkpoint.encoder_file)
        for name, shape in own.items():
            if name == (matrix := name.removesuffix(".scale")) or matrix not in own:
                checkpoint.shapes[checkpoint.encoder_prefix + name] = shape
    _check_fit(checkpoint)
    if "decoder.pointer.forms" in checkpoint.shapes:
        _check_bank(checkpoint)
    _check_digests(checkpoint)
    return checkpoint


def inspect_checkpoint(folder: str | Path) -> dict[str, Any]:
    """Read `config.json` alone and check that it holds all that a captioner is built from.

    Raises:
        CheckpointError: it is missing, damaged, incomplete, or of an unknown format.
    """
    path = Path(folder) / "config.json"
    config = _read_json(path)
    version = config.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format_version {version!r}; this version of regard "
            f"supports {FORMAT_VERSION}. Update regard, or save the model again with the version "
            "that wrote it."
        )
    check_config(config, str(path))
    return config


def _check_fit(checkpoint: Checkpoint) -> None:
    stored = checkpoint.config["special_ids"]
    if stored != SPECIAL_IDS:
        raise CheckpointError(
            f"{checkpoint.path}: special_ids are {stored}; regard uses {SPECIAL_IDS}. The "
            "model was written by another program."
        )
    shape = checkpoint.shapes.get("decoder.embedding.weight")
    if shape is None:
        raise CheckpointError(f"{checkpoint.path} holds no word embedding: it is not a captioner.")
    if shape[0] != len(checkpoint.vocabulary):
        raise CheckpointError(
            f"{checkpoint.path}: the vocabulary has {len(checkpoint.vocabulary)} words and the "
            f"embedding {shape[0]} rows, so words would be mixed up. vocabulary.json belongs to "
            "another model."
        )


def _check_bank(checkpoint: Checkpoint) -> None:
    """Raise if the bank of a pointer does not fit the vocabulary or holds no directions."""
    bank = checkpoint.arrays("decoder.pointer.", ("forms", "vectors"))
    words, forms = len(checkpoint.vocabulary), bank["forms"]
    if forms.size and not (forms.min() >= len(SPECIALS) and forms.max() < words):
        raise CheckpointError(
            f"{checkpoint.path}: a concept's forms are the ids {forms.min():.0f} to "
            f"{forms.max():.0f}, and words have the ids {len(SPECIALS)} to {words - 1}. The "
            "weights belong to another vocabulary."
        )
    lengths = np.linalg.norm(bank["vectors"], axis=-1)
    if not np.all(np.abs(lengths - 1) < _OFF_LENGTH):
        worst = lengths[np.argmax(np.abs(lengths - 1))]
        raise CheckpointError(
            f"{checkpoint.path}: the vector of a concept has the length {worst:.3g}; expected 1. "
            "model.safetensors is damaged, or the bank was never filled."
        )


def _check_digests(checkpoint: Checkpoint) -> None:
    """Raise if a file was changed: a flipped bit or two swapped words still fit the config."""
    stored = checkpoint.config.get("files", {})  # older checkpoints have none
    files = {name: checkpoint.path / name for name in DIGESTED}
    if checkpoint.encoder_file is not None:
        files[ENCODER_WEIGHTS] = checkpoint.encoder_file
    for name, file in files.items():
        if name in stored and stored[name] != file_digest(file):
            raise CheckpointError(
                f"{file} is not the file that config.json names: it is damaged, "
                "or belongs to another model. Copy or download it again; if it was changed on "
                "purpose, remove `files` from config.json."
            )


def file_digest(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _encoder_file(folder: Path, config: dict[str, Any]) -> Path | None:
    """Return the file of an encoder that has its own: in the folder, or in one beside it.

    Models may share the file, so that a package holds it once. Another folder has it if its config
    names the same digest.

    Raises:
        CheckpointError: the file is missing.
    """
    if "prefix" not in config["encoder"]:
        return None
    digest = config.get("files", {}).get(ENCODER_WEIGHTS)
    others = sorted(folder.resolve().parent.glob(f"*/{ENCODER_WEIGHTS}")) if digest else []
    for file in (folder / ENCODER_WEIGHTS, *others):
        own = file.parent == folder
        if file.is_file() and (own or _named_digest(file.parent) == digest):
            return file
    raise CheckpointError(
        f"{folder} lacks {ENCODER_WEIGHTS}, the weights of {config['encoder']['name']}, and no "
        f"model in a folder beside it has that file (SHA-256 {digest}). Copy it from the model "
        "that it was shipped with, or copy or download this model again."
    )


def _named_digest(folder: Path) -> str | None:
    """Return the digest of the encoder's file that a folder's config names, if it names one."""
    try:
        return _read_json(folder / "config.json")["files"][ENCODER_WEIGHTS]
    except (CheckpointError, KeyError, TypeError):
        return None


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
        # torch stores entries as they are; others may inflate to any size.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                if any(entry.compress_type for entry in packed.infolist()):
                    raise ValueError("it has compressed entries, which torch does not write")
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
        raise CheckpointError(f"{path} holds {type(values).__name__}; an object was expected.")
    return values


def change_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change only the `config.json` of a checkpoint.

    Args:
        folder: folder of the checkpoint.
        change: receives the config and changes it in place.

    Raises:
        CheckpointError: the config cannot be read or written; it is then unchanged.
    """
    from regard.util.atomic import whole_file

    path = folder / "config.json"
    try:
        config = json_of(text_of(path))
        if not isinstance(config, dict):
            raise Unreadable("expected a table of settings")
        change(config)
        with whole_file(path) as new:
            new.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", "utf-8")
            new.chmod(path.stat().st_mode)
    except (OSError, Unreadable) as error:
        raise CheckpointError(f"{path} cannot be changed: {error}. It is unchanged.") from error


def store_decoding(folder: Path, decoding: DecodingConfig) -> None:
    """Store the decoding options in a checkpoint; see `change_config`."""
    change_config(folder, lambda config: config["recipe"].update(decoding=to_dict(decoding)))


# The required contents of the two JSON files. A checkpoint may come from an untrusted source, so
# every value is checked before anything is built from it.

_LONGEST_NAME = 1000
_MOST_CELLS, _MOST_FEATURES = 2**20, 2**20

_Check = tuple[Callable[[Any], bool], str]
"""Whether a value is right, and what was expected."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_NAME


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST_FEATURES


def _is_grid(value: Any) -> bool:
    if not isinstance(value, list) or not 1 <= len(value) <= 3:
        return False
    return all(map(_is_count, value)) and math.prod(value) <= _MOST_CELLS


def _is_digests(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(digest, str) for digest in value.values())


def _is_scores(value: Any) -> bool:
    return isinstance(value, dict) and all(
        score is None or (isinstance(score, int | float) and not isinstance(score, bool))
        for score in value.values()
    )


_TEXT: _Check = (_is_text, f"text of at most {_LONGEST_NAME} characters")
_TABLE: _Check = (lambda value: isinstance(value, dict), "an object")
_REQUIRED: dict[str, _Check] = {
    "name": _TEXT,
    "medium": (lambda value: value in [*MEDIA], f"one of {', '.join(MEDIA)}"),
    **dict.fromkeys(("recipe", "preprocessing", "special_ids", "encoder"), _TABLE),
    **dict.fromkeys(("encoder.name", "encoder.digest"), _TEXT),
    "encoder.annotation_dim": (_is_count, f"a whole number from 1 to {_MOST_FEATURES}"),
    "encoder.grid_shape": (
        _is_grid,
        f"a list of 1 to 3 numbers of cells, {_MOST_CELLS} cells at most",
    ),
}
_OPTIONAL: dict[str, _Check] = {
    **dict.fromkeys(("regard_version", "recipe.name", "recipe.encoder.level"), _TEXT),
    "encoder.prefix": _TEXT,
    **dict.fromkeys(("recipe.encoder", "recipe.encoder.video", "recipe.decoder"), _TABLE),
    "files": (_is_digests, "an object of digests by file name"),
}
_METRICS: dict[str, _Check] = {
    "scores": (_is_scores, "an object of numbers by name"),
    "settings": _TABLE,
}
_ABSENT = object()


def check_config(config: dict[str, Any], source: str) -> None:
    """Raise if a `config.json` is incomplete or holds values of wrong types.

    Args:
        config: as it was read.
        source: its path, for messages.

    Raises:
        CheckpointError: the message lists all missing keys, or the first wrong value.
    """
    missing = [key for key in _REQUIRED if _at(config, key) is _ABSENT]
    if missing:
        raise CheckpointError(f"{source} is incomplete: it lacks {', '.join(missing)}.")
    _check(config, _REQUIRED | _OPTIONAL, source)


def check_metrics(metrics: dict[str, Any], source: str) -> None:
    """Raise if a `metrics.json` holds values of wrong types; see `check_config`.

    Raises:
        CheckpointError: the message names the first wrong value.
    """
    _check(metrics, _METRICS, source)


def _check(values: dict[str, Any], checks: dict[str, _Check], source: str) -> None:
    for key, (is_right, expected) in checks.items():
        value = _at(values, key)
        if value is not _ABSENT and not is_right(value):
            raise CheckpointError(
                f"{source}: {key} is {value!r:.200}; it must be {expected}. The file is damaged, "
                "or was written by another program. Copy or download the model again."
            )


def _at(values: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        if not isinstance(values, dict) or key not in values:
            return _ABSENT
        values = values[key]
    return values
