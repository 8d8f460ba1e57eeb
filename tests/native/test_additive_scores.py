"""Additive scores block by block: the plain formula's values and gradients, in bounded memory."""

import resource
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from regard.native import dispatch, functional
from regard.native.functional import additive_scores

SIZES = [(1, 1, 1, 1), (2, 3, 7, 5), (3, 1, 50, 8), (2, 2, 33, 16)]


def plain(keys: Tensor, query: Tensor, v: Tensor) -> Tensor:
    return torch.tanh(keys[:, None] + query[:, :, None]) @ v


def inputs(n: int, g: int, cells: int, a: int, dtype: torch.dtype) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = ((n, cells, a), (n, g, a), (a,))
    return [torch.randn(s, generator=draw, dtype=dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("block", [1, 64, 2**20])
def test_values_and_gradients_are_those_of_the_formula(
    size: tuple[int, int, int, int], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functional, "_BLOCK", block)
    monkeypatch.setattr(dispatch, "BLOCKWISE_FROM", 1)
    given = inputs(*size, torch.float64)
    weights = torch.randn(size[0], size[1], size[2], dtype=torch.float64)
    found = additive_scores(*given)
    wanted = plain(*given)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)
    one = torch.autograd.grad((found * weights).sum(), given)
    other = torch.autograd.grad((wanted * weights).sum(), given)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.fixture(autouse=True)
def _blockwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "BLOCKWISE_FROM", 1)


def test_a_pictures_few_cells_are_computed_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "BLOCKWISE_FROM", 8)
    few, many = (inputs(2, 2, cells, 3, torch.float64) for cells in (7, 8))
    assert "BlockwiseScores" not in str(additive_scores(*few).grad_fn)
    assert "BlockwiseScores" in str(additive_scores(*many).grad_fn)
    torch.testing.assert_close(additive_scores(*few), plain(*few))


def test_gradients_by_differences() -> None:
    assert torch.autograd.gradcheck(additive_scores, inputs(2, 2, 5, 3, torch.float64))


def test_bfloat16_stays_within_its_precision() -> None:
    given = inputs(2, 2, 20, 16, torch.float32)
    low = [given[0].detach().bfloat16().requires_grad_(),
           given[1].detach().bfloat16().requires_grad_(), given[2]]  # fmt: skip
    found = additive_scores(*low)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), plain(*given), rtol=0.05, atol=0.1)
    gradients = torch.autograd.grad(found.float().sum(), low)
    assert [g.dtype for g in gradients] == [torch.bfloat16, torch.bfloat16, torch.float32]
    for a, b in zip(gradients, torch.autograd.grad(plain(*given).sum(), given), strict=True):
        torch.testing.assert_close(a.float(), b, rtol=0.1, atol=0.5)


_STEP = """
import resource, sys, torch
from regard.config import DecoderConfig
from regard.model.decoder import AttentionDecoder
steps = int(sys.argv[1])
torch.manual_seed(0)
decoder = AttentionDecoder(
    DecoderConfig(embedding_dim=16, hidden_dim=32, attention_dim=256, dropout=0.0),
    annotation_dim=32, vocabulary_size=50)
vectors = torch.randn(2, 26 * 14 * 14, 32)
mask = torch.ones(vectors.shape[:2], dtype=torch.bool)
began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tokens = torch.ones(2, steps, dtype=torch.long)
decoder(tokens, decoder.project(vectors, mask)).logits.sum().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began) / 1024)
"""


def test_training_on_5096_cells_does_not_keep_a_tanh_a_step() -> None:
    """One tanh is 2 × 5,096 × 256 × 4 bytes = 10 MB; 24 steps more would keep 240 MB of them."""
    assert resource.RUSAGE_SELF == 0  # ru_maxrss of the child's own process, in KB on Linux

    def peak(steps: int) -> float:
        run = [sys.executable, "-W", "ignore", "-c", _STEP, str(steps)]
        return float(subprocess.run(run, capture_output=True, check=True, text=True).stdout)

    few, many = peak(6), peak(30)
    assert many - few < 60, f"{few:.0f} MB in 6 steps, {many:.0f} MB in 30"
