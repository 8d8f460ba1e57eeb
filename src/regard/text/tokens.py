"""The words of a caption, whatever pieces its vocabulary has."""

from __future__ import annotations

import math
from dataclasses import dataclass

from regard.types import Caption

_SPACE = "\u2423"  # how a vocabulary of characters or pieces shows a space


@dataclass(frozen=True)
class SpokenWord:
    """A word of a caption, which may be several tokens.

    Attributes:
        text: of the word.
        first: index of its first token in `caption.words`, whose map is shown.
        stop: index behind its last token.
        logprob: of all its tokens.
    """

    text: str
    first: int
    stop: int
    logprob: float


def spoken_words(caption: Caption) -> tuple[SpokenWord, ...]:
    """Return the words of a caption, whatever pieces its vocabulary has."""
    pieces = caption.words
    if " ".join(piece.text for piece in pieces) == caption.text:
        return tuple(SpokenWord(p.text, i, i + 1, p.logprob) for i, p in enumerate(pieces))
    found: list[SpokenWord] = []
    at = 0
    for text in caption.text.split():
        while at < len(pieces) - 1 and pieces[at].text == _SPACE:
            at += 1
        first, length = at, 0
        while at < len(pieces) and length < len(text):
            length += len(pieces[at].text)
            at += 1
        logprob = math.fsum(piece.logprob for piece in pieces[first:at])
        found.append(SpokenWord(text, min(first, len(pieces) - 1), at, logprob))
    return tuple(found)
