"""Words and their ids.

The vocabulary is built from training captions and travels in the checkpoint as
`vocabulary.json`. Ids 0 to 3 are special: padding, start, end, unknown.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

from regard.errors import CheckpointError, ConfigError, needs_extra
from regard.util.safe_io import json_of

PAD, START, END, UNKNOWN = range(4)
SPECIALS = ("<pad>", "<start>", "<end>", "<unk>")
_SPACE = "\u2581"  # marks a word's beginning in BPE pieces and a space between characters

BY_SOUND = "by sound"
_SOUND_VOWEL = ("hour", "honest", "honor", "honour", "heir", "x-ray", "8", "11", "18")
_SOUND_CONSONANT = (
    *("euro", "euca", "euph", "ewe", "one", "once", "ubiq", "ukulele", "uran", "use", "usual"),
    *("utens", "utili", "utop", "unicorn", "unicycl", "unif", "union", "uniq", "unit", "univers"),
)
"""Beginnings of words that do not sound as they are spelled."""

_JOINERS = "'\u2019-"  # part of a word between two letters: man's, t-shirt


@lru_cache(maxsize=65536)
def _is_letter(character: str) -> bool:
    """Return whether a character is a letter, mark, digit or joiner (for Indic vowels)."""
    return unicodedata.category(character)[0] in "LMN" or character in "\u200c\u200d"


def words_of(text: str) -> list[str]:
    """Split a caption into lower-case words, punctuation dropped (Unicode, NFC).

    >>> words_of("A man's red T-shirt, worn in 2015!")
    ['a', "man's", 'red', 't-shirt', 'worn', 'in', '2015']
    """
    text = unicodedata.normalize("NFC", text).lower()
    kept = [_is_letter(character) for character in text]
    for i, character in enumerate(text):
        if character in _JOINERS and 0 < i < len(text) - 1:
            kept[i] = kept[i - 1] and _is_letter(text[i + 1])
    return "".join(c if keep else " " for c, keep in zip(text, kept, strict=True)).split()


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a decoder, and how a caption is cut into them.

    Attributes:
        words: all tokens in the order of their ids; the first four are special.
        tokens: the kind of tokens: "word", "character" or "bpe".
        bpe: the serialised tokenizer if `tokens` is "bpe", else None.
        articles: "by sound": the vocabulary has "a" for both articles, and captions are written
            with "an" before a vowel sound. None: words are written as they are.

    A word may hold spaces ("fire hydrant"): captions are cut into the longest words first.
    """

    words: tuple[str, ...]
    tokens: str = "word"
    bpe: str | None = None
    articles: str | None = None

    def __post_init__(self) -> None:
        if self.tokens not in ("word", "character", "bpe") or (self.tokens == "bpe") != isinstance(
            self.bpe, str
        ):
            raise CheckpointError(
                f"the vocabulary's tokens are {self.tokens!r:.100}; expected word, character, or "
                "bpe with its tokenizer. It was written by another program or is damaged."
            )
        if self.articles not in (None, BY_SOUND) or (self.articles and self.tokens != "word"):
            raise CheckpointError(
                f"the vocabulary's articles are {self.articles!r:.100}; expected {BY_SOUND!r} "
                "(if tokens are words) or nothing. It was written by another program or is damaged."
            )
        if self.words[: len(SPECIALS)] != SPECIALS:
            raise CheckpointError(
                f"the vocabulary begins with {self.words[:4]}; the first four entries must be "
                f"{SPECIALS}. It was written by another program or is damaged."
            )
        if len(set(self.words)) != len(self.words):
            raise CheckpointError(
                "the vocabulary holds a word twice, so ids would be ambiguous. It is damaged."
            )

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    @cached_property
    def _tokenizer(self) -> Any:
        with needs_extra("tokenizers", "train", "cutting text into BPE pieces"):
            from tokenizers import Tokenizer
        try:
            return Tokenizer.from_str(self.bpe or "")
        except Exception as error:  # it raises nothing narrower
            raise CheckpointError(f"the vocabulary's tokenizer is damaged: {error}.") from error

    def split(self, text: str) -> list[str]:
        """Cut a caption into tokens as the training captions were cut."""
        if self.tokens == "character":
            return _characters(text)
        if self.tokens == "bpe":
            return self._tokenizer.encode(_normal(text)).tokens
        words = words_of(text)
        if self.articles:
            words = ["a" if word == "an" else word for word in words]
        return self._joined(words) if self._phrases else words

    @cached_property
    def _phrases(self) -> dict[str, list[list[str]]]:
        """The words that hold spaces, by their first part, the longest first."""
        found: dict[str, list[list[str]]] = {}
        if self.tokens == "word":
            for parts in sorted((w.split(" ") for w in self.words if " " in w), key=len):
                found.setdefault(parts[0], []).insert(0, parts)
        return found

    def _joined(self, words: list[str]) -> list[str]:
        """Join the parts of words that hold spaces, from left to right, the longest first."""
        joined: list[str] = []
        at = 0
        while at < len(words):
            fitting = (p for p in self._phrases.get(words[at], ()) if words[at : at + len(p)] == p)
            parts = next(fitting, [words[at]])
            joined.append(" ".join(parts))
            at += len(parts)
        return joined

    def encode(self, text: str | Sequence[str]) -> list[int]:
        """Turn a caption (or its tokens) into ids; no start or end is added."""
        tokens = self.split(text) if isinstance(text, str) else text
        return [self._ids.get(token, UNKNOWN) for token in tokens]

    def word(self, token: int) -> str:
        """Return one token as drawings show it."""
        return self.words[token].replace(_SPACE, " ").strip() or "\u2423"

    def spoken(self, tokens: Sequence[int]) -> list[str]:
        """Return the tokens of a caption as they are printed, with its articles."""
        printed = [self.word(token) for token in tokens]
        if self.articles:
            for i, (word, after) in enumerate(pairwise(printed)):
                if word == "a" and sounds_like_vowel(after):
                    printed[i] = "an"
        return printed

    def decode(self, tokens: Iterable[int]) -> str:
        """Turn ids into a caption; padding, start and end are left out."""
        ids = [t for t in tokens if t not in (PAD, START, END)]
        kept = [self.words[t] for t in ids]
        if self.tokens == "word":
            return " ".join(self.spoken(ids) if self.articles else kept)
        return "".join(kept).replace(_SPACE, " ").strip()

    def to_json(self) -> str:
        """Serialise for `vocabulary.json`."""
        values = {"format_version": 1, "tokens": self.tokens, "words": self.words, "bpe": self.bpe}
        if self.articles:
            values["articles"] = self.articles
        return json.dumps(values, ensure_ascii=False, indent=0)

    @classmethod
    def from_json(cls, text: str) -> Vocabulary:
        """Read `vocabulary.json`.

        Raises:
            CheckpointError: the text is damaged or of an unknown format.
        """
        try:
            values = json_of(text)
            if values["format_version"] != 1:
                raise CheckpointError(
                    f"vocabulary format {values['format_version']} is newer than this version "
                    "of regard supports (1). Update regard."
                )
            words = tuple(values["words"])
            if not all(isinstance(word, str) for word in words):
                raise TypeError("a word is not text")
            return cls(words, values["tokens"], values["bpe"], values.get("articles"))
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"vocabulary.json is damaged: {error!r}.") from error


def build_vocabulary(
    captions: Iterable[str | Sequence[str]],
    *,
    tokens: str = "word",
    min_count: int = 5,
    max_words: int = 10000,
) -> Vocabulary:
    """Build a vocabulary from training captions.

    Args:
        captions: texts, or lists of tokens that are used unchanged.
        tokens: "word", "character" or "bpe".
        min_count: rarer tokens become <unk>.
        max_words: number of the most frequent tokens to keep (10,000 in the paper); ties are
            broken by spelling.

    Raises:
        ConfigError: no token is left.
    """
    if tokens == "bpe":
        return _build_bpe(captions, min_count, max_words)
    counts = _counted(captions, _characters if tokens == "character" else words_of)
    frequent = _frequent(counts, min_count)
    if not frequent:
        raise ConfigError(
            f"no word occurs {min_count} times or more in the training captions ({len(counts)} "
            "distinct words). Lower data.min_count or add captions."
        )
    return Vocabulary(SPECIALS + tuple(frequent[:max_words]), tokens)


def extend_vocabulary(
    known: Vocabulary,
    captions: Iterable[str | Sequence[str]],
    *,
    min_count: int = 1,
    max_words: int = 10000,
) -> Vocabulary:
    """Append the words of new captions that a vocabulary lacks; known words keep their ids.

    A BPE vocabulary is returned as it is: how a text is cut depends on all of its pieces.

    Args:
        known: the vocabulary.
        captions: as for `build_vocabulary`; cut as `known` says.
        min_count: rarer words are not appended.
        max_words: size of the whole vocabulary from which no more words are appended.

    >>> known = Vocabulary(SPECIALS + ("a", "dog"))
    >>> extend_vocabulary(known, ["a cat", "a dog", "the cat"]).words[4:]
    ('a', 'dog', 'cat', 'the')
    """
    if known.tokens == "bpe":
        return known
    counts = _counted(captions, known.split)
    for word in known.words:
        counts.pop(word, None)
    room = max(0, max_words - (len(known) - len(SPECIALS)))
    return replace(known, words=known.words + tuple(_frequent(counts, min_count)[:room]))


def sounds_like_vowel(word: str) -> bool:
    """Return whether "an" stands before a word, by spelling and a list of exceptions.

    >>> [sounds_like_vowel(w) for w in ("orange", "hour", "unicycle", "umbrella", "dog")]
    [True, True, False, True, False]
    """
    if word.startswith(_SOUND_VOWEL):
        return True
    return word.startswith(tuple("aeiou")) and not word.startswith(_SOUND_CONSONANT)


def _counted(
    captions: Iterable[str | Sequence[str]], split: Callable[[str], list[str]]
) -> Counter[str]:
    """Count words or characters, without special ones."""
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(split(caption) if isinstance(caption, str) else caption)
    for special in SPECIALS:
        counts.pop(special, None)
    return counts


def _frequent(counts: Counter[str], min_count: int) -> list[str]:
    """Return the frequent words, the most frequent first, ties by spelling."""
    return sorted((w for w, n in counts.items() if n >= min_count), key=lambda w: (-counts[w], w))


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def _characters(text: str) -> list[str]:
    return list(_normal(text).replace(" ", _SPACE))


def _build_bpe(captions: Iterable[str | Sequence[str]], min_count: int, size: int) -> Vocabulary:
    with needs_extra("tokenizers", "train", "building a BPE vocabulary"):
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIALS[UNKNOWN]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=size + len(SPECIALS),
        min_frequency=min_count,
        special_tokens=list(SPECIALS),
        show_progress=False,
    )
    texts = (_normal(c if isinstance(c, str) else " ".join(c)) for c in captions)
    tokenizer.train_from_iterator(texts, trainer)
    ids = tokenizer.get_vocab()
    return Vocabulary(tuple(sorted(ids, key=ids.__getitem__)), "bpe", tokenizer.to_str())
