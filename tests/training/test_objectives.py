"""Losses against hand-computed values, gradients against enumeration."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from regard.config import ObjectiveConfig
from regard.data import CaptionDataset, CaptionedItem
from regard.model.decoder import TeacherForcingOutput
from regard.model.rng import spawn
from regard.model.unroll import pack_captions
from regard.text.vocabulary import END, PAD, START, UNKNOWN
from regard.training.objectives import caption_reward
from regard.training.objectives.base import (
    Batch,
    attention_entropy,
    caption_logprob,
    doubly_stochastic,
)
from regard.training.objectives.cross_entropy import CrossEntropy
from regard.training.objectives.reinforce import HardAttentionObjective
from regard.training.objectives.self_critical import (
    SelfCritical,
    policy_loss,
    sample_captions,
    sampled_logprob,
)
from tests.helpers import toys


def batch(tokens: torch.Tensor, targets: torch.Tensor, items: int, cells: int) -> Batch:
    vectors = torch.randn(items, cells, 6, generator=torch.Generator().manual_seed(4))
    mask = torch.ones(items, cells, dtype=torch.bool)
    return Batch(vectors, mask, tokens, targets, targets != 0, tuple(range(items)))


def test_doubly_stochastic_penalty_by_hand() -> None:
    """Summed over valid cells, averaged over captions, padding steps left out."""
    alpha = torch.tensor([[[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]], [[0.2, 0.3, 0.5], [9.0, 9.0, 9.0]]])
    steps = torch.tensor([[True, True], [True, False]])
    cells = torch.tensor([[True, True, False], [True, True, True]])
    # first: (1 - .75)^2 + (1 - 1.25)^2 = .125; second: .64 + .49 + .25 = 1.38
    assert float(doubly_stochastic(alpha, steps, cells)) == pytest.approx((0.125 + 1.38) / 2)


def test_entropy_by_hand() -> None:
    alpha = torch.tensor([[[0.5, 0.5], [1.0, 0.0], [0.9, 0.1]]])
    steps = torch.tensor([[True, True, False]])
    assert float(attention_entropy(alpha, steps)) == pytest.approx(math.log(2))


def test_entropy_has_a_slope_where_alpha_is_zero() -> None:
    """Masked cells and scores far below the largest: alpha is 0 exactly, the gradient finite."""
    scores = torch.tensor([[[3.0, 2.0, -200.0, -torch.inf]]], requires_grad=True)
    attention_entropy(scores.softmax(-1), torch.ones(1, 1, dtype=torch.bool)).sum().backward()
    # dH/de_i = -alpha_i (log alpha_i + H), by hand.
    alpha = torch.tensor([3.0, 2.0]).softmax(-1)
    entropy = -(alpha * alpha.log()).sum()
    wanted = [*(-alpha * (alpha.log() + entropy)).tolist(), 0.0, 0.0]
    assert scores.grad is not None
    assert scores.grad.flatten().tolist() == pytest.approx(wanted, abs=1e-6)


def test_caption_logprob_sums_over_real_words() -> None:
    logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [1.0, 1.0, 1.0]]]))
    targets = torch.tensor([[0, 2, 1]])
    steps = torch.tensor([[True, True, False]])
    # A decoder whose logits are these: features are the logits, and the vocabulary's layer adds 0.
    output = torch.nn.Linear(3, 3)
    with torch.no_grad():
        output.weight.copy_(torch.eye(3))
        output.bias.zero_()
    rows = pack_captions(steps)
    alpha = torch.zeros(1, 3, 1)
    unrolled = TeacherForcingOutput(rows.pack(logits), output, rows, alpha, None, None, None)
    batch = Batch(alpha, steps, targets, targets, steps, (0,))
    value = caption_logprob(unrolled, batch)
    assert float(value) == pytest.approx(math.log(0.5) + math.log(0.8))


def test_what_teachers_say_is_learned_by_its_share() -> None:
    """The gradient of every logit is p - q, with q mixed by hand of word and teacher."""
    logits = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    targets, steps = torch.tensor([[2, 0]]), torch.tensor([[True, True]])
    output = torch.nn.Linear(3, 3)
    with torch.no_grad():
        output.weight.copy_(torch.eye(3))
        output.bias.zero_()
    rows = pack_captions(steps)
    unrolled = TeacherForcingOutput(
        rows.pack(logits), output, rows, torch.zeros(1, 2, 1), None, None, None
    )
    taught = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
    made = Batch(
        torch.zeros(1, 1, 1), steps, targets, targets, steps, (0,), rows.pack(taught[None])
    )
    config = ObjectiveConfig(teachers=("any",), teacher_weight=0.25)
    (-caption_logprob(unrolled, made, config)).sum().backward()
    wanted = 0.75 * torch.eye(3)[targets] + 0.25 * taught[None]
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, logits.detach().softmax(-1) - wanted)


def test_cross_entropy_weighs_the_penalty_with_lambda() -> None:
    decoder = toys.decoder()
    tokens, targets = torch.tensor([[1, 4, 5], [1, 6, 0]]), torch.tensor([[4, 5, 2], [6, 2, 0]])
    made = batch(tokens, targets, 2, 5)
    projected = decoder.project(made.vectors, made.mask)
    losses = [
        CrossEntropy(ObjectiveConfig(lambda_ds=weight)).loss(
            decoder, projected, made, torch.Generator()
        )
        for weight in (0.0, 2.0)
    ]
    penalty = float(losses[1].parts["doubly_stochastic"])
    assert float(losses[1].total - losses[0].total) == pytest.approx(2 * penalty, rel=1e-5)


def test_reinforce_gradient_equals_enumeration() -> None:
    """E over all paths of the sampled gradient is the gradient of the expected bound.

    Two steps over three cells: nine paths, each weighed by its probability.
    """
    decoder = toys.decoder(attention="hard", gate="none")
    tokens, targets = torch.tensor([[1, 4]]), torch.tensor([[4, 2]])
    made = batch(tokens, targets, 1, 3)
    weight = decoder.attention.scores.query.weight

    def run(path: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log p(y|s,a) and log p(s|a) of one path."""
        projected = decoder.project(made.vectors, made.mask)
        state, total, chosen = decoder.init_state(projected), [], []
        for t, cell in enumerate(path):
            log_alpha = decoder.attention.log_alpha(state.hidden, projected).flatten(0, 1)
            fixed = decoder.attention.forward
            attended = fixed(state.hidden, projected)._replace(context=projected.values[:, cell])
            decoder.attention.forward = lambda *a, found=attended, **k: found  # type: ignore[method-assign]
            step = decoder.step(tokens[:, t], state, projected)
            del decoder.attention.forward
            total.append(torch.log_softmax(step.logits, -1)[0, targets[0, t]])
            chosen.append(log_alpha[0, cell])
            state = step.state
        return torch.stack(total).sum()[None], torch.stack(chosen).sum()[None]

    objective = HardAttentionObjective(ObjectiveConfig(kind="hard_attention"))
    objective.update(torch.tensor([-3.0, 1.0]))
    bound = torch.zeros(())
    surrogate = torch.zeros_like(weight)
    for path in itertools.product(range(3), repeat=2):
        logprob, log_path = run(path)
        bound = bound + (log_path.exp() * logprob).sum()
        loss = -logprob.mean() + objective.reinforce(logprob, log_path, torch.tensor([True]))
        (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
        surrogate += float(log_path.exp().detach()) * gradient
    (exact,) = torch.autograd.grad(-bound, weight)
    torch.testing.assert_close(surrogate, exact, rtol=1e-3, atol=1e-5)


def test_baseline_moves_by_a_tenth() -> None:
    objective = HardAttentionObjective(ObjectiveConfig(kind="hard_attention"))
    assert objective.needs_first_pass
    objective.update(torch.tensor([-30.0, 2.0]))
    assert not objective.needs_first_pass
    assert float(objective.baseline) == pytest.approx(-15.0)
    objective.update(torch.tensor([-5.0, 1.0]))
    assert float(objective.baseline) == pytest.approx(0.9 * -15 + 0.1 * -5)
    objective.update(torch.tensor([0.0, 0.0]))
    assert float(objective.baseline) == pytest.approx(-14.0)


@pytest.mark.parametrize(("reward", "words"), [("sum", 1), ("mean", 2)])
def test_the_reward_is_the_caption_s_logprob_or_its_mean_over_words(
    reward: str, words: int
) -> None:
    """One caption of two steps: the first baseline is its reward."""
    decoder = toys.decoder(attention="hard")
    made = batch(torch.tensor([[1, 4]]), torch.tensor([[4, 2]]), 1, 3)
    config = ObjectiveConfig(kind="hard_attention", reward=reward, expectation_probability=0.0)
    objective = HardAttentionObjective(config)
    projected = decoder.project(made.vectors, made.mask)
    loss = objective.loss(decoder, projected, made, torch.Generator().manual_seed(1))
    assert loss.statistics is not None
    objective.update(loss.statistics)
    nll = float(loss.parts["nll_per_word"])
    assert float(objective.baseline) == pytest.approx(-nll * 2 / words)


def test_with_smoothed_labels_the_reward_is_the_log_likelihood_that_is_trained() -> None:
    """The deviation that the objective states: it is not that of the caption's own words."""
    decoder = toys.decoder(attention="hard")
    made = batch(torch.tensor([[1, 4]]), torch.tensor([[4, 2]]), 1, 3)
    projected = decoder.project(made.vectors, made.mask)
    rewards: list[float] = []
    for smoothing in (0.0, 0.1):
        config = ObjectiveConfig(
            kind="hard_attention", label_smoothing=smoothing, expectation_probability=0.0
        )
        objective = HardAttentionObjective(config)
        loss = objective.loss(decoder, projected, made, torch.Generator().manual_seed(1))
        assert loss.statistics is not None
        rewards.append(float(loss.statistics[0]))
        assert rewards[-1] == pytest.approx(-float(loss.parts["nll_per_word"]) * 2)
    assert rewards[0] != pytest.approx(rewards[1], rel=1e-3)  # of the same sampled cells


def test_expectation_switch_is_drawn_per_picture() -> None:
    objective = HardAttentionObjective(ObjectiveConfig(kind="hard_attention"))
    decoder = toys.decoder(attention="hard")
    tokens = torch.ones(400, 1, dtype=torch.long)
    made = batch(tokens, tokens, 200, 2)
    projected = decoder.project(made.vectors, made.mask)
    switch = objective._draw_expected(projected, made, torch.Generator().manual_seed(0))
    pairs = switch.view(200, 2)
    assert (pairs[:, 0] == pairs[:, 1]).all()
    assert 60 < int(pairs[:, 0].sum()) < 140


def test_hard_attention_loss_reaches_the_attention_network() -> None:
    decoder = toys.decoder(attention="hard").train()
    made = batch(torch.tensor([[1, 4], [1, 5]]), torch.tensor([[4, 2], [5, 2]]), 2, 3)
    config = ObjectiveConfig(kind="hard_attention", expectation_probability=0.0, lambda_e=0.0,
                             lambda_ds=0.0)  # fmt: skip
    objective = HardAttentionObjective(config)
    objective.update(torch.tensor([0.0, 1.0]))
    projected = decoder.project(made.vectors, made.mask)
    loss = objective.loss(decoder, projected, made, torch.Generator().manual_seed(1))
    loss.total.backward()
    assert float(decoder.attention.scores.query.weight.grad.abs().sum()) > 0


def test_self_critical_gradient_is_zero_when_reward_equals_baseline() -> None:
    logprob = torch.tensor([-1.0, -2.0], requires_grad=True)
    policy_loss(torch.tensor([0.7, 0.3]), torch.tensor([0.7, 0.3]), logprob).backward()
    assert (logprob.grad == 0).all()
    logprob.grad = None
    policy_loss(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]), logprob).backward()
    torch.testing.assert_close(logprob.grad, torch.tensor([-0.25, 0.25]))


def test_probabilities_of_what_is_said_leave_out_what_never_is() -> None:
    decoder = toys.decoder(dropout=0.0)
    made = batch(torch.tensor([[1, 4, 5], [1, 5, 0]]), torch.tensor([[4, 5, 2], [5, 2, 0]]), 2, 3)
    projected = decoder.project(made.vectors, made.mask)
    unrolled = decoder(made.tokens, projected, steps=made.targets != PAD)
    logits = unrolled.logits.clone()
    logits[..., [PAD, START, UNKNOWN]] = -torch.inf
    wanted = torch.log_softmax(logits, -1).gather(2, made.targets[..., None])[..., 0]
    found = sampled_logprob(unrolled, made.targets)
    torch.testing.assert_close(found[made.targets != PAD], wanted[made.targets != PAD])


def test_samples_are_drawn_from_the_decoder_without_dropout() -> None:
    """The share of each first word is its probability; the longest caption has four words."""
    decoder = toys.decoder(dropout=0.5).train()
    made = batch(torch.tensor([[1]]), torch.tensor([[2]]), 1, 3)
    projected = decoder.project(made.vectors, made.mask)
    said = sample_captions(decoder, projected, 20000, torch.Generator().manual_seed(0), 4)
    assert said.shape == (20000, 4)
    assert decoder.training
    ended = (said == END).cumsum(1) - (said == END).int() > 0
    assert ((said == PAD) == ended).all()
    decoder.eval()
    first = decoder(torch.tensor([[START]]), projected).logits[0, 0]
    first[[PAD, START, UNKNOWN]] = -torch.inf
    shares = said[:, 0].bincount(minlength=len(first)) / 20000
    torch.testing.assert_close(shares, first.softmax(-1), atol=0.015, rtol=0)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_self_critical_loss_is_that_of_its_samples_read_step_by_step(weight: float) -> None:
    decoder = toys.decoder(dropout=0.0).train()
    config = ObjectiveConfig(kind="self_critical", samples=3, cross_entropy_weight=weight)
    objective = SelfCritical(config, lambda item, words: item + 0.3 * sum(words), 4)
    made = batch(torch.tensor([[1, 4], [1, 5]]), torch.tensor([[4, 2], [5, 2]]), 2, 3)
    projected = decoder.project(made.vectors, made.mask)
    found = objective.loss(decoder, projected, made, torch.Generator().manual_seed(1))
    said = sample_captions(decoder, projected, 3, spawn(torch.Generator().manual_seed(1)), 4)

    state, read = decoder.init_state(projected, 3), torch.full((6,), START)
    logprob = torch.zeros(6)
    for t in range(said.shape[1]):
        step = decoder.step(read, state, projected)
        logits = step.logits.clone()
        logits[:, [PAD, START, UNKNOWN]] = -torch.inf
        real = said[:, t] != PAD
        word = torch.where(real, said[:, t], END)
        logprob = logprob + torch.where(real, logits.log_softmax(-1)[range(6), word], 0.0)
        state, read = step.state, said[:, t]
    rewards = torch.tensor(
        [k // 3 + 0.3 * sum(i for i in row if i != END) for k, row in enumerate(said.tolist())]
    )
    of = rewards.view(2, 3)
    baseline = ((of.sum(1, keepdim=True) - of) / 2).flatten()
    wanted = -((rewards - baseline) * logprob).mean()
    plain = CrossEntropy(config).loss(decoder, projected, made, torch.Generator()).total
    torch.testing.assert_close(found.total, wanted + weight * plain)


@pytest.mark.parametrize("samples", [1, 4])
def test_self_critical_training_raises_the_reward(samples: int) -> None:
    """Reward: the share of words that are id 5. It must rise."""
    decoder = toys.decoder(dropout=0.0).train()

    def reward(_: int, words: list[int]) -> float:
        return words.count(5) / max(1, len(words))

    objective = SelfCritical(ObjectiveConfig(kind="self_critical", samples=samples), reward, 4)
    made = batch(torch.tensor([[1], [1]]), torch.tensor([[2], [2]]), 2, 3)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(0)
    rewards = []
    for _ in range(60):
        projected = decoder.project(made.vectors, made.mask)
        loss = objective.loss(decoder, projected, made, generator)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        rewards.append(float(loss.parts["reward"]))
    assert sum(rewards[-10:]) > sum(rewards[:10]) + 2


def test_the_end_token_is_rewarded_where_people_end() -> None:
    """Ending as the references do must pay with the option and is no word without it."""
    items = [
        CaptionedItem("a", ("a dog runs", "a dog sits"), "train", "a"),
        CaptionedItem("b", ("red grass on grass", "a cat sits on grass"), "train", "b"),
        CaptionedItem("c", ("a cat runs on red",), "train", "c"),
    ]
    train, words = CaptionDataset(tuple(items), "toy"), toys.vocabulary()
    said = words.encode("a dog runs")
    config = ObjectiveConfig(kind="self_critical")
    rewarded = caption_reward(replace(config, reward_end_token=True), train, words)
    assert rewarded(0, [*said, END]) > rewarded(0, said)
    plain = caption_reward(config, train, words)
    assert plain(0, said) > plain(0, words.encode("a dog")) > 0
    mixed = caption_reward(replace(config, bleu_weight=2.0), train, words)
    assert mixed(0, said) == pytest.approx(plain(0, said) + 2)  # a reference, whose BLEU is 1
