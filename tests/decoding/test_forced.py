"""Teacher forcing reads a caption as it was said."""

import numpy as np
import torch

from regard.backends.torch_backend import TorchBackend
from regard.decoding import DecodingOptions, decode
from regard.decoding.sampling import force_captions
from regard.text.vocabulary import END, PAD, START, UNKNOWN
from regard.types import Annotations
from tests.helpers import toys


def annotations(items: int) -> Annotations:
    vectors = torch.randn(items, 5, 6, generator=torch.Generator().manual_seed(1))
    return Annotations(vectors, torch.ones(items, 5, dtype=torch.bool), ())


def test_what_was_said_is_read_with_the_same_probabilities_and_maps() -> None:
    backend, one = TorchBackend(None, toys.decoder()), annotations(1)
    options = DecodingOptions(method="greedy", max_length=6)
    (found,) = decode(backend, one, options, start=START, end=END, forbidden=(PAD, START, UNKNOWN))
    read = force_captions(backend, one, np.array(found[0].tokens), start=START)
    np.testing.assert_allclose(read.logprobs[0], found[0].logprobs, atol=1e-5)
    np.testing.assert_allclose(read.alpha[0], found[0].alpha, atol=1e-6)


def test_each_item_may_have_its_own_caption() -> None:
    backend, both = TorchBackend(None, toys.decoder()), annotations(2)
    tokens = np.array([[4, 5, 6], [4, 7, 8]])
    read = force_captions(backend, both, tokens, start=START)
    for i in range(2):
        alone = Annotations(both.vectors[i : i + 1], both.mask[i : i + 1], ())
        single = force_captions(backend, alone, tokens[i], start=START)
        np.testing.assert_allclose(read.logprobs[i], single.logprobs[0], atol=1e-5)
        np.testing.assert_allclose(read.alpha[i], single.alpha[0], atol=1e-6)
