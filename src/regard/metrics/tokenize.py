"""Captions to tokens as coco-caption cuts them, with Java or without."""

from __future__ import annotations

from collections.abc import Sequence

from regard.errors import ConfigError, UnknownName
from regard.metrics import java
from regard.metrics.ptb import PUNCTUATION, ptb_tokenize

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
        ConfigError: "ptb" was asked for and cannot run here.
    """
    if tokenizer not in _TOKENIZERS:
        raise UnknownName("tokenizer", tokenizer, _TOKENIZERS)
    if tokenizer == "none":
        return [caption.split() for caption in captions], "none"
    if tokenizer != "python":
        try:
            cut = java.ptb_tokenize_java([" ".join(caption.split()) for caption in captions])
            return [[t for t in tokens if t not in PUNCTUATION] for tokens in cut], "ptb"
        except java.JavaUnavailable as error:
            if tokenizer == "ptb":
                raise ConfigError(
                    f'tokenizer = "ptb" cannot run: {error}. Use "python", which gives the same '
                    "tokens without Java."
                ) from error
    return [ptb_tokenize(caption) for caption in captions], "python"


__all__ = ["PUNCTUATION", "ptb_tokenize", "tokenize_captions"]
