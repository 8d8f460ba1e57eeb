"""The tokens of Stanford's PTBTokenizer 3.4.1, without Java.

The rules follow its observed behaviour under `-preserveLines -lowerCase`, quirks included,
because published scores depend on them: "(" becomes "-lrb-" and, being lower case, is not dropped
as punctuation; "10p.m." is cut in three; "in.," keeps its full stop. Agreement is measured on
35,000 Flickr8k captions and on a stored table of hard cases; texts that are unusual in captions
(an abbreviation run into a letter, "Co.s") may still differ.
"""

import re
import unicodedata
from collections.abc import Sequence

from regard.errors import ConfigError, UnknownName
from regard.metrics import java
from regard.text.vocabulary import Vocabulary
from regard.text.words import UNSPACED

PUNCTUATION = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-")
    + (".", "?", "!", ",", ":", "-", "--", "...", ";")
)
"""Tokens that coco-caption drops."""


def ptb_tokenize(text: str) -> list[str]:
    """Cut one caption into lower-case tokens without punctuation.

    >>> ptb_tokenize("A man's t-shirt (red) isn't from the U.S., it costs $5.50!")[:6]
    ['a', 'man', "'s", 't-shirt', '-lrb-', 'red']
    """
    words = text.split()
    if all(map(_is_plain, words)):
        return [word.lower() for word in words if word not in PUNCTUATION]
    tokens = (_printed(match) for match in _TOKEN.finditer(" ".join(words)))
    return [token for token in tokens if token not in PUNCTUATION]


def _is_plain(word: str) -> bool:
    """Return whether no rule applies to a word, as in most captions: the fast path."""
    return word in (".", ",") or (
        word.isascii() and word.isalpha() and word.lower() not in _TWO_WORDS
    )


def _printed(match: re.Match[str]) -> str:
    """Return a token as PTBTokenizer prints it."""
    token, kind = match.group(), match.lastgroup
    if kind == "spaced":
        return token.replace(" ", "\u00a0").translate(_PARENTHESES)
    if kind == "entity":
        return _ENTITIES[token.lower()]
    if kind == "dash":
        return "--"
    if kind == "clitic":
        return token.translate(_STRAIGHT).lower()
    if kind == "smiley":
        return token.translate(_PARENTHESES).lower()
    if kind == "symbol":
        return token.translate(_SYMBOLS).lower()
    return token.replace("\u00ad", "").lower() or "-"


_TWO_WORDS = ("cannot", "gonna", "gotta", "wanna", "gimme", "lemme")
_ENTITIES = {
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
    "&quot;": "''",
    "&apos;": "'",
    "&mdash;": "--",
    "&nbsp;": "''",
}
_STRAIGHT = str.maketrans("\u2019\u0092\u2018", "''`")
_PARENTHESES = str.maketrans({"(": "-lrb-", ")": "-rrb-"})
_SYMBOLS = _PARENTHESES | str.maketrans(
    {"[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
    | {"\u00a3": "#", "\u00a2": "cents", "\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4"}
    | {"\u2153": "1/3", "\u2154": "2/3"}
    | dict.fromkeys("\u00a4\u20a0\u20ac\u0080", "$")
)

# Letters of the basic plane, and the marks and modifiers that stand inside words;
# superscripts, fractions and the like are symbols.
_L = (
    r"(?:[^\W\d_\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2089\u2150-\u218b\u2460-\u24ff"
    r"\u2776-\u2793\U00010000-\U0010ffff]|[\u00ad\u02c2-\u02ff\u0300-\u036f\u0483-\u0487"
    r"\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065e\u0670"
    r"\u06d6-\u06ed\u0900-\u0903\u093c-\u094d\u0951-\u0955\u0962\u0963\u0e31-\u0e4e])"
)
_A = rf"(?:{_L}|\d)"
_Q = r"['\u2019\u0092]"
_QQ = r"['\u2019\u0092\u2018`]"
_AUX = r"(?i:s|m|d|re|ve|ll)"
_CLITIC = rf"(?:'{_AUX}(?!{_L})|[\u2019\u0092]{_AUX})"
_END = rf"(?!{_A}|{_CLITIC})"
_ACRONYM = rf"{_L}(?:\.{_L})*\.(?!{_L})"
_ABBREVIATION = r"""(?x:(?:
    (?i:adj|adm|adv|ala?|alex|apr|ariz|ass[nt]|assoc|asst|atty|aug|ave|bancorp|bhd|bldg|blvd|brig
    |bros|calif|capt|cf|cie|cmdr|cos?|col|colo|comdr|conn|corp|cpl|ct|dak|dec|dept|det|drs?|elec
    |ens|esq|est|etc|ext|feb|fla|fri|ft|ga|gen|govs?|hon|inc|ind|insp|intl|invt|jan|jos|jr|jul|jun
    |kans?|ky|lieut|lt|ltd|maj|mar|md|messrs|mfg|mich|minn|mlle|mme|mo|mon|mont|mrs?|ms|msgr|mt|mtg
    |natl|neb|nev|nov|oct|okla|penn|pfc|ph|plc|ppte|ppty|pres|profs?|ptes?|ptys?|pvt|rd|reps?
    |rev|rt|sens?|sept?|seq|sfc|sgt|spc|sq|sr|ste?|supt|sys|tel|tenn|thu|thurs|treas|tues?|univ|va
    |vs|vt|wed|wisc?|wm|wyo)
    |(?:A(?i:rk|z)|D(?i:el)|I(?i:ll)|L(?i:a)|M(?i:ass|iss)|O(?i:re)|P(?i:a)|T(?i:ex)|W(?i:ash))
    |(?i:art|ca|figs?|nos?|op|pp|prop)(?=\.[ ]?\d)
)\.)"""
_NUMBER = r"(?:\d+(?:[.:,]\d+)*|(?:[.:,]\d+)+)"
_PHONE = (
    r"(?:\(\d{2,3}\) ?|(?:\+{0,2}\d{2,4}[- ])?\+{0,2}\d{2,4}[- ])\d{3,4}[- ]?\d{3,5}"
    r"|(?:\+{0,2}\d{2,4}\.)?\d{2,4}\.\d{3,4}\.\d{3,5}"
)
_WORD = rf"{_A}+(?:-{_A}+)*"
_FIRST_PART = rf"{_A}(?:{_A}|_(?={_A})|\.(?!\.)|(?<=\d),(?=\d))*"
_LATER_PART = rf"(?:{_L}(?:\.{_L})+\.(?!{_L})|(?:{_A}|_(?={_A}))+)"

# The first rule that matches wins, so longer kinds of token stand before shorter ones. Text that
# no rule matches (single punctuation, quotes, emoji) is dropped.
_RULES = (
    # tags, telephone numbers, "2 1/2": one token, its spaces printed as no-break spaces
    r"(?P<spaced></?[A-Za-z](?:[^<>\"']|\"[^\"<>]*\"|'[^'<>]*')*>|<[!?][^<>]*>"
    rf"|{_PHONE}|\d{{1,4}}[- ]\d{{1,4}}/\d{{1,4}})",
    rf"(?P<entity>(?i:{'|'.join(_ENTITIES)}))",
    # addresses
    r"https?://[^\s\"<>|()]+[^\s\"<>|.!?(){},-]",
    r"[A-Za-z0-9][^\s\"<>|(){}]*@[^\s\"<>|(){}.]+(?:\.[^\s\"<>|(){}.]+)*",
    rf"(?P<smiley>[<>]?[:;=][-o']?[()DPOdp\\|@\][{{](?!{_A})|>_<|\^_\^|-_-)",
    # words that are cut in two: can|not, gon|na, more|'n, 't|is
    rf"(?i:can(?=not{_END})|(?:gon|wan)(?=na{_END})|got(?=ta{_END})|(?:gim|lem)(?=me{_END}))",
    r"(?i:more(?='n(?![^\s']))|'t(?=is|was))",
    # words with an apostrophe that are not cut
    rf"(?i:cont{_Q}d\.|(?:somethin|dunkin|ol){_Q}(?!{_L})|c{_Q}(?:mon|est)|nor{_Q}easter)",
    rf"(?i:s{_Q}mores|e{_Q}er|ev{_Q}ry|li{_Q}l|nat{_Q}l|o{_Q}o|cap{_Q}n)",
    rf"(?i:{_Q}(?:em|till?|cause|[2-9]0s|\d\d(?!\S)|n(?:{_Q}|(?!\S))))",
    rf"(?P<clitic>[nN]{_QQ}[tT](?!{_L})|{_CLITIC})",
    rf"[dlnoDLNO]{_Q}(?!(?i:{_AUX}|t)(?!{_L})){_L}{{2,}}",  # o'clock, d'Angelo
    rf"[djlyDJLY]{_Q}(?!{_AUX})",  # y'|all
    rf"(?:{_A}+-)*{_L}+?(?=[nN]{_QQ}[tT])",  # do|n't
    rf"{_L}+[aeiouyAEIOUY]{_Q}(?!{_AUX}(?!{_L}))[aeiouA-Z]{_L}*",  # ma'am
    rf"{_WORD}(?:/{_WORD}){{1,2}}",  # and/or, 24/7
    rf"{_FIRST_PART}(?:-{_LATER_PART})+",  # t-shirt, 10,000-mile, U.S.-made
    r"[A-Z]+(?:&[A-Z]+)+|[A-Z]+\$|[cC]\+\+|[cCfF]#",  # AT&T, US$
    rf"{_WORD}\.(?=[,;:])|(?i:ph\.d\.)|{_ACRONYM}|{_L}+(?:[.?!]{_L}+)+|{_ABBREVIATION}",
    rf"[-+]{_NUMBER}|\d+(?:[.:,]\d+)+|(?:[.:,]\d+)+",
    rf"{_A}+(?:_{_A}+)*",  # plain words and numbers
    rf"@[A-Za-z_]\w*|#{_L}+|&#\d+;|&[aeiouAEIOU](?:acute|grave|uml);",
    # runs that count as one token
    r"\.\.\.|(?P<dash>-{2,4}(?!-))|-{5,}|-(?i:[lr][rcs]b)-|[?!]+|_+|\*+|#+|@+|<<|>>|''|``",
    r"(?P<symbol>[\$%&+/<=>\\^|~()\[\]{}\u00a1-\u00aa\u00ac\u00ae-\u00ba\u00bc-\u00bf"
    r"\u00d7\u00f7\u037e\u0387\u0589\u05be\u05c0\u05c3\u05c6\u05f3\u05f4\u0606-\u060c\u061b"
    r"\u061e\u061f\u066a\u066d\u06d4\u0700-\u070d\u0964\u0965\u0e3f\u0e4f\u2016\u2017\u201a"
    r"\u201e-\u2023\u2030-\u2038\u203b\u203e-\u2042\u2044\u2070-\u208e\u20a0\u20a4\u20ac"
    r"\u2100-\u214f\u2153-\u215e\u2190-\u2bff\u3001\u3002\u3012\u30fb\uff01-\uff65])",
)
_TOKEN = re.compile("|".join(_RULES))


_TOKENIZERS = ("auto", "ptb", "python", "model", "none")
_OWN = {"character": "the model's characters", "bpe": "the model's BPE pieces"}


def tokenize_captions(
    captions: Sequence[str], tokenizer: str = "auto", vocabulary: Vocabulary | None = None
) -> tuple[list[list[str]], str]:
    """Cut captions into lower-case tokens without punctuation.

    Runs of Chinese, Japanese, Thai, Lao, Khmer and Burmese, which have no spaces between words, are
    cut into characters.

    Args:
        captions: raw text.
        tokenizer: "ptb", "python", "auto" (ptb where Java is installed), "model" (the tokens of
            `vocabulary` where they are not words, else auto) or "none" (at spaces).
        vocabulary: of the model.

    Returns:
        The tokens of each caption, and what they are: "ptb", "python", "characters", "ptb and
        characters" for a mixture, "the model's characters", "none" ...

    Raises:
        UnknownName: the tokenizer does not exist.
        ConfigError: "ptb" was requested and cannot run here.
    """
    if tokenizer not in _TOKENIZERS:
        raise UnknownName("tokenizer", tokenizer, _TOKENIZERS)
    if tokenizer == "none":
        return [caption.split() for caption in captions], "none"
    if tokenizer == "model" and vocabulary is not None and vocabulary.tokens in _OWN:
        return [vocabulary.split(caption) for caption in captions], _OWN[vocabulary.tokens]
    captions = [unicodedata.normalize("NFC", caption) for caption in captions]
    spaced = [caption for caption in captions if not UNSPACED.search(caption)]
    cut, used = _cut_at_spaces(spaced, tokenizer)
    if len(spaced) == len(captions):
        return cut, used
    tokens = iter(cut)
    mixed = [by_character(c) if UNSPACED.search(c) else next(tokens) for c in captions]
    return mixed, f"{used} and characters" if any(cut) else "characters"


def by_character(caption: str) -> list[str]:
    """Cut a caption into the characters of languages without spaces, and other words.

    >>> by_character("2匹の犬、a red ball。")
    ['2', '匹', 'の', '犬', 'a', 'red', 'ball']
    """
    tokens: list[str] = []
    for place, part in enumerate(UNSPACED.split(unicodedata.normalize("NFC", caption))):
        if place % 2:
            tokens += part
        else:
            tokens += (token for token in ptb_tokenize(part) if any(map(str.isalnum, token)))
    return tokens


def reward_tokens(words: Sequence[str]) -> list[str]:
    """Cut those of a model's tokens that are whole sentences of languages without spaces."""
    return [c for word in words for part in UNSPACED.split(word) for c in _letters(part)]


def _letters(part: str) -> Sequence[str]:
    return part if UNSPACED.fullmatch(part) else [part] * bool(part)


def reference_words(caption: str, vocabulary: Vocabulary | None = None) -> list[str]:
    """Cut a reference as `regard.text.words.judged_words` cuts the captions of a model."""
    if not UNSPACED.search(caption):
        return ptb_tokenize(caption)
    if vocabulary is not None and vocabulary.tokens == "bpe":
        shown = (token.replace("\u2581", "") for token in vocabulary.split(caption))
        return [token for token in shown if token]
    return by_character(caption)


def _cut_at_spaces(captions: Sequence[str], tokenizer: str) -> tuple[list[list[str]], str]:
    if tokenizer != "python":
        try:
            cut = java.ptb_tokenize_java([" ".join(caption.split()) for caption in captions])
            return [[t for t in tokens if t not in PUNCTUATION] for tokens in cut], "ptb"
        except java.JavaUnavailable as error:
            if tokenizer == "ptb":
                raise ConfigError(
                    f'tokenizer = "ptb" cannot run: {error}. Use "python", which returns the '
                    "same tokens without Java."
                ) from error
    return [ptb_tokenize(caption) for caption in captions], "python"
