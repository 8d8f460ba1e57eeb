"""Captioner: preprocessing, encoder, decoder and vocabulary as one thing that writes captions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from regard.backends.torch_backend import TorchBackend
from regard.card import model_card
from regard.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from regard.config import Recipe, from_dict, to_dict
from regard.decoder import AttentionDecoder
from regard.decoding import DecodingOptions, decode
from regard.encoders import Encoder, build_encoder
from regard.errors import CheckpointError, ConfigError, MediaError, RegardError, UnknownName
from regard.media import image_grid, preprocess, read_image
from regard.types import AttentionTrace, Caption, Grid, Hypothesis, Media, Word
from regard.version import __version__
from regard.vocabulary import END, PAD, SPECIALS, START, UNKNOWN, Vocabulary

_OPTIONS = {f.name for f in fields(DecodingOptions)}


@dataclass(frozen=True)
class Failure:
    """An item that could not be captioned.

    Attributes:
        file: what was asked for.
        error: what is wrong with it.
    """

    file: str
    error: RegardError


class Captioner:
    """Writes captions for pictures.

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
        """
        self.encoder = encoder.to(device)
        self.decoder = decoder.to(device)
        self.vocabulary = vocabulary
        self.config = config
        self.name = name
        self.device = device
        self.metrics = metrics or {}
        self.backend = TorchBackend(self.encoder, self.decoder, device)

    def caption(
        self, source: Any, *, batch_size: int = 16, **options: Any
    ) -> Caption | list[Caption]:
        """Caption one picture or a list of them.

        Args:
            source: a path, bytes, PIL image, array or tensor (see `regard.media.read_image`),
                or a list of such.
            batch_size: pictures that go through the network together.
            **options: fields of `DecodingOptions`; `prefix` and `banned` take words.

        Returns:
            A caption for one source, a list for a list.

        Raises:
            MediaError: a picture cannot be read.
            ConfigError: an option is wrong.
        """
        many = isinstance(source, list | tuple)
        captions: list[Caption] = []
        for result in self.caption_many(
            source if many else [source], batch_size=batch_size, **options
        ):
            if isinstance(result, Failure):
                raise result.error
            captions.append(result)
        return captions if many else captions[0]

    def caption_many(
        self, sources: Iterable[Any], *, batch_size: int = 16, **options: Any
    ) -> Iterator[Caption | Failure]:
        """Caption a stream of sources in order; a bad one yields a `Failure`, the rest go on.

        Pictures are read in two threads, one batch at a time, so memory stays flat however
        long the stream is. Takes the arguments of `caption`.
        """
        search = self._options(options)
        stream = iter(sources)
        with ThreadPoolExecutor(2) as pool:
            while batch := list(islice(stream, batch_size)):
                yield from self._caption_batch(list(pool.map(self._read, batch)), search)

    def annotate(self, media: Sequence[Media]) -> Any:
        """Encode pictures to `Annotations` of N items."""
        pixels = np.stack([preprocess(m, self.encoder.spec) for m in media])
        grids = tuple(image_grid(m.size, self.encoder.spec, self.encoder.grid_shape) for m in media)
        return self.backend.encode(pixels, grids)

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
        weights = {
            f"{part}.{key}": value.half() if half and value.is_floating_point() else value
            for part, module in (("encoder", self.encoder), ("decoder", self.decoder))
            for key, value in module.state_dict().items()
        }
        metrics = self.metrics if metrics is None else metrics
        config = self._config()
        save_checkpoint(
            folder,
            config=config,
            vocabulary=self.vocabulary,
            weights=weights,
            metrics=metrics,
            card=model_card(config, metrics, len(self.vocabulary)),
            training_state=training_state,
        )

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu") -> Captioner:
        """Load a checkpoint, strictly.

        Raises:
            CheckpointError: it is missing, damaged, or its parts do not fit.
        """
        return cls._assemble(load_checkpoint(folder), device)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, device: str = "cpu") -> Captioner:
        """Load a folder, a shipped model by name, or a Hugging Face hub id.

        Raises:
            CheckpointError: nothing can be loaded by that name.
            MissingExtra: a hub id was given and huggingface_hub is not installed.
        """
        from regard.pretrained import find_model

        return cls.load(find_model(str(name)), device=device)

    @classmethod
    def _assemble(cls, checkpoint: Checkpoint, device: str) -> Captioner:
        config = checkpoint.config
        try:
            recipe = from_dict(Recipe, config["recipe"])
            encoder = build_encoder(recipe.encoder, pretrained=False)
            decoder = AttentionDecoder(
                recipe.decoder,
                annotation_dim=encoder.annotation_dim,
                vocabulary_size=len(checkpoint.vocabulary),
            )
            _check_config(config, encoder)
        except (KeyError, TypeError, ConfigError, UnknownName) as error:
            raise CheckpointError(f"{checkpoint.path / 'config.json'}: {error}") from error
        for part, module in (("encoder.", encoder), ("decoder.", decoder)):
            own = {k.removeprefix(part): v for k, v in checkpoint.weights.items()
                   if k.startswith(part)}  # fmt: skip
            try:
                module.load_state_dict(own)
            except RuntimeError as error:
                raise CheckpointError(
                    f"{checkpoint.path}: the weights do not fit the config: {error}"
                ) from error
        return cls(
            encoder.eval(),
            decoder.eval(),
            checkpoint.vocabulary,
            recipe,
            name=config["name"],
            device=device,
            metrics=checkpoint.metrics,
        )

    def _config(self) -> dict[str, Any]:
        return {
            "regard_version": __version__,
            "name": self.name,
            "medium": "image",
            "recipe": to_dict(self.config),
            "preprocessing": to_dict(self.encoder.spec),
            "encoder": {
                "name": self.encoder.name,
                "digest": self.encoder.digest(),
                "annotation_dim": self.encoder.annotation_dim,
                "grid_shape": list(self.encoder.grid_shape),
            },
            "special_ids": dict(zip(SPECIALS, range(len(SPECIALS)), strict=True)),
        }

    def _options(self, options: dict[str, Any]) -> DecodingOptions:
        unknown = [name for name in options if name not in _OPTIONS]
        if unknown:
            raise UnknownName("captioning option", unknown[0], _OPTIONS)
        options = dict(options)
        for name in ("prefix", "banned"):
            if isinstance(options.get(name), str):
                options[name] = tuple(self.vocabulary.encode(options[name]))
        if options.get("beam") == 1 and "method" not in options:
            options["method"] = "greedy"
        return DecodingOptions(**options)

    def _read(self, source: Any) -> Media | Failure:
        if isinstance(source, Media):
            return source
        try:
            return read_image(source)
        except MediaError as error:
            return Failure(str(source) if isinstance(source, str | Path) else "<picture>", error)

    def _caption_batch(
        self, read: list[Media | Failure], options: DecodingOptions
    ) -> Iterator[Caption | Failure]:
        began = time.perf_counter()
        media = [m for m in read if isinstance(m, Media)]
        captions: Iterator[Caption] = iter(())
        if media:
            annotations = self.annotate(media)
            found = decode(
                self.backend,
                annotations,
                options,
                start=START,
                end=END,
                forbidden=(PAD, START, UNKNOWN),
            )
            seconds = (time.perf_counter() - began) / len(media)
            captions = iter(
                [
                    self._captions(m, g, best, options, seconds)
                    for m, g, best in zip(media, annotations.grids, found, strict=True)
                ]
            )
        for item in read:
            yield item if isinstance(item, Failure) else next(captions)

    def _captions(
        self,
        media: Media,
        grid: Grid,
        found: tuple[Hypothesis, ...],
        options: DecodingOptions,
        seconds: float,
    ) -> Caption:
        first, *others = (self._one(media, grid, h, options, seconds) for h in found)
        return first if not others else _with_others(first, tuple(others))

    def _one(
        self,
        media: Media,
        grid: Grid,
        found: Hypothesis,
        options: DecodingOptions,
        seconds: float,
    ) -> Caption:
        attention = self.config.decoder.attention
        context = options.context if attention == "hard" else "expected"
        trace = AttentionTrace(found.alpha, found.beta, found.location, attention, context, grid)
        return Caption(
            text=self.vocabulary.decode(found.tokens),
            words=tuple(self._word(found, t, grid) for t in range(len(found.tokens))),
            score=found.score,
            finished=found.finished,
            trace=trace,
            file=media.name,
            medium=media.medium,
            model=self.name,
            seconds=seconds,
            pixels=media.pixels,
        )

    def _word(self, found: Hypothesis, t: int, grid: Grid) -> Word:
        return Word(
            text=self.vocabulary.word(found.tokens[t]),
            logprob=float(found.logprobs[t]),
            alpha=found.alpha[t].reshape(grid.shape),
            beta=None if found.beta is None else float(found.beta[t]),
            location=None if found.location is None else int(found.location[t]),
            alternatives=tuple((self.vocabulary.word(i), p) for i, p in found.alternatives[t]),
        )


def _with_others(first: Caption, others: tuple[Caption, ...]) -> Caption:
    return replace(first, n_best=others)


def _check_config(config: dict[str, Any], encoder: Encoder) -> None:
    """Refuse a config whose parts contradict each other."""
    wanted = dict(zip(SPECIALS, range(len(SPECIALS)), strict=True))
    if config["special_ids"] != wanted:
        raise ConfigError(f"special_ids are {config['special_ids']}; this regard uses {wanted}.")
    stored = config["encoder"]["annotation_dim"]
    if stored != encoder.annotation_dim:
        raise ConfigError(
            f"annotation_dim is {stored}, and the encoder {encoder.name} gives "
            f"{encoder.annotation_dim}."
        )
    if config["preprocessing"] != to_dict(encoder.spec):
        raise ConfigError(
            f"preprocessing is {config['preprocessing']}, and the encoder {encoder.name} needs "
            f"{to_dict(encoder.spec)}."
        )


__all__ = ["Captioner", "Failure"]
