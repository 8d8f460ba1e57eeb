"""The unrolled recurrence and the vocabulary loss are what the loop and plain torch say."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.train import TrainWork, make_step
from benchmarks.workload import Sizes
from benchmarks.workload import make_batch as make_workload
from regard.config import ObjectiveConfig
from regard.model.decoder import AttentionDecoder
from regard.model.unroll import pack_captions
from regard.native import cpp_library
from regard.native.cpp_library import PackedProduct, library
from regard.native.functional import word_losses
from regard.training.objectives.base import Batch
from regard.training.objectives.cross_entropy import CrossEntropy
from regard.training.objectives.reinforce import HardAttentionObjective
from tests.helpers import toys

needs_compiler = pytest.mark.skipif(
    library(torch.float32) is None, reason="no C++ compiler: the plain path is all there is"
)
VOCABULARY = 12


def make_batch(items: int, captions: int, cells: int, seed: int, dtype: torch.dtype) -> Batch:
    """Captions of 1 to 6 steps, some cells masked; one item may be masked but for one cell."""
    generator = torch.Generator().manual_seed(seed)
    rows = items * captions
    lengths = torch.randint(1, 7, (rows,), generator=generator)
    lengths[0] = 6
    steps = torch.arange(6) < lengths[:, None]
    mask = torch.rand(items, cells, generator=generator) < 0.7
    mask[:, 0] = True
    tokens = torch.randint(0, VOCABULARY, (rows, 6), generator=generator)
    targets = torch.randint(0, VOCABULARY, (rows, 6), generator=generator)
    vectors = torch.randn(items, cells, 6, generator=generator).to(dtype)
    return Batch(vectors, mask, tokens, targets, steps, tuple(range(items)))


def loss_and_gradients(
    decoder: AttentionDecoder, batch: Batch, seed: int = 3
) -> tuple[Tensor, list[Tensor]]:
    """The seed decides which captions of hard attention sample and which take expectations."""
    decoder.zero_grad()
    hard = decoder.config.attention == "hard"
    config = ObjectiveConfig(
        kind="hard_attention" if hard else "cross_entropy",
        lambda_ds=0.7,
        label_smoothing=0.1,
        lambda_e=0.3,
        lambda_r=0.8,
    )
    objective = HardAttentionObjective(config) if hard else CrossEntropy(config)
    vectors = batch.vectors.clone().requires_grad_()
    projected = decoder.project(vectors, batch.mask)
    generator = torch.Generator().manual_seed(seed)
    loss = objective.loss(decoder, projected, batch, generator).total
    loss.backward()
    found = [p.grad for p in decoder.parameters() if p.grad is not None]
    assert vectors.grad is not None
    return loss.detach(), [vectors.grad, *found]


@needs_compiler
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["soft", "hard"]),
    st.sampled_from(["additive", "dot", "scaled_dot"]),
    st.sampled_from(["none", "scalar", "feature"]),
    st.integers(1, 3),
    st.sampled_from([1, 2, 5]),
    st.sampled_from([1, 2, 7, 18]),
    st.sampled_from([0.0, 0.4]),
    st.integers(0, 2**16),
)
def test_losses_and_gradients_are_those_of_the_loop(
    attention: str,
    scores: str,
    gate: str,
    items: int,
    captions: int,
    cells: int,
    dropout: float,
    seed: int,
) -> None:
    decoder = toys.decoder(
        attention=attention, scores=scores, gate=gate, dropout=dropout, temperature=0.7
    )
    decoder = decoder.train().double()
    batch = make_batch(items, captions, cells, seed, torch.float64)
    loss, gradients = loss_and_gradients(decoder, batch, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGARD_KERNELS", "plain")
        plain_loss, plain_gradients = loss_and_gradients(decoder, batch, seed)
    torch.testing.assert_close(loss, plain_loss, rtol=1e-9, atol=1e-12)
    assert len(gradients) == len(plain_gradients)
    for ours, plain in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


@needs_compiler
@pytest.mark.parametrize("scores", ["additive", "scaled_dot"])
@pytest.mark.parametrize("attention", ["soft", "hard"])
def test_float32_agrees_to_its_precision(attention: str, scores: str) -> None:
    decoder = toys.decoder(attention=attention, scores=scores, gate="scalar").train()
    batch = make_batch(6, 2, 19, 5, torch.float32)
    loss, gradients = loss_and_gradients(decoder, batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGARD_KERNELS", "plain")
        plain_loss, plain_gradients = loss_and_gradients(decoder, batch)
    torch.testing.assert_close(loss, plain_loss, rtol=1e-5, atol=1e-5)
    for ours, plain in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


@needs_compiler
def test_two_hundred_steps_lose_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout, clipping and Adam included: small differences do not grow."""
    sizes = Sizes(
        annotation_dim=32, embedding_dim=32, hidden_dim=32, attention_dim=32, cells=9, vocabulary=90
    )
    work = TrainWork(sizes=sizes, batch=16)
    batches = [make_workload(16, 1, sizes, seed=seed) for seed in range(10)]

    def losses() -> list[float]:
        step = make_step("regard", work)
        return [step(batches[i % len(batches)]) for i in range(200)]

    fast = losses()
    monkeypatch.setenv("REGARD_KERNELS", "plain")
    plain = losses()
    assert fast[-1] < 0.97 * fast[0]  # random words: little can be learned
    assert fast == pytest.approx(plain, rel=1e-5)


@needs_compiler
@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0, 300.0])
def test_scores_of_any_size_are_right(size: float) -> None:
    """exp(-2 k) leaves float32 from 44 on; scores must stay those of tanh."""
    generator = torch.Generator().manual_seed(0)
    decoder = toys.decoder(gate="none").eval()
    vectors = size * torch.randn(2, 5, 6, generator=generator)
    mask = torch.ones(2, 5, dtype=torch.bool)
    tokens = torch.tensor([[1, 5, 6], [1, 4, 7]])
    fast = decoder(tokens, decoder.project(vectors, mask))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGARD_KERNELS", "plain")
        plain = decoder(tokens, decoder.project(vectors, mask))
    torch.testing.assert_close(fast.alpha, plain.alpha, rtol=1e-4, atol=1e-5)


@needs_compiler
@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 110),
    st.integers(1, 40),
    st.sampled_from([1, 7, 16, 33]),
    st.sampled_from([torch.float32, torch.float64]),
    st.booleans(),
)
def test_packed_products_are_products(
    rows: int, inner: int, outer: int, dtype: torch.dtype, transposed: bool
) -> None:
    generator = torch.Generator().manual_seed(rows)
    shape = (outer, inner) if transposed else (inner, outer)
    weight = torch.randn(shape, generator=generator, dtype=dtype)
    weight = weight.t() if transposed else weight
    x = torch.randn(rows, inner + 3, generator=generator, dtype=dtype)[:, 1:-2]
    loops = library(dtype)
    assert loops is not None
    product = PackedProduct(weight, loops)
    expected = x.double() @ weight.double()
    torch.testing.assert_close(product(x).double(), expected, rtol=1e-4, atol=1e-4)
    padded = torch.ones(rows, outer + 5, dtype=dtype)
    product.add_to(padded[:, 2:-3], x)
    torch.testing.assert_close(padded[:, 2:-3].double(), expected + 1, rtol=1e-4, atol=1e-4)
    assert (padded[:, :2] == 1).all()
    assert (padded[:, -3:] == 1).all()


@needs_compiler
def test_long_products_are_taken_in_parts() -> None:
    loops = library(torch.float32)
    assert loops is not None
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(1100, 35, generator=generator), torch.randn(7, 1100)
    torch.testing.assert_close(PackedProduct(weight, loops)(x), x @ weight, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("words", [35, 2048, 4100])  # packed in one part, exactly one, three
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_word_losses_are_cross_entropies(words: int, smoothing: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = (9, 6), (words, 6), (words,)
    tensors = [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]
    target = torch.randint(0, words, (9,), generator=generator)
    weights = torch.rand(9, generator=generator).to(dtype)
    losses = word_losses(*tensors, target, smoothing)
    ours = torch.autograd.grad((losses * weights).sum(), tensors)
    logits = tensors[0] @ tensors[1].t() + tensors[2]
    plain = torch.nn.functional.cross_entropy(
        logits, target, reduction="none", label_smoothing=smoothing
    )
    expected = torch.autograd.grad((plain * weights).sum(), tensors)
    torch.testing.assert_close(losses, plain, rtol=1e-5, atol=1e-5)
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_loss_that_is_no_number_stays_none() -> None:
    features = torch.tensor([[math.nan, 1.0]], requires_grad=True)
    losses = word_losses(features, torch.ones(20, 2), torch.zeros(20), torch.tensor([3]))
    assert losses.isnan().all()


@needs_compiler
def test_tensors_that_the_loops_would_misread_are_refused() -> None:
    loops = library(torch.float32)
    assert loops is not None
    numbers = torch.ones(4, 6)
    out = torch.empty(4, 6)
    with pytest.raises(TypeError, match="exponentials: x is float64; expected float32"):
        loops.exponentials(numbers.double(), out)
    with pytest.raises(TypeError, match="exponentials: x is not contiguous"):
        loops.exponentials(numbers.t(), out)
    with pytest.raises(TypeError, match="missing or unknown arguments: coded, count, n"):
        loops.call("exponentials", count=24, x=numbers, out=out)


@needs_compiler
def test_a_second_backward_pass_is_refused() -> None:
    decoder = toys.decoder().train()
    batch = make_batch(2, 1, 5, 0, torch.float32)
    unrolled = decoder(batch.tokens, decoder.project(batch.vectors, batch.mask))
    total = unrolled.losses(batch.targets).sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="made already"):
        total.backward()


def test_packing_leaves_out_padding_and_puts_everything_back() -> None:
    steps = torch.tensor([[1, 0, 0], [1, 1, 1], [1, 1, 0]], dtype=torch.bool)
    rows = pack_captions(steps)
    assert rows.order.tolist() == [1, 2, 0]
    assert rows.counts == (3, 2, 1)
    numbers = torch.arange(9).view(3, 3)
    assert rows.pack(numbers).tolist() == [3, 6, 0, 4, 7, 5]
    assert rows.unpack(rows.pack(numbers)).tolist() == [[0, 0, 0], [3, 4, 5], [6, 7, 0]]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("attention", ["soft", "hard"])
def test_steps_that_are_not_real_change_nothing(
    attention: str, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the others yield and draw is the same, and the rest is 0."""
    if plain:
        monkeypatch.setenv("REGARD_KERNELS", "plain")
    decoder = toys.decoder(attention=attention, dropout=0.5).train()
    batch = make_batch(3, 2, 7, 1, torch.float32)
    projected = decoder.project(batch.vectors, batch.mask)
    context = "sample" if attention == "hard" else "expected"
    whole, real = (
        decoder(
            batch.tokens,
            projected,
            steps=steps,
            context=context,
            generator=torch.Generator().manual_seed(1),
        )
        for steps in (None, batch.steps)
    )
    mask = batch.steps[..., None]
    torch.testing.assert_close(real.logits, whole.logits * mask)
    torch.testing.assert_close(real.alpha, whole.alpha * mask)
    losses = whole.losses(batch.targets) * batch.steps
    torch.testing.assert_close(real.losses(batch.targets), losses)


def test_half_a_library_in_the_cache_is_compiled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = tmp_path / "compiled"
    compiled.write_bytes(b"a whole library")
    compiler = tmp_path / "compiler"
    compiler.write_text(
        '#!/bin/sh\nif [ "$1" = --version ]; then echo 1; exit; fi\n'
        f'while [ "$1" != -o ]; do shift; done\ncp "{compiled}" "$2"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = cpp_library._built("float32")
    for content in (b"a who", b"", None):
        made.unlink() if content is None else made.write_bytes(content)
        assert cpp_library._built("float32") == made
        assert made.read_bytes() == b"a whole library"
    compiled.write_bytes(b"not copied again")
    assert cpp_library._built("float32").read_bytes() == b"a whole library"
