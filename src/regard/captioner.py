"""Captioner: preprocessing, encoder, decoder and vocabulary as one thing that writes captions.

It runs on a backend. Graphs under onnxruntime (`regard export`) need no torch, and are taken where
a model has them and the work is done on a CPU; the modules of torch are loaded when they are asked
for, or where there are no graphs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from regard.backends import Backend
from regard.backends.onnx_backend import OnnxBackend, available_cores
from regard.checkpoint.components import Parts, load_parts, parts_of_modules
from regard.checkpoint.folder import save_checkpoint
from regard.config import Recipe, VideoConfig
from regard.errors import ConfigError
from regard.pipeline import decoding_options
from regard.reliability.confidence import Confidence
from regard.reliability.out_of_distribution import Familiarity
from regard.streaming import CaptionStream, Deferred, Failure, Report, Source, encode
from regard.text.vocabulary import Vocabulary
from regard.types import Annotations, Caption, Media

if TYPE_CHECKING:
    from regard.model.decoder import AttentionDecoder
    from regard.model.encoders import Encoder

_WORTH_A_START = 150  # pictures from which onnxruntime's start pays
_PICTURES_AT_ONCE = 64  # pictures, frames or slices that are encoded together


class Captioner:
    """Writes captions for pictures, clips or scans, whichever its encoder reads.

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
        device: str = "cpu",
        metrics: dict[str, Any] | None = None,
        familiarity: Familiarity | None = None,
        confidence: Confidence | None = None,
    ) -> None:
        """Put the parts together; the modules are used as they are, not copied.

        Args:
            encoder: pixels to annotations.
            decoder: annotations to words.
            vocabulary: ids to words.
            config: the recipe that the parts were made by.
            name: printed with every caption.
            device: where the work is done.
            metrics: scores that travel with the model.
            familiarity: what its training items were like; captions of others then say so.
            confidence: how sure to be of its words; captions then say so.

        Raises:
            ConfigError: there is no such device.
        """
        self._take(
            parts_of_modules(encoder, decoder, vocabulary, config, name, device, metrics,
                             familiarity, confidence)
        )  # fmt: skip

    def _take(self, parts: Parts) -> None:
        self.reader = parts.reader
        self.backend = parts.backend
        self._modules, self._steps = parts.modules, parts.steps
        self.vocabulary = parts.vocabulary
        self.config = parts.config
        self.name = parts.name
        self.device = parts.device
        self.metrics = parts.metrics
        self.familiarity = parts.familiarity
        self.confidence = parts.confidence
        self._lanes, self._per_lane = 1, _PICTURES_AT_ONCE

    @classmethod
    def _of(cls, parts: Parts) -> Captioner:
        made = cls.__new__(cls)
        made._take(parts)
        return made

    @property
    def encoder(self) -> Encoder:
        """The encoder as a module; a model that runs on graphs loads torch for it.

        `reader` says what it reads, and on which grid, without torch.
        """
        return self._modules()[0]

    @property
    def decoder(self) -> AttentionDecoder:
        """The decoder as a module; a model that runs on graphs loads torch for it."""
        return self._modules()[1]

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
            source: a path, bytes, PIL image, array or tensor (see `regard.media.read_media`),
                or a list of such.
            batch_size: pictures that go through the network together; fewer clips or scans.
            **options: fields of `DecodingOptions`, such as `beam=5`; `prefix` and `banned`
                take words as well as ids.

        Returns:
            A caption for one source, a list for a list.

        Raises:
            MediaError: a picture cannot be read.
            ConfigError: an option is wrong.
            UnknownName: there is no such option.
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

        While one batch is captioned the next is read, and no more (where it is `accelerated`, one
        for each core), so memory stays flat however long the stream is. Takes the arguments of
        `caption`; options are checked at once, before the first picture is read. `report` is
        told, from the threads that read, how many frames of a clip are decoded. Captions keep
        their pictures for drawing; without `keep_pixels` large photographs take no room.
        """
        size = self.items_at_once(batch_size)
        given = iter(sources)
        batches = iter(lambda: list(islice(given, size)), [])
        return self.caption_batches(batches, report=report, keep_pixels=keep_pixels, **options)

    def items_at_once(self, batch_size: int) -> int:
        """Return how many items go through the network together where so many pictures do.

        Fewer where cores of an `accelerated` one would be left without any.

        Raises:
            ConfigError: it is less than 1.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be 1 or more.")
        most = _PICTURES_AT_ONCE // self.reader.pictures_per_item
        return max(1, min(batch_size, most, self._per_lane))

    def caption_batches(
        self,
        batches: Iterable[list[Source]],
        *,
        report: Report | None = None,
        keep_pixels: bool = True,
        **options: Any,
    ) -> Iterator[Caption | Failure]:
        """Caption a stream of batches as `caption_many` does, in order.

        What goes through the network together is the caller's choice. The same batch gives the
        same numbers, to the last bit; another one only the same to rounding.
        """
        made = decoding_options(options, self.vocabulary, self.config, self.name)
        stream = CaptionStream(
            self.reader,
            self.backend,
            self.vocabulary,
            self.name,
            self.config.decoder.attention,
            self.familiarity,
            self.confidence,
            self._lanes,
            keep_pixels,
        )
        return stream.run(filter(None, batches), made, report)

    @property
    def medium(self) -> str:
        """What it captions: "image", "video" or "volume"."""
        return self.reader.medium

    def annotate(self, media: Sequence[Media]) -> Annotations:
        """Encode N pictures, clips or scans to their annotations."""
        return encode(self.backend, [self.reader.prepare(m) for m in media])

    def for_clips(self, config: VideoConfig | None = None) -> Captioner:
        """Return a captioner of clips by a model of pictures, without any training on clips.

        The same decoder attends over all cells of all frames: to it a clip is one picture of
        many cells. What it learned of pictures is all that it knows; it has no word for what
        only movement shows.

        Args:
            config: which frames, and on which grid; None: 12 frames × rows × cols.

        Raises:
            ConfigError: it reads no pictures, its decoder has a code for the positions of one
                picture, or motion features are wanted.
        """
        parts = Parts(self.reader, self.backend, self._modules, self._steps, self.vocabulary,
                      self.config, self.name, self.device, self.metrics, self.familiarity,
                      self.confidence)  # fmt: skip
        return self._of(parts.for_clips(config))

    def accelerated(self, pictures: int, *, cores: int | None = None) -> Captioner:
        """Return a captioner that is faster on so many pictures (clips, scans), or this one.

        Where a model has no graphs, onnxruntime and onnxscript (extra `export`) make one of its
        encoder, which encodes several times faster than torch on a CPU, with the same vectors to
        rounding, but takes seconds to begin. A model with graphs takes the decoder's steps from
        compiled loops (`regard.native`) where a C++ compiler has made them before, or where there
        are items enough to make them now. Every core then does batches of its own
        (`regard.util.parallel`); `cores` says how many where not all of the machine are its own.
        """
        few = pictures * self.reader.pictures_per_item < _WORTH_A_START
        if few or self.device != "cpu":
            return self
        if isinstance(self.backend, OnnxBackend):
            backend: Backend = self.backend.on_one_core(self._steps(pictures))
            lanes = cores or available_cores()
        else:
            import torch

            from regard.backends.torch_backend import TorchBackend
            from regard.model.encoders.onnx_encoder import encode_with

            lanes = cores or torch.get_num_threads()
            encode = encode_with(self.encoder, threads=1)
            backend = TorchBackend(self.encoder, self.decoder, encode=encode)
        faster = self.with_backend(backend)
        faster._lanes, faster._per_lane = lanes, -(-pictures // lanes)  # none stands idle
        return faster

    def with_backend(self, backend: Backend) -> Captioner:
        """Return a captioner of the same parts whose encoder and steps another backend runs."""
        other = copy.copy(self)
        other.backend = backend
        return other

    def save(
        self,
        folder: str | Path,
        *,
        metrics: dict[str, Any] | None = None,
        training_state: dict[str, Any] | None = None,
        half: bool = False,
    ) -> None:
        """Save everything that captioning needs, the encoder's weights included.

        Args:
            folder: the checkpoint's folder; replaced as a whole.
            metrics: scores with their settings.
            training_state: what a resumed training needs.
            half: store float16 weights, half the size.

        Raises:
            CheckpointError: it cannot be written; what was there before is untouched.
        """
        from regard.checkpoint.build import Model
        from regard.checkpoint.model_card import model_card

        model = Model(
            self.encoder,
            self.decoder,
            self.vocabulary,
            self.config,
            self.name,
            self.familiarity,
            self.confidence,
        )
        metrics = self.metrics if metrics is None else metrics
        config = model.describe(resumable=training_state is not None)
        save_checkpoint(
            folder,
            config=config,
            vocabulary=self.vocabulary,
            weights=model.weights(half=half),
            metrics=metrics,
            card=model_card(config, metrics, len(self.vocabulary)),
            training_state=training_state,
        )

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu", backend: str = "auto") -> Captioner:
        """Load a checkpoint, strictly.

        Args:
            folder: its folder.
            device: where the work is done.
            backend: "onnx": the exported graphs, without torch, on the CPU; "torch": the
                modules; "auto": the graphs where the folder has them and the device is the CPU.

        Raises:
            CheckpointError: it is missing, damaged, or its parts do not fit.
            ConfigError: there is no such device, or the graphs do not run there.
            UnknownName: there is no such backend.
            MissingExtra: torch, or a package that its encoder needs, is not installed.
        """
        return cls._of(load_parts(folder, device, backend))

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, device: str = "cpu", backend: str = "auto"
    ) -> Captioner:
        """Load a folder, a shipped model by name, or a Hugging Face hub id; see `load`.

        Raises:
            CheckpointError: nothing can be loaded by that name.
            MissingExtra: a hub id was given and huggingface_hub is not installed.
        """
        from regard.pretrained import find_model

        return cls.load(find_model(str(name)), device=device, backend=backend)


__all__ = ["Captioner", "Deferred", "Failure", "Report", "Source"]
