"""Classes, inflections and synonyms of words, by lists; a tagger would need a model.

Function words, colours, numbers and the most frequent actions are few enough to be listed
(`word_classes.txt`). A word on no list is a "thing": mostly nouns, and some adjectives.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from regard.types import Caption

CLASSES = ("thing", "action", "colour", "number", "function")


_IDEOGRAPHS = (
    "\u2e80-\u2fdf\u3005\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_KATAKANA = "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
UNSPACED = re.compile(
    rf"([{_IDEOGRAPHS}{_KATAKANA}\u3041-\u309f\u3099"
    r"\u0e01-\u0e3a\u0e40-\u0e4e\u0e50-\u0e59\u0e81-\u0edf"  # Thai, Lao
    r"\u1780-\u17d3\u17d7\u17dc-\u17e9"  # Khmer
    r"\u1000-\u1049\u1050-\u109f\ua9e0-\ua9fe\uaa60-\uaa7f]+)"  # Burmese
)
"""Runs of letters of the languages that put no spaces between words: Chinese, Japanese, Thai, Lao,
Khmer and Burmese."""
_MEANING = re.compile(f"[{_IDEOGRAPHS}{_KATAKANA}]")


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
    listed = _sections("word_classes.txt")
    return {word: name for name, lines in listed.items() for word in " ".join(lines).split()}


def _sections(file: str) -> dict[str, list[str]]:
    """Return the lines of a file of words by the heading of their paragraph."""
    text = (files("regard.text") / file).read_text("utf-8")
    parts = (paragraph.strip().partition(":\n") for paragraph in text.split("\n\n")[1:])
    return {name: lines.splitlines() for name, _, lines in parts}


_LEAST_IN_ING, _LEAST_IN_ED = 6, 5  # letters; "king" and "bed" have these endings by chance
_HISSES = ("s", "x", "z", "ch", "sh", "o")
KINDS = ("person", "animal", "clothes", "place")
"""Kinds of things; words of different kinds are not compared with each other."""
_NO_PLURAL = ("ss", "us", "is", "'s")


@cache
def lemmas(word: str) -> frozenset[str]:
    """Return the possible base forms of a word, and the word itself.

    >>> sorted(lemmas("running"))
    ['run', 'runn', 'runne', 'running']
    """
    word = word.lower()
    found = {word} | _lexicon().forms.get(word, set())
    if _ends_in_s(word):
        found |= _without_s(word)
    for ending, least in (("ing", _LEAST_IN_ING), ("ed", _LEAST_IN_ED)):
        if word.endswith(ending) and len(word) >= least:
            stem = word.removesuffix(ending)
            found |= {stem, stem + "e"}
            if stem[-1] == stem[-2]:
                found.add(stem[:-1])
            if ending == "ed" and stem.endswith("i"):
                found.add(stem[:-1] + "y")
    return frozenset(found | {form for one in found for form in _lexicon().forms.get(one, set())})


def is_plural(word: str) -> bool:
    """Return whether a noun is a plural."""
    return word in _lexicon().plurals or _ends_in_s(word)


_VES = ("life", "wife", "shelf", "elf", "loaf", "scarf", "thief")
_OES = ("potato", "tomato", "hero", "echo", "mango", "volcano", "buffalo", "mosquito")
_SAME = ("sheep", "fish", "deer", "moose", "bison", "aircraft", "squid", "shrimp", "salmon")


def plural(noun: str) -> str:
    """Return the plural of an English noun, whose last word is its head; a plural stays.

    >>> [plural(noun) for noun in ("fire hydrant", "fox", "cherry", "wolf", "goldfish", "jeans")]
    ['fire hydrants', 'foxes', 'cherries', 'wolves', 'goldfish', 'jeans']
    """
    before, space, head = noun.rpartition(" ")
    if is_plural(head) or head.endswith(_SAME):
        return noun
    irregular = [
        form
        for form, bases in _lexicon().forms.items()
        if head in bases and (form in _lexicon().plurals or form.endswith("ves"))
    ]
    if irregular:
        head = irregular[0]
    elif head.endswith("man") and head not in ("human", "german"):
        head = head.removesuffix("man") + "men"
    elif head.endswith(_VES):
        head = head.removesuffix("e").removesuffix("f") + "ves"
    elif head.endswith(("s", "x", "z", "ch", "sh")) or head in _OES:
        head += "es"
    elif head.endswith("y") and head[-2:-1] not in tuple("aeiou"):
        head = head[:-1] + "ies"
    else:
        head += "s"
    return before + space + head


def is_judged(word: str) -> bool:
    """Return whether a word has content that references can support or not.

    Of the languages without spaces, ideographs and katakana have; letters of the others mean
    nothing by themselves.
    """
    if UNSPACED.search(word):
        return _MEANING.search(word) is not None
    if not any(map(str.isalnum, word)):
        return False
    return word_class(word) != "function" and not lemmas(word) & _lexicon().unjudged


def is_quality(word: str) -> bool:
    """Return whether a word outside the closed classes is a quality: listed, or a participle."""
    participle = word.endswith("ed") and len(word) >= _LEAST_IN_ED and not word.endswith("eed")
    return participle or word in _lexicon().qualities


@cache
def same(word: str, other: str) -> bool:
    """Return whether two words mean the same: inflections or synonyms."""
    return bool(lemmas(word) & lemmas(other)) or bool(_groups(word) & _groups(other))


@cache
def broader(word: str, other: str) -> bool:
    """Return whether the first word is broader than the second, as "animal" is for "dog".

    The second counts through its exact synonyms too: "people" is broader than "guy".
    """
    narrower = _lexicon().narrower
    below = {n for lemma in lemmas(word) for n in narrower.get(lemma, set())}
    return bool(below & lemmas(other)) or any(
        below & _lexicon().exact[group] for lemma in lemmas(other) for group in _exact(lemma)
    )


@cache
def related(word: str, other: str) -> bool:
    """Return whether one word could stand for the other: the same, or broader either way."""
    return same(word, other) or broader(word, other) or broader(other, word)


@cache
def kinds(word: str) -> frozenset[str]:
    """Return the `KINDS` that a word belongs to; most words belong to none."""
    return frozenset(kind for kind in KINDS if same(kind, word) or broader(kind, word))


def is_living(word: str) -> bool:
    """Return whether a word names people or animals."""
    return not kinds(word).isdisjoint(("person", "animal"))


def supported(word: str, reference_words: Iterable[str]) -> bool:
    """Return whether references support a word.

    The word, an inflection, a synonym or a narrower word supports it. So does a broader word,
    unless the references name a rival of the word: "child" supports "boy", but not if a "girl" is
    named, too.

    Args:
        word: a word of the caption.
        reference_words: the words of all references.
    """
    heard = set(reference_words)
    if any(same(word, other) or broader(word, other) for other in heard):
        return True
    return any(
        broader(head, word) and not any(broader(head, other) for other in heard) for head in heard
    )


def _ends_in_s(word: str) -> bool:
    return len(word) > 3 and word.endswith("s") and not word.endswith(_NO_PLURAL)


def _without_s(word: str) -> set[str]:
    found = {word[:-1]}
    if word.endswith("ies"):
        found.add(word[:-3] + "y")
    if word.endswith("es") and word[:-2].endswith(_HISSES):
        found.add(word[:-2])
    return found


class _Lexicon:
    """The content of `lexicon.txt`.

    Attributes:
        forms: base forms by irregular form.
        exact: groups of exact synonyms.
        groups: the exact groups, and then groups of looser synonyms.
        of: the numbers of the groups that hold a word, by word.
        narrower: words below a word, by word.
    """

    def __init__(self, sections: dict[str, list[str]]) -> None:
        self.forms: dict[str, set[str]] = {}
        for line in sections["forms"]:
            base, *forms = line.split()
            for form in forms:
                self.forms.setdefault(form, set()).add(base)
        self.exact, loose = (
            [frozenset(line.split()) for line in sections[name]] for name in ("exact", "same")
        )
        self.groups = self.exact + loose
        self.of: dict[str, set[int]] = {}
        for number, words in enumerate(self.groups):
            for word in words:
                self.of.setdefault(word, set()).add(number)
        self.narrower: dict[str, set[str]] = {}
        for line in sections["broader"]:
            heads, words = line.split(":")
            for head in heads.split():
                self.narrower.setdefault(head, set()).update(words.split())
        self.plurals, self.qualities, self.unjudged = (
            frozenset(" ".join(sections[name]).split())
            for name in ("plurals", "qualities", "unjudged")
        )


@cache
def _lexicon() -> _Lexicon:
    return _Lexicon(_sections("lexicon.txt"))


def _groups(word: str) -> set[int]:
    return {group for lemma in lemmas(word) for group in _lexicon().of.get(lemma, set())}


def _exact(lemma: str) -> list[int]:
    lexicon = _lexicon()
    return [group for group in lexicon.of.get(lemma, set()) if group < len(lexicon.exact)]


_SPACE = "\u2423"  # how a vocabulary of characters or pieces shows a space


@dataclass(frozen=True)
class SpokenWord:
    """A word of a caption, which may be several tokens.

    Attributes:
        text: text of the word.
        first: index of its first token in `caption.words`, whose map is shown.
        stop: index behind its last token.
        logprob: log-probability of all its tokens.
    """

    text: str
    first: int
    stop: int
    logprob: float


def spoken_words(caption: Caption) -> tuple[SpokenWord, ...]:
    """Return the words of a caption, whose tokens may be words, characters or pieces."""
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


def judged_words(caption: Caption) -> tuple[SpokenWord, ...]:
    """Return the words of a caption as they are compared with references.

    Where a language puts no spaces between words, they are the model's tokens, and the letters of
    a token that is a whole sentence.
    """
    found: list[SpokenWord] = []
    for word in spoken_words(caption):
        if not UNSPACED.search(word.text):
            found.append(word)
            continue
        whole = word.stop - word.first == 1
        for at, piece in enumerate(caption.words[word.first : word.stop], word.first):
            texts = piece.text if whole else [piece.text]
            found += [SpokenWord(text, at, at + 1, piece.logprob) for text in texts]
    return tuple(found)
