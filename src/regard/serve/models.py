"""Which captioner a file goes to: the model asked for, or the first that reads its medium."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from regard.errors import ConfigError, RegardError, UnknownMedia, UnknownName

if TYPE_CHECKING:
    from regard.captioner import Captioner

_FRAME_BY_FRAME = " frame by frame"
_NOUNS = {"image": "a picture", "video": "a video clip", "volume": "a scan"}


class WrongMedium(UnknownMedia):
    """No model that may be used reads a file's medium."""


class Models:
    """Captioners by name, and those of clips that models of pictures become.

    Attributes:
        by_key: every captioner that a file may go to.
    """

    def __init__(self, captioners: Mapping[str, Captioner]) -> None:
        """Take captioners by name; the first is the default.

        Raises:
            ConfigError: there is none.
        """
        if not captioners:
            raise ConfigError("there is no model to serve; name one.")
        self._named = dict(captioners)
        self.by_key = dict(captioners)
        for name, captioner in captioners.items():
            if captioner.medium == "image":
                try:
                    self.by_key[name + _FRAME_BY_FRAME] = captioner.for_clips()
                except RegardError:  # a position code has no place for frames
                    continue

    def check(self, name: str) -> None:
        """Refuse a name that is none of a model's; "" is any.

        Raises:
            UnknownName: it is none.
        """
        if name and name not in self._named:
            raise UnknownName("model", name, self._named)

    @property
    def default(self) -> str:
        """The first one's name."""
        return next(iter(self._named))

    def pick(self, name: str, medium: str) -> str:
        """Return the key of the captioner for a file.

        Args:
            name: of the model that was asked for; "": the first that reads the medium, one made
                for it before one of pictures.
            medium: the file's.

        Raises:
            WrongMedium: there is none.
        """
        names = [name] if name else list(self._named)
        frame_by_frame = [one + _FRAME_BY_FRAME for one in names] if medium == "video" else []
        for key in [*names, *frame_by_frame]:
            if key in self.by_key and self.by_key[key].medium == medium:
                return key
        reads = sorted({self._named[one].medium for one in names})
        raise WrongMedium(
            f"{_NOUNS[medium]} came, and what is served here captions {' and '.join(reads)}s"
            f"{f' with the model {name!r}' if name else ''}. Name a model for {medium}s."
        )

    def describe(self) -> list[dict[str, Any]]:
        """Return what models there are, the default first."""
        return [_described(name, one) for name, one in self._named.items()]


def _described(name: str, captioner: Captioner) -> dict[str, Any]:
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


__all__ = ["Models", "WrongMedium"]
