"""Options of decoding: what is refused, and that the message names it."""

from __future__ import annotations

import pytest

from regard.decoding import DecodingOptions
from regard.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"method": "bem"}, "bem"),
        ({"context": "soft"}, "context"),
        ({"beam": 0}, "beam"),
        ({"block_ngram": -1}, "block_ngram"),
        ({"method": "sample", "temperature": 0.0}, "temperature"),
        ({"temperature": 0.5}, "temperature.*beam|beam.*temperature"),
        ({"beam": 2, "n_best": 3}, "n_best=3.*beam=2"),
        ({"method": "greedy", "n_best": 2}, "n_best.*greedy"),
        ({"min_length": 9, "max_length": 8}, "min_length.*max_length"),
        ({"prefix": (2, 2), "max_length": 1}, "prefix.*max_length"),
        ({"prefix": (2, 5), "banned": (5,)}, "prefix.*banned"),
        ({"top_p": 0.5}, "top_p"),
        ({"method": "sample", "top_p": 0.0}, "top_p"),
        ({"method": "sample", "top_p": 1.5}, "top_p"),
        ({"method": "sample", "top_k": -1}, "top_k"),
        ({"length_penalty": -1.0}, "length_penalty"),
        ({"length_penalty": float("nan")}, "length_penalty"),
        ({"length_penalty": 400.0}, "length_penalty is 400.0; it must be 10 or less"),
        ({"beam": 2000}, "beam is 2000; it must be 100 or less"),
        ({"beam": 101, "n_best": 101}, "beam is 101; it must be 100 or less"),
        ({"method": "sample", "n_best": 10**9}, "n_best is 1000000000; it must be 10000 or less"),
        ({"alternatives": -1}, "alternatives"),
        ({"max_length": 0}, "max_length"),
        ({"seed": -1}, "seed"),
    ],
)
def test_clashing_options_are_refused_by_name(options: dict, names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        DecodingOptions(**options)
