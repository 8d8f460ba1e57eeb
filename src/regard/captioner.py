"""Captioner: preprocessing, encoder, decoder and vocabulary combined into one caption writer.

It runs on a backend. Graphs under onnxruntime (`regard export`) need no torch, and are used where
a model has them and runs on a CPU; the torch modules are loaded when they are requested, or where
there are no graphs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from regard.backends import Backend
from regard.backends.onnx_backend import OnnxBackend, available_cores
from regard.checkpoint.components import (
    PICTURES_AT_ONCE,
    PICTURES_ON_GPU,
    Components,
    Concept,
    Modules,
    concepts_of,
    load_components,
    of_modules,
    placed,
)
from regard.config import Recipe, VideoConfig
from regard.errors import ConfigError, MediaError, MissingExtra
from regard.media.reader import Reader
from regard.pipeline import Deferred, Failure, Pipeline, Report, Source, decoding_options, encode
from regard.text.vocabulary import Vocabulary
from regard.types import MEDIA, Annotations, Caption, Media

if TYPE_CHECKING:
    from regard.model.concepts import Directions, Lesson
    from regard.model.decoder import AttentionDecoder
    from regard.model.encoders import Encoder
    from regard.model.pointer import Pointer
    from regard.reliability.confidence import Confidence
    from regard.reliability.out_of_distribution import OutOfDistributionDetector

_WORTH_A_SESSION = 150  # pictures from which another session of onnxruntime pays
_UNTRAINED_FRAMES = 12  # of a clip that a model of pictures captions


class Captioner:
    """Writes captions for pictures, clips or scans, depending on its encoder.

    Attributes:
        components: its parts; `with_components` returns a captioner with other ones.

    >>> model = Captioner.load("runs/mine/best")         # doctest: +SKIP
    >>> model.caption("photo.jpg").text                  # doctest: +SKIP
    'a dog runs through the grass'
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: AttentionDecoder,
        vocabulary: Vocabulary,
        config: Recipe,
        *,
        name: str,
        device: str = "auto",
    ) -> None:
        """Wrap two modules; they are not copied.

        Args:
            encoder: pixels to annotations.
            decoder: annotations to words.
            vocabulary: ids to words.
            config: the recipe that the modules were made by.
            name: printed with every caption.
            device: where the model runs: "auto" (a GPU where torch sees one, else the CPU), "cpu",
                "cuda", "cuda:1" or "mps".

        Raises:
            DeviceError: the device cannot be used.
        """
        self.components = of_modules(encoder, decoder, vocabulary, config, name, device)

    @classmethod
    def of(cls, components: Components) -> Captioner:
        """Return a captioner made of the given components."""
        captioner = cls.__new__(cls)
        captioner.components = components
        return captioner

    def with_components(self, **others: Any) -> Captioner:
        """Return a captioner with some components replaced."""
        return self.of(replace(self.components, **others))

    @property
    def reader(self) -> Reader:
        """The input format and the attention grid; needs no torch."""
        return self.components.reader

    @property
    def backend(self) -> Backend:
        """The backend that runs the encoder and the decoder's step."""
        return self.components.backend

    @property
    def encoder(self) -> Encoder:
        """The encoder as a module; a model that runs on graphs loads torch for it."""
        return self.components.encoder

    @property
    def decoder(self) -> AttentionDecoder:
        """The decoder as a module; a model that runs on graphs loads torch for it."""
        return self.components.decoder

    @property
    def vocabulary(self) -> Vocabulary:
        """Ids to words."""
        return self.components.vocabulary

    @property
    def config(self) -> Recipe:
        """The recipe that built its modules."""
        return self.components.config

    @property
    def name(self) -> str:
        """Printed with every caption."""
        return self.components.name

    @property
    def device(self) -> str:
        """The device that the model runs on."""
        return self.components.device

    @property
    def metrics(self) -> dict[str, Any]:
        """Scores that travel with the model."""
        return self.components.metrics

    @property
    def familiarity(self) -> OutOfDistributionDetector | None:
        """Compares inputs with the training items; None if the model has no such statistics."""
        return self.components.familiarity

    @property
    def confidence(self) -> Confidence | None:
        """The calibrated probability that a word is right; None without calibration."""
        return self.components.confidence

    @property
    def medium(self) -> str:
        """The medium that it captions: "image", "video" or "volume"."""
        return self.reader.medium

    @overload
    def caption(self, source: Source, *, batch_size: int = 32, **options: Any) -> Caption: ...

    @overload
    def caption(
        self, source: list[Any] | tuple[Any, ...], *, batch_size: int = 32, **options: Any
    ) -> list[Caption]: ...

    def caption(
        self, source: Source | list[Any] | tuple[Any, ...], *, batch_size: int = 32, **options: Any
    ) -> Caption | list[Caption]:
        """Caption one picture, clip or scan, or a list of them.

        Args:
            source: a path, bytes, PIL image, array or tensor (see `regard.media.read_media`), or a
                list of them.
            batch_size: pictures that go through the network together; fewer clips or scans.
            **options: fields of `DecodingOptions`, such as `beam=5`; `prefix` and `banned`
                take words as well as ids.

        Returns:
            A caption for one source, a list for a list.

        Raises:
            MediaError: a picture cannot be read.
            ConfigError: an option is wrong.
            UnknownName: an option is unknown.
        """
        many = isinstance(source, list | tuple)
        sources: Sequence[Source] = source if many else [source]
        captions: list[Caption] = []
        for result in self.caption_many(sources, batch_size=batch_size, **options):
            if isinstance(result, Failure):
                raise result.error
            captions.append(result)
        return captions if many else captions[0]

    def caption_many(
        self,
        sources: Iterable[Source],
        *,
        batch_size: int = 32,
        report: Report | None = None,
        keep_pixels: bool = True,
        **options: Any,
    ) -> Iterator[Caption | Failure]:
        """Caption a stream of sources in order; a bad one yields a `Failure`, the rest go on.

        While one batch is captioned the next is read, and no more (if it is `accelerated`, one
        for each core), so memory stays flat however long the stream is. Takes the arguments of
        `caption`; options are checked at once, before the first picture is read. `report`
        receives, from the threads that read, how many frames of a clip are decoded. Captions keep
        their pictures for drawing; without `keep_pixels` large photographs take no memory.
        """
        size = self.items_at_once(batch_size)
        given = iter(sources)
        batches = iter(lambda: list(islice(given, size)), [])
        return self.caption_batches(batches, report=report, keep_pixels=keep_pixels, **options)

    def items_at_once(self, batch_size: int) -> int:
        """Return how many items go through the network together, at most `batch_size`.

        A clip counts as many pictures. They are fewer if cores of an `accelerated` captioner would
        be left without any.

        Raises:
            ConfigError: `batch_size` is less than 1.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be 1 or more.")
        together = PICTURES_AT_ONCE if self.device == "cpu" else PICTURES_ON_GPU
        most = together // self.reader.pictures_per_item
        return max(1, min(batch_size, most, self.components.most_at_once))

    def caption_batches(
        self,
        batches: Iterable[list[Source]],
        *,
        report: Report | None = None,
        keep_pixels: bool = True,
        **options: Any,
    ) -> Iterator[Caption | Failure]:
        """Caption a stream of batches as `caption_many` does, in order.

        The caller chooses the batches. The same batch gives bitwise the same numbers; another
        batch gives the same numbers up to rounding.
        """
        made = decoding_options(options, self.vocabulary, self.config, self.name)
        pipeline = Pipeline(self.components, made, report, keep_pixels)
        return pipeline.run(filter(None, batches))

    def annotate(self, media: Sequence[Media]) -> Annotations:
        """Encode N pictures, clips or scans to their annotations."""
        return encode(self.backend, [self.reader.prepare(m) for m in media])

    def for_clips(self, config: VideoConfig | None = None) -> Captioner:
        """Return a captioner of clips by a model of pictures, without any training on clips.

        The same decoder attends over all cells of all frames: to it a clip is one picture of
        many cells. It knows only what it learned from pictures, and cannot describe what only
        movement shows.

        Args:
            config: which frames, and on which grid; None: 12 frames × rows × cols.

        Raises:
            ConfigError: the model does not read pictures, its decoder has a code for the
                positions of one picture, or motion features are requested.
        """
        parts = self.components
        config = _clip_config(parts, config)

        @cache
        def modules() -> Modules:
            from regard.model.encoders import FrameEncoder, PictureEncoder

            encoder, decoder = parts.modules()
            assert isinstance(encoder, PictureEncoder)
            return FrameEncoder(encoder, config).eval(), decoder

        reader = parts.reader.of_clips(config)
        if isinstance(parts.backend, OnnxBackend):
            backend: Backend = parts.backend.for_frames(reader.grid_shape)
        else:
            from regard.backends.torch_backend import TorchBackend

            backend = TorchBackend(*modules(), parts.device)
        recipe = replace(
            parts.config,
            encoder=replace(parts.config.encoder, medium="video", video=config),
            decoder=replace(parts.config.decoder, grid_shape=reader.grid_shape),
        )
        # Scores, familiarity and confidence apply to pictures only; threads and sizes are reset.
        clips = Components(reader, backend, modules, parts.vocabulary, recipe, parts.name)
        return self.of(replace(clips, device=parts.device, native_step=parts.native_step))

    def accelerated(self, pictures: int, *, cores: int | None = None) -> Captioner:
        """Return a captioner that is faster on this many pictures (clips, scans), or this one.

        Where a model has no graphs, onnxruntime and onnxscript (extra `export`) make one of its
        encoder, which encodes several times faster than torch on a CPU, with the same vectors to
        rounding, but takes seconds to start. A model with graphs runs the decoder's steps in
        compiled loops (`regard.native`) if they were compiled before, or if there are enough
        items to compile them now. Every core then processes its own batches
        (`regard.util.parallel`); `cores` limits their number where the machine is shared.
        """
        parts = self.components
        few = pictures * parts.reader.pictures_per_item < _WORTH_A_SESSION
        if few or parts.device != "cpu":
            return self
        if isinstance(parts.backend, OnnxBackend):
            backend: Backend = parts.backend.on_one_core(parts.native_step(pictures))
            threads = cores or available_cores()
        else:
            import torch

            from regard.backends.torch_backend import TorchBackend
            from regard.model.encoders.onnx_encoder import encode_with

            threads = cores or torch.get_num_threads()
            encode = encode_with(parts.encoder, threads=1)
            backend = TorchBackend(parts.encoder, parts.decoder, encode=encode)
        share = -(-pictures // threads)  # so that no core stands idle
        return self.with_components(backend=backend, threads=threads, most_at_once=share)

    def concepts(self) -> tuple[Concept, ...]:
        """Return the concepts that the model can name from what it looks at; () if it has none."""
        pointer = self.decoder.pointer
        if pointer is None:
            return ()
        forms, threshold = pointer.forms.cpu().numpy(), pointer.threshold.cpu().numpy()
        return concepts_of(forms, threshold, self.vocabulary)

    def teach(self, word: str, pictures: Iterable[Source]) -> Lesson:
        """Teach the model a concept from pictures that show it, without training.

        The captioner then runs on torch modules; `save` keeps what it learned. A concept that it
        knows becomes the mean of its old vector and the pictures'.

        Args:
            word: one or several words, such as "fire hydrant"; its plural is made by rule.
            pictures: sources, as for `caption`. Eight make a good concept, one a first try. Those
                that cannot be read are left out and reported.

        Raises:
            ConfigError: the model has no pointer or its tokens are not words, the word holds no
                letter, or no picture can be read.
        """
        from regard.model import concepts
        from regard.model.concepts import concept_word, pointer_of

        pointer = pointer_of(self.decoder, self.name)
        word = concept_word(word, self.vocabulary)
        directions, failures = self._directions(word, pictures, pointer)
        lesson = self._with_bank(concepts.teach(self.decoder, self.vocabulary, word, directions))
        return replace(lesson, failures=tuple(failures))

    def forget(self, word: str) -> None:
        """Remove a concept, and the words that only the pointer can say.

        Raises:
            ConfigError: the model has no pointer, or no other concept.
            UnknownName: it has no such concept.
        """
        from regard.model import concepts

        concepts.pointer_of(self.decoder, self.name)
        word = concepts.concept_word(word, self.vocabulary)
        self._with_bank((*concepts.forget(self.decoder, self.vocabulary, word), None))

    def _directions(
        self, word: str, pictures: Iterable[Source], pointer: Pointer
    ) -> tuple[Directions, list[tuple[str, str]]]:
        """Return the directions of pictures, and (file, reason) of those that cannot be read."""
        import torch

        from regard.model.concepts import Directions

        found: list[Directions] = []
        failures: list[tuple[str, str]] = []
        for picture in pictures:
            try:
                annotations = self.annotate([self.reader.read(picture)])
            except (MediaError, MissingExtra) as error:
                is_path = isinstance(picture, str | Path)
                failures.append((str(picture) if is_path else "<picture>", str(error)))
                continue
            vectors, mask = (
                torch.as_tensor(x).to(self.device) for x in (annotations.vectors, annotations.mask)
            )
            with torch.no_grad():
                found.append(Directions(*pointer.likeness(vectors.float(), mask), mask))
        if not found:
            tried = f"; {len(failures)} cannot be read" if failures else ""
            raise ConfigError(
                f"there are 0 pictures of {word!r} to learn from{tried}. Give one or more; "
                "eight make a good concept."
            )
        cells, whole, mask = (
            torch.cat([getattr(one, name) for one in found]) for name in ("cells", "whole", "mask")
        )
        return Directions(cells, whole, mask), failures

    def _with_bank(self, made: tuple[AttentionDecoder, Vocabulary, Any]) -> Any:
        """Run on a decoder with another bank from now on; return the third value."""
        decoder, vocabulary, lesson = made
        old = self.components
        recipe = replace(old.config, decoder=decoder.config)
        new = of_modules(old.encoder, decoder, vocabulary, recipe, old.name, old.device)
        kept = {"metrics": old.metrics, "familiarity": old.familiarity}
        self.components = replace(new, confidence=old.confidence, **kept)
        return lesson

    def to(self, device: str) -> Captioner:
        """Return a captioner of the same model on another device, as modules of torch.

        Args:
            device: as for `load`.

        Raises:
            DeviceError: the device cannot be used.
            MissingExtra: torch, or a package that its encoder needs, is not installed.
        """
        parts, device = self.components, placed(device)
        if device == parts.device:
            return self
        encoder, decoder = copy.deepcopy(parts.modules())  # modules move in place
        moved = of_modules(encoder, decoder, parts.vocabulary, parts.config, parts.name, device)
        stored = {name: getattr(parts, name) for name in ("metrics", "familiarity", "confidence")}
        return self.of(replace(moved, **stored))

    def with_backend(self, backend: Backend) -> Captioner:
        """Return a captioner of the same components on another backend."""
        return self.with_components(backend=backend)

    def save(
        self,
        folder: str | Path,
        *,
        metrics: dict[str, Any] | None = None,
        training_state: dict[str, Any] | None = None,
        half: bool = False,
        int8: bool = False,
    ) -> None:
        """Save everything that captioning needs, the encoder's weights included.

        A large encoder (CLIP) gets a file of its own, with those matrices in 8 bits whose values
        these hold exactly, such as the shipped ones.

        Args:
            folder: the checkpoint's folder; replaced as a whole.
            metrics: scores with their settings.
            training_state: what a resumed training needs.
            half: store float16 weights, half the size.
            int8: store all matrices of a large encoder in 8 bits, a quarter of the size; those of
                a fine-tuned one are rounded.

        Raises:
            CheckpointError: it cannot be written; existing data are unchanged.
        """
        from regard.checkpoint.build import save_components

        save_components(
            self.components,
            folder,
            metrics=metrics,
            training_state=training_state,
            half=half,
            int8=int8,
        )

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto", backend: str = "auto") -> Captioner:
        """Load a checkpoint, strictly.

        Args:
            folder: its folder.
            device: where the model runs: "auto" (a GPU where torch sees one, else the CPU), "cpu",
                "cuda", "cuda:1" or "mps".
            backend: "onnx": the exported graphs, without torch, on the CPU; "torch": the
                modules; "auto": the graphs where the folder has them and the device is the CPU.

        Raises:
            CheckpointError: it is missing, damaged, or its parts do not fit.
            DeviceError: the device cannot be used, or the graphs do not run there.
            UnknownName: the backend is unknown.
            MissingExtra: torch, or a package that its encoder needs, is not installed.
        """
        return cls.of(load_components(folder, device, backend))

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, device: str = "auto", backend: str = "auto"
    ) -> Captioner:
        """Load a folder, a shipped model by name, or a Hugging Face hub id; see `load`.

        Raises:
            CheckpointError: no model of that name can be loaded.
            MissingExtra: a hub id was given and huggingface_hub is not installed.
        """
        from regard.pretrained import find_model

        return cls.load(find_model(str(name)), device=device, backend=backend)


def _clip_config(parts: Components, config: VideoConfig | None) -> VideoConfig:
    """Return how clips are read; raise if a captioner cannot caption them frame by frame."""
    medium = parts.reader.medium
    if medium != "image":
        raise ConfigError(f"{parts.name!r} captions {MEDIA[medium].noun}s already, not frames.")
    if parts.config.decoder.position != "none":
        raise ConfigError(
            f"{parts.name!r} has a position code for the cells of one picture, which has no "
            "place for a clip's frames. Use a model of clips, or one without a position code."
        )
    config = config or VideoConfig(frames=_UNTRAINED_FRAMES, grid="spatio_temporal")
    if config.motion != "none":
        raise ConfigError(
            f"encoder.video.motion is {config.motion!r}, and {parts.name!r} was trained on "
            'pictures, which do not move. Set it to "none", or train on clips.'
        )
    return config


__all__ = ["Captioner", "Deferred", "Failure", "Report", "Source"]
