"""A captioner for each medium, for the command line, bulk work and the service.

`ModelPool` loads the model of a medium at its first file. `NamedModels` holds captioners
that a service has loaded, from which a request names one.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from regard.captioner import Captioner, Deferred, Failure, Source
from regard.errors import ConfigError, MediaError, RegardError, UnknownMedia, UnknownName
from regard.media import medium_of
from regard.pretrained import find_model
from regard.types import MEDIA, Caption

_READINGS = {"image": 50, "video": 3, "volume": 50}
"""How often a usual file is encoded where its parts are covered: once a cell; but the frames of
a clip, whose vectors are independent, once as they are and once covered."""
_FRAME_BY_FRAME = " frame by frame"


class WrongMedium(UnknownMedia, ConfigError):
    """No model that may be used reads a file's medium."""


class ModelPool:
    """Loads one model per medium, at the first file of that medium."""

    def __init__(
        self,
        model: str | None = None,
        *,
        device: str = "auto",
        files: int = 1,
        covered: bool = False,
        backend: str = "auto",
        cores: int | None = None,
    ) -> None:
        """Store the arguments; models are loaded on first use.

        Args:
            model: folder, shipped model or hub id; None: the shipped model of each medium.
            device: where models run; see `Captioner.load`.
            files: expected number of files; a fast encoder pays only for many.
            covered: whether each file will be encoded again with its parts covered.
            backend: see `Captioner.load`.
            cores: how many it may use; None: all.
        """
        self._model, self._device, self._backend = model, device, backend
        self._files, self._covered, self._cores = files, covered, cores
        self._captioners: dict[str, Captioner] = {}

    def captioner(self, medium: str) -> Captioner:
        """Return the captioner of a medium.

        A model of pictures captions clips, too, frame by frame (`Captioner.for_clips`).

        Raises:
            CheckpointError: the model cannot be loaded.
            WrongMedium: the named model does not read this medium.
            UnknownName: the medium is unknown.
        """
        if medium not in MEDIA:
            raise UnknownName("medium", medium, MEDIA)
        if medium not in self._captioners:
            self._captioners[medium] = self._load(medium).accelerated(
                self._files * (_READINGS[medium] if self._covered else 1), cores=self._cores
            )
        return self._captioners[medium]

    def caption_many(self, files: Iterable[str], **options: Any) -> Iterator[Caption | Failure]:
        """Caption files in order; takes the options of `Captioner.caption_many`.

        A file of a medium that the named model does not read is a `Failure` as a bad file is.
        """
        for medium, group in groupby(files, medium_of):
            try:
                captioner = self.captioner(medium)
            except WrongMedium as error:
                yield from (_refused(file, error) for file in group)
                continue
            yield from captioner.caption_many(group, **options)

    def items_at_once(self, medium: str, batch_size: int) -> int:
        """Return how many items of a medium go through its network together.

        Raises:
            CheckpointError: the model cannot be loaded.
            ConfigError: the batch size is less than 1.
        """
        try:
            return self.captioner(medium).items_at_once(batch_size)
        except WrongMedium:
            return batch_size

    def caption_batches(
        self, batches: Iterable[tuple[str, list[Source]]], **options: Any
    ) -> Iterator[Caption | Failure]:
        """Caption batches, each of one medium that is named, in order.

        See `Captioner.caption_batches`. Items of a medium that the named model does not read are
        failures.
        """
        for medium, group in groupby(batches, lambda batch: batch[0]):
            try:
                captioner = self.captioner(medium)
            except WrongMedium as error:
                yield from (_refused(source, error) for _, batch in group for source in batch)
                continue
            yield from captioner.caption_batches((batch for _, batch in group), **options)

    def _load(self, medium: str) -> Captioner:
        folder = find_model(self._model, medium)
        captioner = Captioner.load(folder, device=self._device, backend=self._backend)
        if captioner.medium == medium:
            return captioner
        if captioner.medium == "image" and medium == "video":
            return captioner.for_clips()
        raise WrongMedium(
            f"the file is {MEDIA[medium].phrase}, but the model {captioner.name!r} captions "
            f"{MEDIA[captioner.medium].noun}s. Leave --model out, or name one for "
            f"{MEDIA[medium].noun}s."
        )


def _refused(source: Source, error: WrongMedium) -> Failure:
    name = source.name if isinstance(source, Deferred) else str(source)
    return Failure(name, MediaError(f"{name}: {error}"))


class NamedModels:
    """Captioners by name, with one for clips for each model of pictures.

    Attributes:
        by_key: every captioner that a file may go to.
        default: name of the first.
    """

    def __init__(self, captioners: Mapping[str, Captioner]) -> None:
        """Take captioners by name; the first is the default.

        Raises:
            ConfigError: no captioner is given.
        """
        if not captioners:
            raise ConfigError("no model to serve; name one.")
        self._named = dict(captioners)
        self.by_key = dict(captioners)
        self.default = next(iter(captioners))
        for name, captioner in captioners.items():
            if captioner.medium == "image":
                try:
                    self.by_key[name + _FRAME_BY_FRAME] = captioner.for_clips()
                except RegardError:  # a position code has no place for frames
                    continue

    def check(self, name: str) -> None:
        """Raise if no model has this name; "" stands for any.

        Raises:
            UnknownName: no model has it.
        """
        if name and name not in self._named:
            raise UnknownName("model", name, self._named)

    def pick(self, name: str, medium: str) -> str:
        """Return the key of the captioner for a file.

        Args:
            name: name of the requested model; "": the first that reads the medium, one made
                for it before one of pictures.
            medium: the file's.

        Raises:
            WrongMedium: no captioner reads the medium.
        """
        names = [name] if name else list(self._named)
        frame_by_frame = [one + _FRAME_BY_FRAME for one in names] if medium == "video" else []
        for key in [*names, *frame_by_frame]:
            if key in self.by_key and self.by_key[key].medium == medium:
                return key
        reads = sorted({f"{MEDIA[self._named[one].medium].noun}s" for one in names})
        raise WrongMedium(
            f"the file is {MEDIA[medium].phrase}, but the models here caption {' and '.join(reads)}"
            f"{f' with the model {name!r}' if name else ''}. Name a model for "
            f"{MEDIA[medium].noun}s."
        )

    def describe(self) -> list[dict[str, Any]]:
        """Return a description of each model, the default first."""
        return [_description(name, captioner) for name, captioner in self._named.items()]


def _description(name: str, captioner: Captioner) -> dict[str, Any]:
    config = captioner.config
    return {
        "name": name,
        "medium": captioner.medium,
        "attention": config.decoder.attention,
        "encoder": config.encoder.name,
        "grid": list(captioner.reader.grid_shape),
        "words": len(captioner.vocabulary),
        "tokens": captioner.vocabulary.tokens,
        "scores": captioner.metrics.get("scores", {}),
    }
