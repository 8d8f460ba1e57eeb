"""The words of concepts: what a caption mentions, and what a picture's label means.

Three lists of words lie beside this module: `concepts.txt`, `synonyms.txt`, `label_words.txt`. The
head of each says what it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from regard import ConfigError
from regard.text.words import plural

LISTS = Path(__file__).parent
AMBIGUOUS = ("orange",)
"""Concepts that captions name far more often as something else: a colour."""


class Mention(NamedTuple):
    """A concept that a caption mentions in its tokens `start` to `stop` - 1."""

    start: int
    stop: int
    concept: str
    plural: bool


class ConceptWords:
    """The concepts, their forms, and the words that mean them.

    Attributes:
        names: the concepts in the order of the bank; each is its singular.
        forms: (singular, plural) of each; the same word twice for a concept with one form.
    """

    def __init__(
        self,
        plurals: Mapping[str, str],
        synonyms: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Collect the words.

        Args:
            plurals: the concepts in order, and the plural of each; "": by English rule.
            synonyms: concept by synonym.
            labels: concept by label, in lower case.

        Raises:
            ConfigError: there is no concept, or a synonym or a label means an unknown one.
        """
        if not plurals:
            raise ConfigError("the list of concepts is empty; a bank needs one concept or more.")
        self.names = tuple(plurals)
        self.forms = tuple((name, many or plural(name)) for name, many in plurals.items())
        self._synonyms, self._labels = dict(synonyms or {}), dict(labels or {})
        for word, concept in (self._synonyms | self._labels).items():
            if concept not in plurals:
                raise ConfigError(
                    f"{word!r} is said to mean {concept!r}, which is not a concept. Add it to the "
                    "list of concepts, or correct the line."
                )

    @classmethod
    def read(cls, folder: Path = LISTS) -> ConceptWords:
        """Read the three lists of a folder.

        Raises:
            ConfigError: a list cannot be read, has a faulty line, or does not fit the others.
        """
        plurals = dict(_pairs(folder / "concepts.txt", ",", optional=True))
        synonyms, labels = (
            dict(_pairs(folder / f"{name}.txt", ":")) for name in ("synonyms", "label_words")
        )
        return cls(plurals, synonyms, labels)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def index(self) -> dict[str, int]:
        """The place of each concept in the bank."""
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def form_of(self) -> dict[str, str]:
        """The concept of each form, singular or plural."""
        found = {one: one for one, _ in self.forms}
        for one, many in self.forms:
            found.setdefault(many, one)
        return found

    @cached_property
    def _meanings(self) -> dict[tuple[str, ...], tuple[str, bool]]:
        """(concept, whether plural) of every form and synonym, cut into words."""
        found: dict[tuple[str, ...], tuple[str, bool]] = {}
        synonyms = [(word, plural(word), concept) for word, concept in self._synonyms.items()]
        rows = synonyms + [(*forms, forms[0]) for forms in self.forms]
        # A synonym comes before a concept, and any singular before a plural of the same spelling.
        for form, many in ((0, False), (1, True)):
            for row in rows:
                found.setdefault(tuple(row[form].split()), (row[2], many))
        return found

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._meanings))

    def mentions(self, tokens: Sequence[str]) -> list[Mention]:
        """Return the concepts that a caption mentions, from left to right, the longest first.

        >>> words = ConceptWords({"fire hydrant": "", "phone": ""}, {"hydrant": "fire hydrant"})
        >>> [m.concept for m in words.mentions("two phones by a hydrant".split())]
        ['phone', 'fire hydrant']
        """
        found: list[Mention] = []
        at = 0
        while at < len(tokens):
            stop = at + 1
            for length in range(min(self._longest, len(tokens) - at), 0, -1):
                meaning = self._meanings.get(tuple(tokens[at : at + length]))
                if meaning is not None:
                    stop = at + length
                    found.append(Mention(at, stop, *meaning))
                    break
            at = stop
        return found

    def merged(self, tokens: Sequence[str]) -> list[str]:
        """Return a caption with each phrase of a concept as one token, and "a" for "an".

        The vocabulary writes articles by sound, since the pointer chooses a noun after its article.
        """
        made: list[str] = []
        at = 0
        for mention in self.mentions(tokens):
            made += tokens[at : mention.start]
            words = list(tokens[mention.start : mention.stop])
            if len(words) > 1:
                words = [self.forms[self.index[mention.concept]][mention.plural]]
            made += words
            at = mention.stop
        made += tokens[at:]
        return ["a" if token == "an" else token for token in made]

    def named(self, tokens: Iterable[str]) -> list[str]:
        """Return the concepts whose own words are in a merged caption: those a pointer can say."""
        found = [self.form_of[token] for token in tokens if token in self.form_of]
        return list(dict.fromkeys(found))

    def of_label(self, label: str) -> str | None:
        """Return the concept that a picture's label means, or None if it means none.

        >>> ConceptWords({"dog": ""}, labels={"beagle": "dog"}).of_label("Beagle")
        'dog'
        """
        label = label.strip().lower()
        if label in self._labels:
            return self._labels[label]
        return label if label in self.index else self._synonyms.get(label)


def _pairs(path: Path, sign: str, *, optional: bool = False) -> Iterator[tuple[str, str]]:
    """Yield the two parts of a list's lines; the second is "" if it may be absent and is."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the list {path} cannot be read: {error}.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        first, found, second = (part.strip() for part in line.partition(sign))
        if not first or (found and not second) or not (found or optional):
            raise ConfigError(
                f"{path}, line {number} is {line!r}; expected two parts with {sign!r} between."
            )
        yield first, second
