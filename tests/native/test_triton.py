"""Triton's kernels, run by its interpreter, against float64 and against the plain decoder."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from regard.model.decoder import AttentionDecoder, TeacherForcingOutput
from regard.native import dispatch
from regard.training.objectives.base import doubly_stochastic
from tests.helpers.toys import decoder

pytest.importorskip("triton", reason="Triton has wheels for Linux on x86-64")

from regard.native import triton_kernels

sizes = st.tuples(
    st.integers(1, 3),  # items
    st.sampled_from([1, 2, 3, 5]),  # captions of each
    st.sampled_from([1, 7, 32, 49, 65]),  # cells; a block has 32
    st.sampled_from([1, 6, 64, 70]),  # attention size; a block has 64
    st.sampled_from([1, 9, 64, 130]),  # features
)
types = st.sampled_from([torch.float32, torch.bfloat16])
few = settings(max_examples=8, deadline=None)


@dataclass
class Given:
    """What a kernel reads, and the same numbers in float64."""

    low: list[Tensor]
    exact: list[Tensor]


def draw(seed: int, dtype: torch.dtype, *shapes: tuple[int, ...]) -> Given:
    source = torch.Generator().manual_seed(seed)
    low = [torch.randn(shape, generator=source).to(dtype).requires_grad_() for shape in shapes]
    return Given(low, [t.detach().double().requires_grad_() for t in low])


def masks(items: int, cells: int) -> Tensor:
    """Random cells, the first of each item always among them."""
    mask = torch.rand(items, cells, generator=torch.Generator().manual_seed(7)) < 0.6
    mask[:, 0] = True
    return mask


def check(found: Tensor, wanted: Tensor) -> None:
    """Equal to the precision of the type that the number is stored in."""
    step = torch.finfo(found.dtype).eps
    loose = max(step, 4e-7)  # sums of some hundred numbers in float32
    scale = max(1.0, float(wanted.detach().abs().max()))
    torch.testing.assert_close(found.double(), wanted, rtol=2 * loose, atol=8 * loose * scale)


@few
@given(sizes, types)
def test_additive_scores(size: tuple[int, int, int, int, int], dtype: torch.dtype) -> None:
    n, g, cells, a, _ = size
    of = draw(sum(size), dtype, (n, cells, a), (n, g, a), (a,))
    found = triton_kernels.additive_scores(*of.low)
    keys, query, v = of.exact
    wanted = torch.tanh(keys[:, None] + query[:, :, None]) @ v
    assert found.dtype == torch.float32
    check(found, wanted)
    weights = torch.randn(n, g, cells, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((found * weights).sum(), of.low)
    assert [t.dtype for t in gradients] == [dtype] * 3
    expected = torch.autograd.grad((wanted * weights.double()).sum(), of.exact)
    for one, other in zip(gradients, expected, strict=True):
        check(one, other)


@few
@given(sizes, types, st.sampled_from([1.0, 0.5, 16.0]))
def test_softmax_and_context(
    size: tuple[int, int, int, int, int], dtype: torch.dtype, temperature: float
) -> None:
    n, g, cells, _, d = size
    scores, values = draw(1, torch.float32, (n, g, cells)), draw(2, dtype, (n, cells, d))
    mask = masks(n, cells)
    alpha, context = triton_kernels.attend(scores.low[0], values.low[0], mask, temperature)
    exact = scores.exact[0].div(temperature).masked_fill(~mask[:, None], -torch.inf).softmax(-1)
    wanted = exact @ values.exact[0]
    assert (alpha.dtype, context.dtype) == (torch.float32, dtype)
    assert (alpha[~mask[:, None].expand_as(alpha)] == 0).all()
    check(alpha, exact)
    check(context, wanted)
    # The penalty on alpha sends a gradient of its own.
    of_alpha, of_context = torch.rand(n, g, cells), torch.rand(n, g, d).to(dtype)
    gradients = torch.autograd.grad(
        (alpha, context), (scores.low[0], values.low[0]), (of_alpha, of_context)
    )
    expected = torch.autograd.grad(
        (exact, wanted),
        (scores.exact[0], values.exact[0]),
        (of_alpha.double(), of_context.double()),
    )
    for one, other in zip(gradients, expected, strict=True):
        check(one, other)


@pytest.mark.filterwarnings("ignore:overflow")  # of numpy, which interprets exp
def test_large_scores_do_not_overflow() -> None:
    scores = torch.tensor([[[300.0, 299.0, -400.0, 500.0]]])
    mask = torch.tensor([[True, True, True, False]])
    alpha, _ = triton_kernels.attend(scores, torch.ones(1, 4, 2), mask, 1.0)
    torch.testing.assert_close(alpha[0, 0], torch.tensor([0.7310586, 0.2689414, 0.0, 0.0]))
    huge = triton_kernels.additive_scores(
        torch.full((1, 1, 1), -1e4), torch.zeros(1, 1, 1), torch.ones(1)
    )
    assert huge.item() == -1


def unroll(
    model: AttentionDecoder, captions: int, context: str
) -> tuple[TeacherForcingOutput, list[Tensor]]:
    """Train a step on 3 items of 5 cells; return what it said and the gradients."""
    source = torch.Generator().manual_seed(5)
    vectors = torch.randn(3, 5, 6, generator=source).requires_grad_()
    tokens = torch.randint(0, 12, (3 * captions, 4), generator=source)
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, 3:] = False
    said = model(tokens, model.project(vectors, mask), context=context, generator=source)
    loss = said.logits.logsumexp(-1).sum() + doubly_stochastic(
        said.alpha, torch.ones(tokens.shape, dtype=torch.bool), mask.repeat_interleave(captions, 0)
    )
    if said.location_logprob is not None:
        loss = loss + said.location_logprob.sum()
    weights = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, [vectors, *weights], allow_unused=True)
    return said, [t for t in found if t is not None]


@pytest.mark.parametrize(
    ("scores", "attention", "context", "captions"),
    [
        ("additive", "soft", "expected", 1),
        ("additive", "soft", "expected", 3),
        ("additive", "hard", "expected", 1),
        ("additive", "hard", "sample", 3),
        ("dot", "soft", "expected", 3),
        ("scaled_dot", "hard", "sample", 1),
        ("uniform", "soft", "expected", 1),
    ],
)
def test_the_decoder_says_and_learns_the_same(
    scores: str, attention: str, context: str, captions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = decoder(scores=scores, attention=attention, temperature=1.5, annotation_norm=True)
    monkeypatch.setattr("regard.model.decoder.unroll_compiled", lambda *_, **__: None)  # of the CPU
    plain, wanted = unroll(model, captions, context)
    asked: list[bool] = []
    monkeypatch.setattr(dispatch, "triton_obstacle", lambda _: asked.append(True) or "")
    said, found = unroll(model, captions, context)
    assert bool(asked) == (scores == "additive" or attention == "soft")
    assert (said.alpha.view(3, captions, 4, 5)[1, ..., 3:] == 0).all()
    torch.testing.assert_close(said.alpha, plain.alpha, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(said.logits, plain.logits, rtol=1e-5, atol=1e-5)
    if context == "sample":
        assert said.location is not None
        assert plain.location is not None
        assert torch.equal(said.location, plain.location)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


class _Sizes(TorchDispatchMode):
    """Notes the bytes of the largest tensor that operators make."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel() * tensor.element_size())
        return made


def test_nothing_of_captions_times_cells_times_features_is_written() -> None:
    of = draw(3, torch.float32, (2, 40, 24), (2, 3, 24), (24,), (2, 40, 16))
    with _Sizes() as sizes_of:
        scores = triton_kernels.additive_scores(*of.low[:3])
        alpha, context = triton_kernels.attend(scores, of.low[3], masks(2, 40), 1.0)
        torch.autograd.grad(alpha.square().sum() + context.square().sum(), of.low)
    assert sizes_of.largest == 2 * 40 * 24 * 4, "the largest is the keys' gradient"


def test_what_is_on_the_cpu_never_comes_here() -> None:
    assert dispatch.SOFT_ATTENTION.choose(dispatch.case_of(torch.ones(1))) == "torch"
    code = """
import sys, torch
from tests.helpers.toys import decoder
model = decoder()
projected = model.project(torch.randn(1, 4, 6), torch.ones(1, 4, dtype=torch.bool))
model(torch.zeros(1, 2, dtype=torch.long), projected).logits.sum().backward()
assert "regard.native.triton_kernels" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_float64_on_a_gpu_stays_with_the_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "triton_works", lambda _: True)
    monkeypatch.setattr(dispatch, "triton_pays", lambda _: True)
    with FakeTensorMode():  # tensors that say they are on a GPU, and hold nothing
        single, half, double = (
            torch.empty(2, dtype=dtype, device="cuda")
            for dtype in (torch.float32, torch.bfloat16, torch.float64)
        )
        for tensors, chosen in (
            ((single, half), "Triton"),
            ((single, double), "torch"),
            ((single, torch.empty(2)), "torch"),
        ):
            assert dispatch.SOFT_ATTENTION.choose(dispatch.case_of(*tensors)) == chosen


def test_where_the_kernels_fail_the_plain_path_runs_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    def fail(*_: object) -> Tensor:
        raise RuntimeError("Failed to find C compiler")

    dispatch.triton_works.cache_clear()
    monkeypatch.setattr("regard.native.triton_kernels.additive_scores", fail)
    device = torch.device("cpu")
    assert [dispatch.triton_works(device), dispatch.triton_works(device)] == [False, False]
    assert [str(w.message) for w in recwarn] == [
        "the attention of cpu runs without Triton's kernels, slower and in more memory: "
        "RuntimeError: Failed to find C compiler"
    ]
    dispatch.triton_works.cache_clear()
    monkeypatch.undo()
    assert dispatch.triton_works(device)
    dispatch.triton_works.cache_clear()


@pytest.mark.parametrize("slower", ["Triton", "torch"])
def test_the_kernels_run_only_where_they_are_faster(
    slower: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter is slow, so a call takes the seconds that the test says."""
    used: list[str] = []

    def scores(keys: Tensor, query: Tensor, v: Tensor) -> Tensor:
        used.append("Triton")
        return query.sum(-1, keepdim=True).expand(-1, -1, keys.shape[1])

    def seconds(run: Callable[[], Tensor]) -> float:
        used.clear()
        run().sum().backward()
        return 2.0 if (used == ["Triton"]) == (slower == "Triton") else 1.0

    monkeypatch.setattr("regard.native.triton_kernels.additive_scores", scores)
    monkeypatch.setattr(
        "regard.native.triton_kernels.attend", lambda s, v, *_: (s, torch.softmax(s, -1) @ v)
    )
    with monkeypatch.context() as patch:  # a device of other tests in this process cannot wait
        patch.setattr(torch.accelerator, "synchronize", lambda *_: None)
        assert dispatch._seconds(lambda: torch.ones(1, requires_grad=True)) > 0
    monkeypatch.setattr(dispatch, "_seconds", seconds)
    dispatch.triton_pays.cache_clear()
    assert dispatch.triton_pays(torch.device("cpu")) == (slower == "torch")
    dispatch.triton_pays.cache_clear()
    monkeypatch.setattr(dispatch, "triton_works", lambda _: True)
    monkeypatch.setattr(dispatch, "triton_pays", lambda _: slower == "torch")
    found = dispatch.triton_obstacle(dispatch.Case(torch.device("cuda")))
    assert found == ("" if slower == "torch" else "torch was faster when both were timed here")


_COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from regard.native import triton_kernels

FLOAT = {"v", "scores", "alpha", "grad_scores", "grad_v", "grad_total", "grad_alpha"}
BLOCKS = {"captions_block": 8, "cells_block": 32, "features_block": 64, "softmax_block": 256}

def kind(name, low, fixed):
    if name in fixed:
        return "constexpr"
    if name.startswith("n_"):
        return "i32"
    if name == "temperature":
        return "fp32"
    return "*i1" if name == "mask" else "*fp32" if name in FLOAT else "*" + low

forward = triton_kernels.scores_forward, triton_kernels.attend_forward
backward = triton_kernels.scores_backward, triton_kernels.attend_backward
# Triton makes a constant of a size that is 1, such as the captions of greedy decoding.
for kernels, low, one in ((forward + backward, "bf16", {}), (forward, "fp32", {"n_captions": 1})):
    for kernel in kernels:
        names = kernel.arg_names
        fixed = {n: x for n, x in (BLOCKS | one | {"with_values": True}).items() if n in names}
        signature = {name: kind(name, low, fixed) for name in names}
        target = GPUTarget("cuda", 90, 32)
        made = triton.compile(ASTSource(kernel, signature, fixed), target=target)
        assert len(made.asm["cubin"]) > 1000
        print(kernel.__name__)
"""


def test_the_kernels_compile_to_machine_code_of_an_h100(tmp_path: Path) -> None:
    """Triton needs no GPU for that; what the code does there no test here can say."""
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 6
