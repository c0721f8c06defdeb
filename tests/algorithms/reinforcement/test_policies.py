"""Policies against torch.distributions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal

from algorithms.reinforcement.policies import Categorical, DiagonalGaussian

SHAPE = (5, 3, 4)  # [T, n, O]: four logits, or two means and two log standard deviations


def categorical(output):
    return TorchCategorical(logits=output)


def gaussian(output):
    mean, log_std = output.chunk(2, dim=-1)
    return Independent(Normal(mean, log_std.exp()), 1)


PAIRS = {"categorical": (Categorical(), categorical), "gaussian": (DiagonalGaussian(), gaussian)}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_output(seed: int, spread: float = 1.0, dtype=torch.float64):
    return spread * torch.randn(*SHAPE, generator=seeded(seed), dtype=dtype)


@pytest.mark.parametrize("name", PAIRS)
@settings(deadline=None)
@given(seed=st.integers(0, 10**6), spread=st.floats(0.0, 3.0))
def test_log_prob_and_entropy_and_their_gradients_are_those_of_torch(name, seed, spread):
    policy, distribution = PAIRS[name]
    output = random_output(seed, spread).requires_grad_()
    theirs = distribution(output)
    actions = theirs.sample()
    pairs = [
        (policy.log_prob(output, actions), theirs.log_prob(actions)),
        (policy.entropy(output), theirs.entropy()),
    ]
    for ours, expected in pairs:
        torch.testing.assert_close(ours, expected)
        (grad,) = torch.autograd.grad(ours.sum(), output, retain_graph=True)
        (wanted,) = torch.autograd.grad(expected.sum(), output, retain_graph=True)
        torch.testing.assert_close(grad, wanted)


@pytest.mark.parametrize("name", PAIRS)
def test_samples_depend_on_the_generator_alone_and_have_no_graph(name):
    policy, _ = PAIRS[name]
    output = random_output(1).requires_grad_()
    first = policy.sample(output, seeded(7))
    torch.manual_seed(3)
    assert torch.equal(policy.sample(output, seeded(7)), first)
    assert not torch.equal(policy.sample(output, seeded(8)), first)
    assert not first.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_actions_are_drawn_as_often_as_their_probabilities_say(dtype):
    logits = torch.tensor([0.0, 1.0, 2.0, -3.0], dtype=dtype)
    num_draws = 200_000
    actions = Categorical().sample(logits.expand(num_draws, 4), seeded(1))
    assert actions.dtype is torch.int64
    found = torch.bincount(actions, minlength=4) / num_draws
    probs = logits.softmax(-1).float()
    assert ((found - probs).abs() < 4 * (probs * (1 - probs) / num_draws).sqrt()).all()


def test_continuous_actions_have_the_mean_and_deviation_asked_for():
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0])
    output = torch.cat([mean, std.log()])
    actions = DiagonalGaussian().sample(output.expand(200_000, 4), seeded(1))
    torch.testing.assert_close(actions.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(actions.std(0), std, atol=0, rtol=0.01)


def test_a_policy_that_is_sure_has_finite_figures():
    output = torch.tensor([[0.0, 500.0, -500.0]], requires_grad=True)
    policy = Categorical()
    log_prob, entropy = policy.log_prob(output, torch.tensor([0])), policy.entropy(output)
    assert log_prob.item() == -500.0
    assert entropy.item() == 0.0
    (log_prob + entropy).backward()
    assert output.grad.isfinite().all()
