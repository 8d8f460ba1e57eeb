"""Laws of attention and of the decoder's step."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.errors import ConfigError, UnknownName
from regard.model.position import PositionCode
from regard.types import ProjectedAnnotations
from tests.helpers import toys

KINDS = [(a, s) for a in ("soft", "hard") for s in ("additive", "dot", "scaled_dot")]


def annotations(items: int = 2, cells: int = 5, seed: int = 1) -> torch.Tensor:
    return torch.randn(items, cells, 6, generator=torch.Generator().manual_seed(seed))


def everywhere(vectors: torch.Tensor) -> torch.Tensor:
    return torch.ones(vectors.shape[:2], dtype=torch.bool)


@pytest.mark.parametrize(("attention", "scores"), KINDS)
def test_forward_is_a_loop_over_step(attention: str, scores: str) -> None:
    decoder = toys.decoder(attention=attention, scores=scores, gate="feature")
    vectors = annotations()
    projected = decoder.project(vectors, everywhere(vectors))
    tokens = torch.randint(0, 12, (6, 4), generator=torch.Generator().manual_seed(0))
    unrolled = decoder(tokens, projected)
    state = decoder.init_state(projected, 3)
    for t in range(4):
        step = decoder.step(tokens[:, t], state, projected)
        torch.testing.assert_close(step.logits, unrolled.logits[:, t])
        torch.testing.assert_close(step.alpha, unrolled.alpha[:, t])
        torch.testing.assert_close(step.beta, unrolled.beta[:, t])
        state = step.state


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**16), st.sampled_from(KINDS))
def test_alpha_sums_to_one_on_valid_cells_and_padding_changes_nothing(
    padding: int, seed: int, kind: tuple[str, str]
) -> None:
    decoder = toys.decoder(attention=kind[0], scores=kind[1])
    vectors = annotations(seed=seed)
    rubbish = 100 * torch.randn(2, padding, 6, generator=torch.Generator().manual_seed(seed))
    padded = torch.cat([vectors, rubbish], 1)
    mask = torch.cat([everywhere(vectors), torch.zeros(2, padding, dtype=torch.bool)], 1)
    tokens = torch.tensor([[1, 5, 6], [1, 4, 7]])
    plain = decoder(tokens, decoder.project(vectors, everywhere(vectors)))
    with_padding = decoder(tokens, decoder.project(padded, mask))
    assert (with_padding.alpha[:, :, 5:] == 0).all()
    torch.testing.assert_close(with_padding.alpha.sum(-1), torch.ones(2, 3))
    torch.testing.assert_close(with_padding.logits, plain.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("attention", "scores"), KINDS)
def test_attention_depends_on_the_state(attention: str, scores: str) -> None:
    """Without a nonlinearity between query and keys the query would cancel in the softmax."""
    decoder = toys.decoder(attention=attention, scores=scores)
    vectors = annotations(1)
    projected = decoder.project(vectors, everywhere(vectors))
    one = decoder.attention(torch.ones(1, 10), projected).alpha
    other = decoder.attention(-torch.ones(1, 10), projected).alpha
    assert (one - other).abs().max() > 1e-2


def test_captions_of_an_item_share_its_projection_without_copies() -> None:
    decoder = toys.decoder()
    vectors = annotations()
    projected = decoder.project(vectors, everywhere(vectors))
    copied = projected.select(torch.tensor([0, 0, 0, 1, 1, 1]))
    tokens = torch.arange(6)[:, None] + 3
    torch.testing.assert_close(decoder(tokens, projected).logits, decoder(tokens, copied).logits)


def test_first_state_is_a_tanh_layer_of_the_mean_over_valid_cells() -> None:
    decoder = toys.decoder()
    vectors = annotations(1)
    mask = torch.tensor([[True, True, False, True, False]])
    state = decoder.init_state(decoder.project(vectors, mask))
    layer = decoder.init_hidden[0]
    mean = vectors[0, [0, 1, 3]].mean(0)
    torch.testing.assert_close(state.hidden[0], torch.tanh(layer.weight @ mean + layer.bias))


def test_context_enters_only_through_the_gate() -> None:
    decoder = toys.decoder(gate="scalar")
    with torch.no_grad():
        decoder.gate.linear.weight.zero_()
        decoder.gate.linear.bias.fill_(-1e4)
    vectors = annotations()
    projected = decoder.project(vectors, everywhere(vectors))
    shuffled = ProjectedAnnotations(projected.values.flip(1) * 3, projected.keys, projected.mask)
    state = decoder.init_state(projected)
    token = torch.tensor([4, 5])
    one, other = (decoder.step(token, state, p) for p in (projected, shuffled))
    torch.testing.assert_close(one.logits, other.logits)
    assert (one.beta == 0).all()


@pytest.mark.parametrize("gate", ["scalar", "feature", "none"])
def test_gate_shapes(gate: str) -> None:
    decoder = toys.decoder(gate=gate)
    vectors = annotations()
    projected = decoder.project(vectors, everywhere(vectors))
    beta = decoder.step(torch.tensor([4, 5]), decoder.init_state(projected), projected).beta
    shape = {"scalar": (2, 1), "feature": (2, 6)}.get(gate)
    assert (None if beta is None else tuple(beta.shape)) == shape


def test_hard_attention_looks_at_the_cell_it_names() -> None:
    decoder = toys.decoder(attention="hard")
    vectors = annotations()
    projected = decoder.project(vectors, everywhere(vectors))
    hidden = torch.randn(4, 10, generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(0)
    for context in ("sample", "argmax"):
        found = decoder.attention(hidden, projected, context=context, generator=generator)
        rows = torch.arange(4)
        torch.testing.assert_close(found.context, projected.values[rows // 2, found.location])
        expected = found.alpha[rows, found.location].log()
        torch.testing.assert_close(found.location_logprob, expected)
    assert (found.location == found.alpha.argmax(-1)).all()
    expected = decoder.attention(hidden, projected)
    assert expected.location is None
    with pytest.raises(UnknownName, match="context"):
        decoder.attention(hidden, projected, context="expcted")


def test_sampled_locations_follow_alpha() -> None:
    """5,000 draws; a deviation above 0.03 has a chance far below one in a million."""
    decoder = toys.decoder(attention="hard")
    vectors = annotations(1)
    projected = decoder.project(vectors, everywhere(vectors))
    hidden = torch.ones(5000, 10)
    found = decoder.attention(
        hidden, projected, context="sample", generator=torch.Generator().manual_seed(0)
    )
    shares = np.bincount(found.location.numpy(), minlength=5) / 5000
    assert np.abs(shares - found.alpha[0].detach().numpy()).max() < 0.03


def test_uniform_scores_weigh_every_valid_cell_alike() -> None:
    decoder = toys.decoder(scores="uniform")
    vectors, mask = annotations(), torch.tensor([[True] * 5, [True, True, False, False, False]])
    projected = decoder.project(vectors, mask)
    alpha = decoder(torch.tensor([[1, 5], [1, 4]]), projected).alpha
    torch.testing.assert_close(alpha, (mask / mask.sum(1, keepdim=True))[:, None].expand(2, 2, 5))


def test_hand_computed_scores() -> None:
    """Two cells, one feature each, every weight 1: worked out by hand."""
    decoder = toys.decoder(annotation_dim=1, attention_dim=1, hidden_dim=1, scores="additive")
    scores = decoder.attention.scores
    with torch.no_grad():
        for parameter in scores.parameters():
            parameter.fill_(1.0)
        scores.key.bias.zero_()
    keys = scores.keys(torch.tensor([[[0.5], [-0.25]]]))
    e = scores(torch.tensor([[[0.75]]]), keys)
    torch.testing.assert_close(e, torch.tensor([[[0.848283639957513, 0.46211715726000973]]]))
    for name, wanted in (("dot", [6.0, -2.0]), ("scaled_dot", [4.242640687119285, -1.414213562])):
        dot = toys.decoder(annotation_dim=2, attention_dim=2, hidden_dim=2, scores=name)
        scores = dot.attention.scores
        with torch.no_grad():
            scores.key.weight.copy_(torch.eye(2))
            scores.query.weight.copy_(torch.eye(2))
            scores.query.bias.zero_()
        keys = scores.keys(torch.tensor([[[3.0, 0.0], [0.0, -2.0]]]))
        e = scores(torch.tensor([[[2.0, 1.0]]]), keys)
        torch.testing.assert_close(e, torch.tensor([[wanted]]))


def test_temperature_divides() -> None:
    hot, cold = toys.decoder(temperature=10.0), toys.decoder(temperature=0.1)
    vectors = annotations(1)
    hidden = torch.ones(1, 10)
    peaks = [
        float(d.attention(hidden, d.project(vectors, everywhere(vectors))).alpha.max())
        for d in (hot, cold)
    ]
    assert peaks[0] < peaks[1]


@pytest.mark.parametrize("kind", ["learned", "sinusoidal"])
def test_position_codes_tell_cells_apart(kind: str) -> None:
    code = PositionCode(kind, (2, 3), 12)
    coded = code(torch.zeros(1, 6, 12))[0]
    distances = torch.cdist(coded, coded) + torch.eye(6)
    assert (distances > 1e-4).all()
    with pytest.raises(ConfigError, match="grid"):
        code(torch.zeros(1, 7, 12))
    with pytest.raises(ConfigError, match="grid_shape"):
        PositionCode(kind, (), 12)


def test_dropout_draws_from_the_passed_generator_only() -> None:
    decoder = toys.decoder(dropout=0.5, embedding_dropout=0.5).train()
    vectors = annotations()
    projected = decoder.project(vectors, everywhere(vectors))
    tokens = torch.tensor([[1, 5], [1, 6]])
    before = torch.random.get_rng_state()
    one, again, other = (
        decoder(tokens, projected, generator=torch.Generator().manual_seed(s)).logits
        for s in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())
