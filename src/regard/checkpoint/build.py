"""Conversion between checkpoints and torch modules."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from regard.checkpoint.folder import (
    DIGESTED,
    ENCODER_WEIGHTS,
    FORMAT_VERSION,
    SPECIAL_IDS,
    TIED,
    WEIGHTS,
    Checkpoint,
    file_digest,
)
from regard.checkpoint.model_card import model_card
from regard.config import Recipe
from regard.config.io import to_dict
from regard.errors import CheckpointError, ConfigError, UnknownName
from regard.model.decoder import AttentionDecoder
from regard.model.encoders import Encoder, build_encoder, own_part
from regard.model.encoders.int8_weights import packed, unpacked
from regard.text.vocabulary import Vocabulary
from regard.util.atomic import replaced_whole
from regard.version import __version__

if TYPE_CHECKING:
    from regard.checkpoint.components import Components

_FAULTS_SHOWN = 4


def build_modules(checkpoint: Checkpoint, recipe: Recipe) -> tuple[Encoder, AttentionDecoder]:
    """Build the modules that a checkpoint describes, with its weights, in evaluation mode.

    Raises:
        CheckpointError: the parts of the checkpoint do not fit each other.
        MissingExtra: the encoder needs a package that is not installed.
    """
    check_sizes(checkpoint, recipe)
    encoder, decoder = _built(checkpoint, recipe)
    _check_encoder(checkpoint, encoder)
    load_weights(_module(encoder, decoder), checkpoint.weights, str(checkpoint.path))
    if encoder.digest() != checkpoint.config["encoder"]["digest"]:
        raise CheckpointError(
            f"{checkpoint.path}: the encoder's weights are not those that config.json names; "
            f"{checkpoint.encoder_file or WEIGHTS} is damaged or belongs to another model."
        )
    return encoder.eval(), decoder.eval()


def _built(checkpoint: Checkpoint, recipe: Recipe) -> tuple[Encoder, AttentionDecoder]:
    """Build the modules of a checkpoint with fresh weights, which are to be overwritten.

    Raises:
        CheckpointError: a setting does not fit.
    """
    try:
        with torch.random.fork_rng(devices=[]):  # the caller's random state must not change
            encoder = build_encoder(recipe.encoder, pretrained=False)
            decoder = AttentionDecoder(
                recipe.decoder,
                annotation_dim=encoder.annotation_dim,
                vocabulary_size=len(checkpoint.vocabulary),
            )
    except (ConfigError, UnknownName) as error:
        raise CheckpointError(f"{checkpoint.path / 'config.json'}: {error}") from error
    return encoder, decoder


def check_sizes(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Compare names and shapes of the stored weights with the recipe, before any memory is taken.

    Raises:
        CheckpointError: they differ.
    """
    try:
        with torch.device("meta"):
            encoder, decoder = _built(checkpoint, recipe)
    except (RuntimeError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise CheckpointError(
            f"{checkpoint.path / 'config.json'}: the network cannot be built with these sizes: "
            f"{error}. The config was edited, or belongs to another model."
        ) from error
    wanted = {k: tuple(v.shape) for k, v in _module(encoder, decoder).state_dict().items()}
    _compare(wanted, checkpoint.with_tied(dict(checkpoint.shapes)), str(checkpoint.path))


def _module(encoder: Encoder, decoder: AttentionDecoder) -> nn.ModuleDict:
    """Return a module that holds both, under the names that their weights have in a checkpoint."""
    return nn.ModuleDict({"encoder": encoder, "decoder": decoder})


def _check_encoder(checkpoint: Checkpoint, encoder: Encoder) -> None:
    """Raise if the config contradicts the encoder."""
    config = checkpoint.config
    for key, stored, own in (
        ("annotation_dim", config["encoder"]["annotation_dim"], encoder.annotation_dim),
        ("grid_shape", config["encoder"]["grid_shape"], list(encoder.grid_shape)),
        ("preprocessing", config["preprocessing"], to_dict(encoder.spec)),
    ):
        if stored != own:
            raise CheckpointError(
                f"{checkpoint.path / 'config.json'}: {key} is {stored}, and the encoder "
                f"{encoder.name} has {own}. The config was edited, or the encoder is from another "
                "version."
            )


def load_weights(module: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load weights into a module, strictly: the names and shapes must be the same.

    Args:
        module: is filled in place.
        weights: by the names of `module.state_dict()`.
        source: where they come from, for messages.

    Raises:
        CheckpointError: names or shapes differ; the module is then untouched.
    """
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    _compare(wanted, {key: tuple(value.shape) for key, value in weights.items()}, source)
    module.load_state_dict(weights)


def _compare(
    wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]], source: str
) -> None:
    """Raise if names or shapes differ; see `load_weights`."""
    faults = [f"{key} is missing" for key in wanted if key not in found]
    faults += [f"{key} is unknown" for key in found if key not in wanted]
    faults += [
        f"{key} has shape {found[key]}, expected {shape}"
        for key, shape in wanted.items()
        if key in found and found[key] != shape
    ]
    if faults:
        more = f"; and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
        raise CheckpointError(
            f"{source}: the weights do not fit the config: {'; '.join(faults[:_FAULTS_SHOWN])}"
            f"{more}. The files belong to different models."
        )


def save_components(
    components: Components,
    folder: str | Path,
    *,
    metrics: dict[str, Any] | None = None,
    training_state: dict[str, Any] | None = None,
    half: bool = False,
    int8: bool = False,
) -> None:
    """Write the checkpoint of a captioner; see `Captioner.save`."""
    metrics = components.metrics if metrics is None else metrics
    config = _described(components, resumable=training_state is not None)
    encoder = components.encoder
    weights = _module(encoder, components.decoder).state_dict()
    if components.decoder.config.tie_embeddings:
        del weights[TIED[0]]
    own, encoder_weights = own_part(encoder), None
    if own is not None:
        prefix, part = own
        encoder_weights = _of_own_file(part, half=half, int8=int8)
        loaded = {prefix + name: value for name, value in unpacked(encoder_weights).items()}
        weights = {k: v for k, v in weights.items() if k.removeprefix("encoder.") not in loaded}
        config["encoder"]["prefix"] = prefix
        config["encoder"]["digest"] = encoder.digest(encoder.state_dict() | loaded)
    save_checkpoint(
        folder,
        config=config,
        vocabulary=components.vocabulary,
        weights={
            name: value.half() if half and value.is_floating_point() else value
            for name, value in weights.items()
        },
        metrics=metrics,
        card=model_card(config, metrics, len(components.vocabulary)),
        training_state=training_state,
        encoder_weights=encoder_weights,
    )


def _of_own_file(part: Encoder, *, half: bool, int8: bool) -> dict[str, Tensor]:
    """Return the weights of an encoder as its own file stores them.

    Args:
        part: the encoder.
        half: store in float16 the matrices that are not in 8 bits, and what float16 holds exactly.
        int8: store all matrices in 8 bits, not only those that they hold exactly.
    """
    matrices = part.matrices()
    stored = packed(part.state_dict(), matrices, lossy=int8)
    if half:  # the rest is small and sensitive, and stays float32
        for name, value in part.state_dict().items():
            if stored[name].is_floating_point():
                exact = torch.equal(value.half().to(value.dtype), value)
                stored[name] = value.half() if exact or name in matrices else value
    return stored


def save_checkpoint(
    folder: str | Path,
    *,
    config: dict[str, Any],
    vocabulary: Vocabulary,
    weights: dict[str, Tensor],
    metrics: dict[str, Any],
    card: str,
    training_state: dict[str, Any] | None = None,
    encoder_weights: dict[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint; an old one in the same place is replaced once the new one is complete.

    Args:
        folder: where it is written; a checkpoint that is there is replaced as a whole.
        config: plain values; the format version and the files' digests are added.
        vocabulary: the words.
        weights: by name; stored in the type they have.
        metrics: plain values.
        card: the model card, Markdown.
        training_state: tensors and plain values for resuming.
        encoder_weights: those of an encoder that has its own file, as they are stored.

    Raises:
        CheckpointError: it cannot be written, or the folder holds something else; existing
            data are unchanged.
    """
    folder = Path(folder).resolve()
    try:
        with replaced_whole(folder, marker="config.json") as new:
            (new / "vocabulary.json").write_text(vocabulary.to_json(), "utf-8")
            stored = {WEIGHTS: weights}
            if encoder_weights is not None:
                stored[ENCODER_WEIGHTS] = encoder_weights
            for name, values in stored.items():
                plain = _plain(values)
                safetensors.torch.save_file(plain, new / name, metadata={"format": "pt"})
            files = {name: file_digest(new / name) for name in dict.fromkeys((*DIGESTED, *stored))}
            config = {"format_version": FORMAT_VERSION} | config | {"files": files}
            _write_json(new / "config.json", config)
            _write_json(new / "metrics.json", metrics)
            (new / "README.md").write_text(card, "utf-8")
            if training_state is not None:
                torch.save(training_state, new / "training.pt")
    except FileExistsError as error:
        raise CheckpointError(
            f"{folder} exists and is not a checkpoint, so it is not replaced. Name another folder."
        ) from error
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint {folder} cannot be written: {error}. Existing data are "
            "unchanged. Free some space or name another folder."
        ) from error


def _plain(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies: safetensors refuses tensors that share memory. Tied ones are stored twice."""
    copied = torch.contiguous_format
    return {k: v.detach().cpu().clone(memory_format=copied) for k, v in weights.items()}


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", "utf-8")


def _described(components: Components, *, resumable: bool) -> dict[str, Any]:
    """Return the `config.json` of a captioner.

    Args:
        components: components of the captioner.
        resumable: whether to keep the paths of the data, so that the run can be resumed; else
            only their names are kept, not where they are on one machine.
    """
    encoder, recipe = components.encoder, components.config
    described: dict[str, Any] = {
        "regard_version": __version__,
        "name": components.name,
        "medium": encoder.medium,
        "recipe": to_dict(recipe if resumable else _without_places(recipe)),
        "preprocessing": to_dict(encoder.spec),
        "encoder": {
            "name": encoder.name,
            "digest": encoder.digest(),
            "annotation_dim": encoder.annotation_dim,
            "grid_shape": list(encoder.grid_shape),
        },
        "special_ids": SPECIAL_IDS,
    }
    for key in ("familiarity", "confidence"):  # never required
        if (part := getattr(components, key)) is not None:
            described[key] = part.to_json()
    return described


def _without_places(recipe: Recipe) -> Recipe:
    data, objective = recipe.data, recipe.objective
    names = {key: Path(getattr(data, key)).name for key in ("annotations", "images", "store")}
    return replace(
        recipe,
        encoder=replace(recipe.encoder, weights=_name_of_model(recipe.encoder.weights)),
        data=replace(data, **names),
        objective=replace(
            objective,
            teachers=tuple(_name_of_model(place) for place in objective.teachers),
            teacher_stores=tuple(Path(place).name for place in objective.teacher_stores),
        ),
        training=replace(recipe.training, init_from=_name_of_model(recipe.training.init_from)),
    )


def _name_of_model(place: str) -> str:
    """Return a model's name without its folder; of a run's best model, with the run's name."""
    path = Path(place)
    if not path.is_absolute():
        return place
    return "/".join(path.parts[-2:]) if path.name in ("best", "last") else path.name
