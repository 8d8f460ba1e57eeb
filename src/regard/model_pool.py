"""Every file to a model of its medium: one stream of captions from pictures, clips and scans."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from regard.captioner import Captioner, Deferred, Failure, Source
from regard.errors import ConfigError, MediaError, UnknownName
from regard.media import medium_of
from regard.pretrained import find_model
from regard.types import Caption

_NAMES = {"image": "a picture", "video": "a video clip", "volume": "a scan"}

_READINGS = {"image": 50, "video": 3, "volume": 50}
"""How often a usual file is encoded where its parts are covered: once a cell; but the frames of
a clip, whose vectors are independent, once as they are and once covered."""


class _WrongMedium(ConfigError):
    """The named model does not read a file's medium."""


class Router:
    """Loads a model per medium when the first file of that medium comes."""

    def __init__(
        self,
        model: str | None = None,
        *,
        device: str = "cpu",
        files: int = 1,
        covered: bool = False,
        backend: str = "auto",
        cores: int | None = None,
    ) -> None:
        """Name the model; nothing is loaded yet.

        Args:
            model: folder, shipped model or hub id; None: the shipped model of each medium.
            device: where the work is done.
            files: how many there will be; from some number on a fast encoder pays.
            covered: whether each will be read again with its parts covered.
            backend: see `Captioner.load`.
            cores: that it may take; None: all.
        """
        self._model = model
        self._device = device
        self._files = files
        self._covered = covered
        self._backend = backend
        self._cores = cores
        self._captioners: dict[str, Captioner] = {}

    def captioner(self, medium: str) -> Captioner:
        """Return the captioner of a medium.

        A model of pictures captions clips, too, frame by frame (`Captioner.for_clips`).

        Raises:
            CheckpointError: the model cannot be loaded.
            ConfigError: the model that was named does not read this medium.
            UnknownName: there is no such medium.
        """
        if medium not in _NAMES:
            raise UnknownName("medium", medium, _NAMES)
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
            except _WrongMedium as error:
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
        except _WrongMedium:
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
            except _WrongMedium as error:
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
        raise _WrongMedium(
            f"{_NAMES[medium]} came, and the model {captioner.name!r} captions "
            f"{captioner.medium}s. Leave --model out, or name one for {medium}s."
        )


def _refused(source: Source, error: _WrongMedium) -> Failure:
    name = source.name if isinstance(source, Deferred) else str(source)
    return Failure(name, MediaError(f"{name}: {error}"))


__all__ = ["Router"]
