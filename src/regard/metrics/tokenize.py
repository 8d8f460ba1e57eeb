"""Captions to tokens as coco-caption cuts them, with Java or without.

`ptb_tokenize` follows the observed behaviour of Stanford's PTBTokenizer 3.4.1 under
`-preserveLines -lowerCase`, quirks included, since published scores rest on them: "(" becomes
"-lrb-" and, being lower case, is not dropped as punctuation; "10p.m." is cut in three.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from regard.errors import UnknownName
from regard.metrics import java

PUNCTUATION = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-")
    + (".", "?", "!", ",", ":", "-", "--", "...", ";")
)
"""Tokens that coco-caption drops."""

_TOKENIZERS = ("auto", "ptb", "python", "none")


def tokenize_captions(
    captions: Sequence[str], tokenizer: str = "auto"
) -> tuple[list[list[str]], str]:
    """Cut captions into lower-case tokens without punctuation.

    Args:
        captions: raw text.
        tokenizer: "ptb", "python", "auto" (ptb where Java is there) or "none" (at spaces).

    Returns:
        The tokens of each caption, and the tokenizer that was used.

    Raises:
        UnknownName: the tokenizer does not exist.
        ConfigError: "ptb" was asked for and cannot run.
    """
    if tokenizer not in _TOKENIZERS:
        raise UnknownName("tokenizer", tokenizer, _TOKENIZERS)
    if tokenizer == "none":
        return [caption.split() for caption in captions], "none"
    if tokenizer == "python" or (tokenizer == "auto" and not java.java_installed()):
        return [ptb_tokenize(caption) for caption in captions], "python"
    lines = [" ".join(caption.split()) for caption in captions]
    cut = java.ptb_tokenize_java(lines)
    return [[t for t in tokens if t not in PUNCTUATION] for tokens in cut], "ptb"


def ptb_tokenize(text: str) -> list[str]:
    """Cut one caption as PTBTokenizer does, without Java.

    >>> ptb_tokenize("A man's t-shirt (red) isn't from the U.S., it costs $5.50!")[:6]
    ['a', 'man', "'s", 't-shirt', '-lrb-', 'red']
    """
    words = text.split()
    if all(map(_is_plain, words)):
        return [word.lower() for word in words if word not in PUNCTUATION]
    tokens = (_printed(match) for match in _TOKEN.finditer(" ".join(words)))
    return [token for token in tokens if token not in PUNCTUATION]


def _is_plain(word: str) -> bool:
    """Whether no rule applies to a word, as in most captions: the fast path."""
    return word in (".", ",") or (
        word.isascii() and word.isalpha() and word.lower() not in _TWO_WORDS
    )


def _printed(match: re.Match[str]) -> str:
    token = match.group()
    if match.lastgroup == "with_spaces":
        token = token.replace(" ", "\u00a0")
        return token.replace("(", "-lrb-").replace(")", "-rrb-")
    if match.lastgroup == "entity":
        return _ENTITIES[token.lower()]
    if match.lastgroup == "clitic":
        return token.lower().translate(_STRAIGHT)
    if match.lastgroup in ("smiley", "symbol"):
        return token.translate(_ESCAPES).lower()
    return token.replace("\u00ad", "").lower()


_TWO_WORDS = ("cannot", "gonna", "gotta", "wanna", "gimme", "lemme")
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'", "&mdash;": "--"}
_STRAIGHT = str.maketrans("\u2019\u0092\u2018", "''`")
_ESCAPES = str.maketrans(
    {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
    | {"\u00a3": "#", "\u00a2": "cents", "\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4"}
    | {"\u2153": "1/3", "\u2154": "2/3"}
    | dict.fromkeys("\u00a4\u20a0\u20ac\u0080", "$")
)

# The parts that token patterns are made of. Letters: those of the basic plane, with the marks
# and modifiers that stand inside words; superscripts, fractions and the like are symbols.
_L = (
    r"(?:[^\W\d_\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2089\u2150-\u218b\u2460-\u24ff"
    r"\u2776-\u2793\U00010000-\U0010ffff]|[\u00ad\u02c2-\u02ff\u0300-\u036f\u0483-\u0487"
    r"\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065e\u0670"
    r"\u06d6-\u06ed\u0900-\u0903\u093c-\u094d\u0951-\u0955\u0962\u0963\u0e31-\u0e4e])"
)
_A = rf"(?:{_L}|\d)"
_Q = r"['\u2019\u0092]"
_ACRONYM = rf"{_L}(?:\.{_L})*\.(?!{_L})"
_ABBREVIATION = r"""(?:
    (?i:adj|adm|adv|ala?|alex|apr|ariz|ass[nt]|assoc|asst|atty|aug|ave|bancorp|bhd|bldg|blvd|brig
    |bros|calif|capt|cf|cie|cmdr|cos?|cola?|colo|comdr|conn|corp|cpl|ct|dak|dec|dept|det|drs?|elec
    |ens|esq|est|etc|ext|feb|fla|fri|ft|ga|gen|govs?|hon|inc|ind|insp|intl|invt|jan|jos|jr|jul|jun
    |kans?|ky|lieut|lt|ltd|maj|mar|md|messrs|mfg|mich|minn|mlle|mme|mo|mon|mont|mrs?|ms|msgr|mt|mtg
    |natl|neb|nev|nov|oct|okla|penn|pfc|ph\.d|ph|plc|ppte|ppty|pres|profs?|ptes?|ptys?|pvt|rd|reps?
    |rev|rt|sens?|sept?|seq|sfc|sgt|spc|sq|sr|ste?|supt|sys|tel|tenn|thu|thurs|treas|tues?|univ|va
    |vs|vt|wed|wisc?|wm|wyo)
    |(?:A(?i:rk|z)|D(?i:el)|I(?i:ll)|L(?i:a)|M(?i:ass|iss)|O(?i:re)|P(?i:a)|T(?i:ex)|W(?i:ash))
    |(?i:art|ca|figs?|nos?|op|pp|prop)(?=\.\ ?\d)
)\."""
