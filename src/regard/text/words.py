"""Kinds of words, by closed lists: a tagger would need a model of its own.

Function words, colours, numbers and the commonest actions are closed enough to be listed
(`word_classes.txt`); what is on no list is a "thing", mostly nouns with some adjectives among
them.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

CLASSES = ("thing", "action", "colour", "number", "function")
_LEAST_IN_ING = 6  # letters; "king" and "ring" are no actions


def word_class(word: str) -> str:
    """Return one of `CLASSES`.

    >>> [word_class(w) for w in ("two", "brown", "dogs", "are", "running")]
    ['number', 'colour', 'thing', 'function', 'action']
    """
    word = word.lower()
    listed = _listed().get(word)
    if listed is not None:
        return listed
    return "action" if word.endswith("ing") and len(word) >= _LEAST_IN_ING else "thing"


@cache
def _listed() -> dict[str, str]:
    text = (files("regard.text") / "word_classes.txt").read_text("utf-8")
    kinds: dict[str, str] = {}
    for paragraph in text.split("\n\n")[1:]:
        name, words = paragraph.split(":\n", 1)
        kinds |= dict.fromkeys(words.split(), name)
    return kinds
