"""The beam search that stays on the device finds what the one on the host finds."""

import numpy as np
import pytest
import torch

from benchmarks.device_beam import Best, search
from regard.backends.torch_backend import TorchBackend
from regard.decoding import DecodingOptions
from regard.decoding.beam import decode_beam
from regard.decoding.topk import Ids
from regard.text.vocabulary import END, PAD, START, UNKNOWN
from regard.types import Annotations
from tests.helpers.toys import decoder

IDS = Ids(START, END, forbidden=(PAD, START, UNKNOWN))


def both(
    seed: int, **options: float
) -> tuple[list[tuple[tuple[int, ...], float, bool, np.ndarray, np.ndarray]], Best]:
    model = decoder(seed=seed)
    with torch.no_grad():  # so that some captions end early and some never
        model.output.bias[END] += seed % 4 - 1
    vectors = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(5, 4, dtype=torch.bool)
    mask[1, 2:] = False
    asked = DecodingOptions(method="beam", **options)  # type: ignore[arg-type]
    host = [
        (best.tokens, best.score, best.finished, best.logprobs, best.alpha)
        for (best,) in decode_beam(
            TorchBackend(None, model), Annotations(vectors, mask, ()), asked, IDS
        )
    ]
    with torch.inference_mode():
        device = search(model, model.project(vectors, mask), IDS, **options)  # type: ignore[arg-type]
    return host, device


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    "options",
    [
        {"beam": 3, "max_length": 8},
        {"beam": 2, "max_length": 5, "length_penalty": 1.0},
        {"beam": 5, "max_length": 6, "min_length": 6},
        {"beam": 4, "max_length": 3, "min_length": 2, "length_penalty": 0.7},
    ],
    ids=str,
)
def test_captions_scores_and_traces_are_those_of_the_host(
    seed: int, options: dict[str, float]
) -> None:
    host, device = both(seed, **options)
    for n, (tokens, score, finished, logprobs, alpha) in enumerate(host):
        length = int(device.length[n])
        assert tuple(device.tokens[n, :length].tolist()) == tokens
        assert (device.tokens[n, length:] == 0).all()
        assert device.score[n].item() == pytest.approx(score, abs=1e-4)
        assert bool(device.finished[n]) == finished
        np.testing.assert_allclose(device.logprobs[n, :length], logprobs, atol=1e-5)
        np.testing.assert_allclose(device.alpha[n, :length], alpha, atol=1e-6)


def test_the_cases_above_hold_early_late_and_unfinished_captions() -> None:
    lengths, ended = set[int](), set[bool]()
    for seed in range(12):
        for tokens, _, finished, _, _ in both(seed, beam=3, max_length=8)[0]:
            lengths.add(len(tokens))
            ended.add(finished)
    assert len(lengths) > 3
    assert ended == {True, False}
