"""The LSTM meta-learner against the paper's equations, one parameter after the other."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, max_pool2d, mse_loss

from algorithms import capture_buffers
from algorithms.episodic.learned_optimizer import LearnedOptimizer, preprocess
from algorithms.models.passed import Passed
from algorithms.types import Episode
from tests.algorithms.episodes import image_encoder, image_episode


def regression_episode(seed: int = 0) -> Episode:
    generator = torch.Generator().manual_seed(seed)
    draws = [
        torch.randn(*s, generator=generator).double() for s in ((5, 2), (5, 1), (4, 2), (4, 1))
    ]
    return Episode(*draws, num_ways=0)


def make_linear(**options) -> LearnedOptimizer:
    torch.manual_seed(0)
    learner = LearnedOptimizer(Passed((2,)), 1, regression=True, hidden_size=3, **options).double()
    with torch.no_grad():  # gates that differ from parameter to parameter
        for gate in (learner.update_rule.forget_gate, learner.update_rule.input_gate):
            gate.weight.normal_()
            gate.bias.normal_()
    return learner


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def naive_preprocess(x: float) -> list[float]:
    if abs(x) >= math.exp(-10):
        return [math.log(abs(x)) / 10, math.copysign(1, x)]
    return [-1, math.exp(10) * x]


def naive_lstm(layer: nn.LSTMCell, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an ordinary LSTM on one example, gates in torch's order."""
    rows = layer.weight_ih @ x + layer.bias_ih + layer.weight_hh @ h + layer.bias_hh
    enter, forget, candidate, output = rows.chunk(4)
    c = sigmoid(forget) * c + sigmoid(enter) * torch.tanh(candidate)
    return sigmoid(output) * torch.tanh(c), c


def naive_parameters(learner: LearnedOptimizer, episode: Episode) -> list[Tensor]:
    """Algorithm 1, lines 5 to 11, with a Python loop over the parameters of a linear model."""
    theta = [*learner.head.weight[0].unbind(), learner.head.bias[0]]
    zeros = torch.zeros(3).double()
    state = [(zeros, zeros)] * len(theta)
    gates = [(torch.zeros(()).double(),) * 2] * len(theta)
    rule = learner.update_rule
    for _ in range(learner.num_steps):
        leaves = [p.detach().clone().requires_grad_() for p in theta]
        predictions = episode.support_x @ torch.stack(leaves[:2]) + leaves[2]
        loss = mse_loss(predictions, episode.support_y[:, 0])
        gradients = torch.autograd.grad(loss, leaves)
        for i, gradient in enumerate(gradients):
            numbers = naive_preprocess(float(gradient)) + naive_preprocess(float(loss.detach()))
            state[i] = naive_lstm(
                learner.first_layer, torch.tensor(numbers, dtype=torch.float64), *state[i]
            )
            hidden, cell = state[i][0], theta[i][None]
            forget, enter = gates[i]
            forget_row = torch.cat([hidden, cell, forget[None]])
            enter_row = torch.cat([hidden, cell, enter[None]])
            forget = sigmoid(rule.forget_gate.weight[0] @ forget_row + rule.forget_gate.bias[0])
            enter = sigmoid(rule.input_gate.weight[0] @ enter_row + rule.input_gate.bias[0])
            gates[i] = forget, enter
            theta[i] = forget * theta[i] - enter * gradient
    return theta


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_loss_and_outer_gradient_are_those_of_the_paper(num_steps):
    learner, episode = make_linear(num_steps=num_steps), regression_episode()
    result = learner.episode_loss(episode)
    names, parameters = zip(*learner.named_parameters(), strict=True)
    found = torch.autograd.grad(result.loss, parameters)

    theta = naive_parameters(learner, episode)
    predictions = (episode.query_x @ torch.stack(theta[:2]) + theta[2])[:, None]
    loss = mse_loss(predictions, episode.query_y)
    expected = torch.autograd.grad(loss, parameters)
    torch.testing.assert_close(result.predictions, predictions, rtol=1e-12, atol=0)
    torch.testing.assert_close(result.loss, loss, rtol=1e-12, atol=0)
    for name, ours, theirs in zip(names, found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13, msg=name)


@given(st.floats(-1e6, 1e6))
def test_preprocessing_is_that_of_the_paper(x):
    found = preprocess(torch.tensor([x], dtype=torch.float64))
    expected = torch.tensor([naive_preprocess(x)], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-300)


def test_preprocessing_of_zero_is_finite_and_so_is_its_derivative():
    x = torch.zeros(1).requires_grad_()
    preprocess(x).sum().backward()
    assert preprocess(x.detach()).tolist() == [[-1, 0]]
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_constant_gates_make_it_gradient_descent(kind):
    """With f = 1 and i = 0.1 it is SGD of rate 0.1, on a network with batch-norm too."""
    torch.manual_seed(0)
    if kind == "regression":
        learner, episode = (
            LearnedOptimizer(Passed((2,)), 1, True, num_steps=3),
            regression_episode(),
        )
    else:
        learner, episode = LearnedOptimizer(image_encoder(), 3, num_steps=3), image_episode()
    learner = learner.double()
    with torch.no_grad():
        for gate, bias in (("forget_gate", 100.0), ("input_gate", math.log(0.1 / 0.9))):
            getattr(learner.update_rule, gate).weight.zero_()
            getattr(learner.update_rule, gate).bias.fill_(bias)
    network = nn.Sequential(learner.encoder, nn.Flatten(), learner.head)
    loss_of = mse_loss if kind == "regression" else cross_entropy
    answers = learner.episode_loss(episode).predictions.detach()

    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(network(episode.support_x), episode.support_y).backward()
        optimizer.step()
    torch.testing.assert_close(answers, network(episode.query_x).detach(), rtol=1e-9, atol=1e-11)


def test_it_begins_as_slow_gradient_descent():
    rule = LearnedOptimizer(Passed((2,)), 1).update_rule
    cell, gradient = torch.randn(50), torch.randn(50)
    following, (forget, enter) = rule(torch.zeros(50, 20), cell, gradient, None)
    assert forget.min() > 0.97
    assert enter.max() < 0.03
    torch.testing.assert_close(following, forget[:, 0] * cell - enter[:, 0] * gradient)


def test_inner_gradients_are_constants_unless_asked_otherwise():
    episode = regression_episode()
    gradients = []
    for first_order in (True, False):
        learner = make_linear(first_order=first_order)
        learner.episode_loss(episode).loss.backward()
        gradients.append(learner.head.weight.grad)
    assert not torch.allclose(*gradients)


def test_queries_of_an_evaluation_are_normalised_by_the_support_set():
    """At the adapted parameters, layer by layer; in meta-training by their own statistics."""
    torch.manual_seed(0)
    learner, episode = LearnedOptimizer(image_encoder(), 3).double(), image_episode()
    params = {n: p.detach() for n, p in learner.learn(episode.support_x, episode.support_y).items()}

    def network(x: Tensor, num_reference: int) -> Tensor:
        for i in range(2):
            weight, bias = (params[f"encoder.{i}.conv.{name}"] for name in ("weight", "bias"))
            x = max_pool2d(conv2d(x, weight, bias, padding=1), 2)
            reference = x[:num_reference]
            mean = reference.mean(dim=(0, 2, 3), keepdim=True)
            variance = reference.var(dim=(0, 2, 3), correction=0, keepdim=True)
            x = ((x - mean) / (variance + 1e-5).sqrt()).clamp(min=0)
        return x.flatten(1) @ params["head.weight"].T + params["head.bias"]

    for i in range(2):  # the decayed scale and shift, taken as one and zero above
        params[f"encoder.{i}.norm.weight"] = torch.ones(4).double()
        params[f"encoder.{i}.norm.bias"] = torch.zeros(4).double()
    learner.learn = lambda *_: params
    alone = network(torch.cat([episode.support_x, episode.query_x]), 6)[6:]
    together = network(episode.query_x, 12)
    for mode, transductive, expected in (
        (True, False, together),
        (False, False, alone),
        (False, True, together),
    ):
        learner.train(mode).transductive = transductive
        found = learner.adapt(episode.support_x, episode.support_y)(episode.query_x)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_running_statistics_are_neither_used_nor_changed():
    torch.manual_seed(0)
    learner, episode = LearnedOptimizer(image_encoder(), 3).double(), image_episode()
    before = capture_buffers(learner)
    learner.episode_loss(episode)
    learner.eval().episode_loss(episode)
    assert all(torch.equal(before[name], b) for name, b in learner.named_buffers())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_steps": 0}, ValueError, "num_steps: expected 1 or more"),
        ({"hidden_size": 2.0}, TypeError, "hidden_size: expected a whole number"),
        ({"first_order": "yes"}, TypeError, "first_order: expected true or false"),
    ],
)
def test_a_bad_option_is_named(options, error, message):
    with pytest.raises(error, match=message):
        LearnedOptimizer(Passed((2,)), 1, **options)


def test_gates_keep_their_digits_under_autocast():
    """Nothing enters, so θ_T = f^T θ_0 whatever the gradients; bfloat16 would round f to 0.992."""
    torch.manual_seed(0)
    learner, episode = LearnedOptimizer(Passed((2,)), 1, regression=True), regression_episode()
    with torch.no_grad():
        for gate, bias in (("forget_gate", 5.0), ("input_gate", -1e4)):
            getattr(learner.update_rule, gate).weight.zero_()
            getattr(learner.update_rule, gate).bias.fill_(bias)
    support = episode.support_x.float(), episode.support_y.float()
    expected = torch.sigmoid(torch.tensor(5.0)) ** 5 * learner.head.weight
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(learner.learn(*support)["head.weight"], expected)
