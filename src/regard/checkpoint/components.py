"""Parts: what a captioner is made of, and where the parts come from.

From modules that are at hand, or from a checkpoint: as modules, or as graphs, which need no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from regard.backends import Backend
from regard.backends.onnx_backend import OnnxBackend
from regard.checkpoint.folder import Checkpoint, load_checkpoint
from regard.checkpoint.onnx_manifest import MANIFEST, LightModel, open_light
from regard.config import Recipe, VideoConfig
from regard.config.io import from_dict
from regard.errors import CheckpointError, ConfigError, UnknownName, needs_torch
from regard.media.reader import Reader, StoredReader
from regard.reliability.confidence import Confidence, stored_confidence
from regard.reliability.out_of_distribution import Familiarity, stored_familiarity
from regard.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from regard.checkpoint.build import Model
    from regard.model.decoder import AttentionDecoder
    from regard.model.encoders import Encoder
    from regard.native.cpp_step import CppStep

Modules: TypeAlias = "Callable[[], tuple[Encoder, AttentionDecoder]]"
"""Gives the modules of torch; always the same ones."""

_BACKENDS = ("auto", "onnx", "torch")
_UNTRAINED_FRAMES = 12  # of a clip that a model of pictures captions


@dataclass(frozen=True)
class Parts:
    """What a captioner is made of.

    Attributes:
        reader: what it reads, and on which grid; needs no torch.
        backend: who runs the encoder and the decoder's step.
        modules: gives both as modules of torch, loaded at the first call.
        steps: gives the decoder's compiled steps, on one core, to a backend of graphs that has so
            many pictures to caption; None where there are none, or where they would not pay.
        vocabulary: ids to words.
        config: the recipe that the parts were made by.
        name: printed with every caption.
        device: where the work is done.
        metrics: scores that travel with the model.
        familiarity: what its training items were like; captions of others then say so.
        confidence: how sure to be of its words; captions then say so.
    """

    reader: Reader
    backend: Backend
    modules: Modules
    steps: Callable[[int], CppStep | None]
    vocabulary: Vocabulary
    config: Recipe
    name: str
    device: str
    metrics: dict[str, Any]
    familiarity: Familiarity | None
    confidence: Confidence | None

    def for_clips(self, config: VideoConfig | None) -> Parts:
        """Return the parts of `Captioner.for_clips`, which says what is refused."""
        if self.reader.medium != "image":
            raise ConfigError(
                f"{self.name!r} captions {self.reader.medium}s already; it reads no frames."
            )
        if self.config.decoder.position != "none":
            raise ConfigError(
                f"{self.name!r} has a position code for the cells of one picture, which a clip's "
                "frames have no place in. Use a model of clips, or one without a position code."
            )
        config = config or VideoConfig(frames=_UNTRAINED_FRAMES, grid="spatio_temporal")
        if config.motion != "none":
            raise ConfigError(
                f"encoder.video.motion is {config.motion!r}, and {self.name!r} was trained on "
                'pictures, which do not move. Set it to "none", or train on clips.'
            )
        reader = self.reader.of_clips(config)
        modules = cache(partial(_frames_of, self.modules, config))
        if isinstance(self.backend, OnnxBackend):
            backend: Backend = self.backend.for_frames(reader.grid_shape)
        else:
            from regard.backends.torch_backend import TorchBackend

            backend = TorchBackend(*modules(), self.device)
        recipe = replace(
            self.config,
            encoder=replace(self.config.encoder, medium="video", video=config),
            decoder=replace(self.config.decoder, grid_shape=reader.grid_shape),
        )
        return replace(
            self,
            reader=reader,
            backend=backend,
            modules=modules,
            config=recipe,
            metrics={},  # its scores, like the next two, are of pictures
            familiarity=None,
            confidence=None,
        )


def parts_of_modules(
    encoder: Encoder,
    decoder: AttentionDecoder,
    vocabulary: Vocabulary,
    config: Recipe,
    name: str,
    device: str,
    metrics: dict[str, Any] | None = None,
    familiarity: Familiarity | None = None,
    confidence: Confidence | None = None,
) -> Parts:
    """Return the parts around two modules, which are used as they are, not copied.

    Raises:
        ConfigError: there is no such device.
    """
    from regard.backends.torch_backend import TorchBackend

    _check_device(device)
    modules = encoder.to(device), decoder.to(device)
    backend = TorchBackend(*modules, device)
    return Parts(encoder, backend, lambda: modules, lambda _: None, vocabulary, config, name,
                 device, metrics or {}, familiarity, confidence)  # fmt: skip


def load_parts(folder: str | Path, device: str, backend: str) -> Parts:
    """Return the parts of a checkpoint; `Captioner.load` says of what and what is refused."""
    if backend not in _BACKENDS:
        raise UnknownName("backend", backend, _BACKENDS)
    if backend == "onnx" and device != "cpu":
        raise ConfigError(f"backend='onnx' runs on the cpu, and device is {device!r}.")
    checkpoint = load_checkpoint(folder)
    light = open_light(checkpoint) if device == "cpu" and backend != "torch" else None
    if light is not None:
        return parts_of_graphs(light)
    if backend == "onnx":
        raise CheckpointError(
            f"{checkpoint.path} has no graphs. Make them, where torch is installed: "
            f"regard export {checkpoint.path} --to onnx."
        )
    model = _assembled(checkpoint)
    return parts_of_modules(
        model.encoder,
        model.decoder,
        model.vocabulary,
        model.recipe,
        model.name,
        device,
        checkpoint.metrics,
        model.familiarity,
        model.confidence,
    )


def parts_of_graphs(light: LightModel) -> Parts:
    """Return parts that run on graphs; torch is loaded only where a module is wanted.

    Raises:
        CheckpointError: the config is of another version of regard.
    """
    checkpoint = light.checkpoint
    config = checkpoint.config
    reader = StoredReader.of(config, pictures_per_item=light.graphs.pictures_per_item)
    try:
        recipe = from_dict(Recipe, config["recipe"])
    except (ConfigError, UnknownName) as error:
        raise CheckpointError(f"{checkpoint.path / 'config.json'}: {error}") from error

    def modules() -> tuple[Encoder, AttentionDecoder]:
        model = _assembled(checkpoint)
        return model.encoder, model.decoder

    def steps(pictures: int) -> CppStep | None:
        from regard.native import dispatch  # one picture needs none
        from regard.native.cpp_step import CppStep, StepWeights

        known = recipe.decoder.scores in dispatch.KNOWN_SCORES
        library = dispatch.ONNX_STEP.library(dispatch.Case(items=pictures, known_scores=known))
        if library is None:
            return None
        try:
            weights = StepWeights.from_named(checkpoint.arrays("decoder."), recipe.decoder)
        except (KeyError, ValueError, IndexError):
            return None  # the graphs will say what is wrong with the model
        return CppStep(weights, library, threads=1)

    return Parts(reader, light.backend, cache(modules), steps, checkpoint.vocabulary, recipe,
                 config["name"], "cpu", checkpoint.metrics, stored_familiarity(config),
                 stored_confidence(config))  # fmt: skip


def _assembled(checkpoint: Checkpoint) -> Model:
    hint = f"Or export it where torch is: regard export {checkpoint.path} --to onnx"
    purpose = f"the model {checkpoint.config['name']!r}, as a module of torch,"
    with needs_torch(purpose, "" if (checkpoint.path / MANIFEST).is_file() else hint):
        from regard.checkpoint.build import assemble
    return assemble(checkpoint)


def _frames_of(modules: Modules, config: VideoConfig) -> tuple[Encoder, AttentionDecoder]:
    from regard.model.encoders import FrameEncoder, PictureEncoder

    encoder, decoder = modules()
    assert isinstance(encoder, PictureEncoder)
    return FrameEncoder(encoder, config).eval(), decoder


def _check_device(device: str) -> None:
    with needs_torch(f"the device {device!r}"):
        import torch
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        here = "cpu and cuda" if torch.cuda.is_available() else "cpu"
        raise ConfigError(f"device {device!r} cannot be used; this machine has {here}.") from error
