"""What a captioner is made of, and how it is put together.

From modules that are at hand, or from a checkpoint: as modules of torch, or as exported graphs,
which need no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from regard.backends import Backend
from regard.backends.onnx_backend import OnnxBackend, available_cores
from regard.checkpoint.folder import Checkpoint, load_checkpoint
from regard.checkpoint.onnx_manifest import MANIFEST, OnnxManifest, read_manifest
from regard.config import Recipe, VideoConfig
from regard.config.io import from_dict
from regard.errors import CheckpointError, ConfigError, UnknownName, needs_torch
from regard.media.reader import Reader, StoredReader
from regard.reliability.confidence import Confidence, stored_confidence
from regard.text.vocabulary import Vocabulary
from regard.types import MEDIA

if TYPE_CHECKING:
    from regard.model.decoder import AttentionDecoder
    from regard.model.encoders import Encoder
    from regard.native.cpp_step import CppStep
    from regard.reliability.out_of_distribution import OutOfDistributionDetector

Modules: TypeAlias = "tuple[Encoder, AttentionDecoder]"

_BACKENDS = ("auto", "onnx", "torch")
_WORTH_A_SESSION = 150  # pictures from which another session of onnxruntime pays
_UNTRAINED_FRAMES = 12  # of a clip that a model of pictures captions
PICTURES_AT_ONCE = 64  # pictures, frames or slices that are encoded together


@dataclass(frozen=True)
class Components:
    """What a captioner is made of.

    Attributes:
        reader: what it reads, and on which grid; needs no torch.
        backend: runs the encoder and the decoder's step.
        modules: returns encoder and decoder as modules of torch, loaded at the first call.
        vocabulary: ids to words.
        config: the recipe that the modules were made by.
        name: printed with every caption.
        device: where the work is done.
        metrics: scores that travel with the model.
        familiarity: compares inputs with the training items, where those were summed up.
        confidence: the chance that words are right, where the model was calibrated.
        native_step: returns the decoder's compiled step, on one core, for so many pictures; None
            where there is none, or where it would not pay.
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

    def for_clips(self, config: VideoConfig | None) -> Components:
        """Return the components of `Captioner.for_clips`."""
        medium = self.reader.medium
        if medium != "image":
            raise ConfigError(
                f"{self.name!r} captions {MEDIA[medium].noun}s already; it reads no frames."
            )
        if self.config.decoder.position != "none":
            raise ConfigError(
                f"{self.name!r} has a position code for the cells of one picture, which has no "
                "place for a clip's frames. Use a model of clips, or one without a position code."
            )
        config = config or VideoConfig(frames=_UNTRAINED_FRAMES, grid="spatio_temporal")
        if config.motion != "none":
            raise ConfigError(
                f"encoder.video.motion is {config.motion!r}, and {self.name!r} was trained on "
                'pictures, which do not move. Set it to "none", or train on clips.'
            )

        @cache
        def modules() -> Modules:
            from regard.model.encoders import FrameEncoder, PictureEncoder

            encoder, decoder = self.modules()
            assert isinstance(encoder, PictureEncoder)
            return FrameEncoder(encoder, config).eval(), decoder

        reader = self.reader.of_clips(config)
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
        # Scores, familiarity and confidence are of pictures; threads and sizes are chosen anew.
        return Components(
            reader, backend, modules, self.vocabulary, recipe, self.name, self.device,
            native_step=self.native_step,
        )  # fmt: skip

    def accelerated(self, pictures: int, cores: int | None) -> Components:
        """Return the components of `Captioner.accelerated`."""
        few = pictures * self.reader.pictures_per_item < _WORTH_A_SESSION
        if few or self.device != "cpu":
            return self
        if isinstance(self.backend, OnnxBackend):
            backend: Backend = self.backend.on_one_core(self.native_step(pictures))
            threads = cores or available_cores()
        else:
            import torch

            from regard.backends.torch_backend import TorchBackend
            from regard.model.encoders.onnx_encoder import encode_with

            threads = cores or torch.get_num_threads()
            encode = encode_with(self.encoder, threads=1)
            backend = TorchBackend(self.encoder, self.decoder, encode=encode)
        share = -(-pictures // threads)  # so that no core stands idle
        return replace(self, backend=backend, threads=threads, most_at_once=share)


def of_modules(
    encoder: Encoder,
    decoder: AttentionDecoder,
    vocabulary: Vocabulary,
    config: Recipe,
    *,
    name: str,
    device: str = "cpu",
    **others: Any,
) -> Components:
    """Return components around two modules, which are used as they are, not copied.

    Args:
        encoder: pixels to annotations.
        decoder: annotations to words.
        vocabulary: see `Components`, as for the rest.
        config: see `Components`.
        name: see `Components`.
        device: where the modules are put.
        **others: metrics, familiarity, confidence.

    Raises:
        ConfigError: there is no such device.
    """
    from regard.backends.torch_backend import TorchBackend

    _check_device(device)
    modules = encoder.to(device), decoder.to(device)
    backend = TorchBackend(*modules, device)
    return Components(encoder, backend, lambda: modules, vocabulary, config, name, device, **others)


def load_components(folder: str | Path, device: str = "cpu", backend: str = "auto") -> Components:
    """Load the components of a checkpoint; see `Captioner.load`."""
    if backend not in _BACKENDS:
        raise UnknownName("backend", backend, _BACKENDS)
    if backend == "onnx" and device != "cpu":
        raise ConfigError(f"backend='onnx' runs on the cpu, and device is {device!r}.")
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
        ConfigError: there is no such device.
        MissingExtra: torch, or a package that the encoder needs, is not installed.
    """
    recipe = _recipe(checkpoint)
    modules = _build_modules(checkpoint, recipe)
    config = checkpoint.config
    return of_modules(
        *modules, checkpoint.vocabulary, recipe, name=config["name"], device=device,
        metrics=checkpoint.metrics, familiarity=_stored_familiarity(config),
        confidence=stored_confidence(config),
    )  # fmt: skip


def _of_graphs(checkpoint: Checkpoint, manifest: OnnxManifest) -> Components:
    """Return components that run on graphs; torch is loaded only where a module is wanted."""
    config = checkpoint.config
    # The sessions open on a thread of their own, while the rest is read.
    backend = OnnxBackend.open(
        checkpoint.path,
        list(manifest.files),
        grid_shape=tuple(config["encoder"]["grid_shape"]),
        per_frame=manifest.per_frame,
    )
    reader = StoredReader.of(config, pictures_per_item=manifest.pictures_per_item)
    recipe = _recipe(checkpoint)

    def native_step(pictures: int) -> CppStep | None:
        from regard.native import dispatch
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

    return Components(
        reader, backend, cache(lambda: _build_modules(checkpoint, recipe)), checkpoint.vocabulary,
        recipe, config["name"], metrics=checkpoint.metrics,
        familiarity=_stored_familiarity(config), confidence=stored_confidence(config),
        native_step=native_step,
    )  # fmt: skip


def _recipe(checkpoint: Checkpoint) -> Recipe:
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


def _stored_familiarity(config: dict[str, Any]) -> OutOfDistributionDetector | None:
    """Return what a checkpoint knows of its training items, or None.

    Raises:
        CheckpointError: it is damaged.
    """
    if (stored := config.get("familiarity")) is None:
        return None
    from regard.reliability.out_of_distribution import OutOfDistributionDetector

    return OutOfDistributionDetector.from_json(stored)


def _check_device(device: str) -> None:
    with needs_torch(f"the device {device!r}"):
        import torch
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        here = "cpu and cuda" if torch.cuda.is_available() else "cpu"
        raise ConfigError(f"device {device!r} cannot be used; this machine has {here}.") from error
