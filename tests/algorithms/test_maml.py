"""MAML against a network written out by hand, finite differences and closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d, cross_entropy, mse_loss

from algorithms import ParameterVector, capture_buffers
from algorithms.episodic.inner_rates import LEARNED_RATES
from algorithms.episodic.maml import MAML
from algorithms.models.passed import Passed
from algorithms.types import Episode
from tests.algorithms.episodes import (
    image_encoder,
    image_episode,
    sinusoid_episode,
    vector_encoder,
)


def make_maml(batch_norm: bool = True, pool_first: bool = True, **options) -> MAML:
    torch.manual_seed(1)
    encoder = image_encoder(batch_norm=batch_norm, pool_first=pool_first)
    learner = MAML(encoder, 3, **{"lr": 0.1} | options).double()
    with torch.no_grad():  # or scale and shift would be those that change nothing
        for parameter in learner.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return learner


def outer_gradients(learner: MAML, episode: Episode) -> dict[str, Tensor]:
    learner.zero_grad()
    learner.episode_loss(episode).loss.backward()
    return {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}


# The oracle: Algorithm 2 of the paper with each layer written out.


def normalised(x: Tensor, reference: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mean = reference.mean(dim=(0, 2, 3))
    variance = ((reference - mean[None, :, None, None]) ** 2).mean(dim=(0, 2, 3))
    columns = [v[None, :, None, None] for v in (mean, variance, weight, bias)]
    return (x - columns[0]) / (columns[1] + 1e-5).sqrt() * columns[2] + columns[3]


def pooled(x: Tensor) -> Tensor:
    return x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).max(dim=4).values


def network(
    params: dict[str, Tensor], x: Tensor, num_reference: int, pool_first: bool = True
) -> Tensor:
    """Two blocks of convolution, batch-norm and ReLU, pooled before or after; a linear layer."""
    for i in range(2):
        x = conv2d(
            x, params[f"encoder.{i}.conv.weight"], params[f"encoder.{i}.conv.bias"], padding=1
        )
        x = pooled(x) if pool_first else x
        if f"encoder.{i}.norm.weight" in params:
            scale, shift = (params[f"encoder.{i}.norm.{name}"] for name in ("weight", "bias"))
            x = normalised(x, x[:num_reference], scale, shift)
        x = x.clamp(min=0)
        x = x if pool_first else pooled(x)
    return x.flatten(1) @ params["head.weight"].T + params["head.bias"]


def naive_loss(learner: MAML, episode: Episode, num_steps: int) -> Tensor:
    """Return the loss of the queries after the inner steps, without any option's shortcut."""
    theta = {n: p for n, p in learner.named_parameters() if not n.startswith("rates.")}
    adapted = [name for name in theta if name.startswith("head.") or not learner.head_only]
    phi = dict(theta)
    num_support, pool_first = len(episode.support_x), learner.encoder[0].pool_first
    for step in range(num_steps):
        outputs = network(phi, episode.support_x, num_support, pool_first)
        loss = cross_entropy(outputs, episode.support_y)
        old = dict(phi)
        for i, name in enumerate(adapted):
            (gradient,) = torch.autograd.grad(loss, old[name], create_graph=True)
            if learner.first_order:
                gradient = gradient.detach()
            phi[name] = old[name] - naive_rate(learner, theta, adapted, step, i) * gradient
    if learner.transductive:
        predictions = network(phi, episode.query_x, len(episode.query_x), pool_first)
    else:
        images = torch.cat([episode.support_x, episode.query_x])
        predictions = network(phi, images, num_support, pool_first)[num_support:]
    return cross_entropy(predictions, episode.query_y)


def naive_rate(learner: MAML, theta, adapted, step: int, i: int) -> Tensor | float:
    if learner.rates is None:
        return learner.lr
    values = learner.rates.values
    step = min(step, learner.num_steps - 1)
    if learner.rates.kind == "per_step":
        return values[step]
    if learner.rates.kind == "per_layer":
        return values[step, i]
    begin = sum(theta[name].numel() for name in adapted[:i])
    return values[begin : begin + theta[adapted[i]].numel()].view(theta[adapted[i]].shape)


def assert_same_outer_gradients(learner: MAML, episode: Episode) -> None:
    found = outer_gradients(learner, episode)
    learner.zero_grad()
    loss = naive_loss(learner, episode, learner.num_steps)
    loss.backward()
    expected = {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    scale = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-11 * float(scale))
    torch.testing.assert_close(learner.episode_loss(episode).loss, loss, rtol=1e-12, atol=0)


@pytest.mark.parametrize("num_steps", [1, 2, 5])
@pytest.mark.parametrize(("batch_norm", "pool_first"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"transductive": False},
        {"first_order": True},
        {"adapt": "head"},
        {"adapt": "head", "transductive": False, "learned_lr": "per_step"},
        {"adapt": "head", "first_order": True},
        *({"learned_lr": kind} for kind in LEARNED_RATES[1:]),
        {"learned_lr": "per_layer", "first_order": True, "transductive": False},
    ],
    ids=str,
)
def test_outer_gradient_is_that_of_the_network_written_out(
    num_steps, batch_norm, pool_first, options
):
    learner = make_maml(batch_norm, pool_first, num_steps=num_steps, **options)
    assert_same_outer_gradients(learner, image_episode())


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_shots=st.integers(1, 3),
    num_steps=st.integers(1, 3),
    lr=st.floats(0.01, 0.5),
    transductive=st.booleans(),
    pool_first=st.booleans(),
)
def test_outer_gradient_of_any_episode(seed, num_shots, num_steps, lr, transductive, pool_first):
    options = {"pool_first": pool_first, "num_steps": num_steps, "transductive": transductive}
    learner = make_maml(lr=lr, **options)
    assert_same_outer_gradients(learner, image_episode(num_shots=num_shots, seed=seed))


@pytest.mark.parametrize("num_steps", [1, 2, 5])
@pytest.mark.parametrize("transductive", [True, False])
def test_outer_gradient_agrees_with_finite_differences(num_steps, transductive):
    learner = make_maml(num_steps=num_steps, transductive=transductive, learned_lr="per_layer")
    episode = image_episode()
    vector = ParameterVector(learner, dtype=torch.float64)
    learner.episode_loss(episode).loss.backward()
    gradient, start = vector.grads.clone(), vector.values.clone()
    for seed in range(3):
        way = torch.randn(vector.size, generator=torch.Generator().manual_seed(seed)).double()
        way /= way.norm()
        sides = []
        for sign in (1, -1):
            vector.load(start + sign * 1e-6 * way)
            sides.append(learner.episode_loss(episode).loss.detach())
        vector.load(start)
        torch.testing.assert_close(
            gradient @ way, (sides[0] - sides[1]) / 2e-6, rtol=1e-5, atol=1e-8
        )


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_outer_gradient_of_a_quadratic_has_its_closed_form(num_steps):
    """Linear regression: φ_K − w* = (I − lr·H)^K (θ − w*), so the gradient is a product."""

    torch.manual_seed(0)
    learner = MAML(Passed((2,)), 1, regression=True, lr=0.1, num_steps=num_steps).double()
    x, query_x = torch.randn(5, 2).double(), torch.randn(4, 2).double()
    y, query_y = torch.randn(5, 1).double(), torch.randn(4, 1).double()
    found = outer_gradients(learner, Episode(x, y, query_x, query_y, num_ways=0))

    ones = torch.ones(5, 1).double()
    inputs, queries = torch.cat([x, ones], 1), torch.cat([query_x, ones[:4]], 1)
    theta = torch.cat([learner.head.weight, learner.head.bias[:, None]], 1).detach().T
    hessian = 2 / 5 * inputs.T @ inputs
    best = torch.linalg.solve(hessian, 2 / 5 * inputs.T @ y)
    shrink = torch.matrix_power(torch.eye(3).double() - 0.1 * hessian, num_steps)
    phi = best + shrink @ (theta - best)
    expected = shrink.T @ (2 / 4 * queries.T @ (queries @ phi - query_y))
    torch.testing.assert_close(
        torch.cat([found["head.weight"][0], found["head.bias"]]), expected[:, 0], rtol=1e-10, atol=0
    )


def test_first_order_gradient_is_the_query_gradient_at_the_adapted_parameters():
    learner = make_maml(num_steps=2, eval_num_steps=2, first_order=True)
    episode = image_episode()
    found = outer_gradients(learner, episode)
    phi = {name: p.detach().clone() for name, p in learner.named_parameters()}
    for _ in range(2):
        leaves = {name: p.requires_grad_() for name, p in phi.items()}
        loss = cross_entropy(network(leaves, episode.support_x, 6), episode.support_y)
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        phi = {
            n: (p - 0.1 * g).detach() for (n, p), g in zip(leaves.items(), gradients, strict=True)
        }
    leaves = {name: p.requires_grad_() for name, p in phi.items()}
    cross_entropy(network(leaves, episode.query_x, 12), episode.query_y).backward()
    for name, leaf in leaves.items():
        torch.testing.assert_close(found[name], leaf.grad, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("learned_lr", LEARNED_RATES)
def test_learned_rates_begin_at_lr_and_change_nothing_yet(learned_lr):
    torch.manual_seed(1)
    learner = MAML(image_encoder(), 3, lr=0.3, num_steps=2, learned_lr=learned_lr).double()
    torch.manual_seed(1)
    plain = MAML(image_encoder(), 3, lr=0.3, num_steps=2).double()
    if learner.rates is not None:
        torch.nn.init.constant_(learner.rates.values, 0.3)  # which was rounded to float32
    episode = image_episode()
    assert learner.episode_loss(episode).loss == plain.episode_loss(episode).loss


@pytest.mark.parametrize("options", [{}, {"learned_lr": "per_layer"}, {"adapt": "head"}], ids=str)
def test_evaluation_takes_its_own_number_of_steps(options):
    """Three steps where meta-training took two: the third has the rates of the second."""
    learner = make_maml(num_steps=2, eval_num_steps=3, **options).eval()
    episode = image_episode()
    expected = naive_loss(learner, episode, 3).detach()
    torch.testing.assert_close(learner.episode_loss(episode).loss, expected, rtol=1e-12, atol=0)


def test_evaluation_builds_no_graph_and_works_without_gradients():
    learner, episode = make_maml().eval(), image_episode()
    with torch.no_grad():
        quiet = learner.adapt(episode.support_x, episode.support_y)(episode.query_x)
    answers = learner.adapt(episode.support_x, episode.support_y)(episode.query_x)
    assert not answers.requires_grad
    assert torch.equal(answers, quiet)


@pytest.mark.parametrize("transductive", [True, False])
def test_running_statistics_are_neither_used_nor_changed(transductive):
    learner, episode = make_maml(transductive=transductive), image_episode()
    before = learner.episode_loss(episode).loss.detach()
    state = capture_buffers(learner)
    learner.episode_loss(episode)
    assert all(torch.equal(state[name], b) for name, b in learner.named_buffers())
    for name, buffer in learner.named_buffers():
        if "running" in name:
            buffer.add_(7)
    assert learner.episode_loss(episode).loss.detach() == before


def test_a_query_in_training_is_answered_alone_unless_transductive():
    learner, episode = make_maml(transductive=False), image_episode()
    predict = learner.adapt(episode.support_x, episode.support_y)
    together = predict(episode.query_x)
    alone = torch.cat([predict(query[None]) for query in episode.query_x])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)
    transductive = make_maml()
    predict = transductive.adapt(episode.support_x, episode.support_y)
    assert not torch.allclose(predict(episode.query_x)[:6], predict(episode.query_x[:6]))


def test_head_only_answers_with_an_encoder_that_did_not_move():
    learner, episode = make_maml(adapt="head", batch_norm=False).eval(), image_episode()
    seen = []
    learner.encoder.register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    learner.adapt(episode.support_x, episode.support_y)(episode.support_x)
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0)


def test_frozen_parameters_are_not_adapted():
    encoder = image_encoder()
    encoder[0].requires_grad_(False)
    learner = MAML(encoder, 3, learned_lr="per_parameter").double()
    gradients = outer_gradients(learner, image_episode())
    assert not any(name.startswith("encoder.0.") for name in gradients)
    assert learner.rates.values.numel() == sum(
        p.numel() for n, p in learner.named_parameters() if p.requires_grad and n != "rates.values"
    )


def test_regression_takes_the_mean_squared_error_in_both_loops():
    learner = MAML(vector_encoder(), 1, regression=True, lr=0.01).double()
    episode = sinusoid_episode()
    theta = dict(learner.named_parameters())

    def outputs(params: dict[str, Tensor], x: Tensor) -> Tensor:
        for i in (0, 2):
            x = (x @ params[f"encoder.{i}.weight"].T + params[f"encoder.{i}.bias"]).clamp(min=0)
        return x @ params["head.weight"].T + params["head.bias"]

    loss = mse_loss(outputs(theta, episode.support_x), episode.support_y)
    gradients = torch.autograd.grad(loss, list(theta.values()))
    phi = {n: p - 0.01 * g for (n, p), g in zip(theta.items(), gradients, strict=True)}
    expected = mse_loss(outputs(phi, episode.query_x), episode.query_y)
    torch.testing.assert_close(learner.episode_loss(episode).loss, expected, rtol=1e-12, atol=0)


def test_bfloat16_autocast_leaves_the_loss_close_to_float64():
    learner, episode = make_maml(transductive=False), image_episode()
    expected = learner.episode_loss(episode).loss.detach()
    with torch.autocast("cpu", torch.bfloat16):
        result = learner.float().episode_loss(
            Episode(
                episode.support_x.float(),
                episode.support_y,
                episode.query_x.float(),
                episode.query_y,
                num_ways=3,
            )
        )
    result.loss.backward()
    assert float(result.loss.detach()) == pytest.approx(float(expected), rel=0.1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": 0.0}, ValueError, "lr: expected a positive"),
        ({"lr": "fast"}, TypeError, "lr: expected a number"),
        ({"num_steps": 0}, ValueError, "num_steps: expected 1 or more"),
        ({"eval_num_steps": 1.5}, TypeError, "eval_num_steps: expected a whole number"),
        ({"first_order": 1}, TypeError, "first_order: expected true or false"),
        ({"adapt": "body"}, ValueError, "adapt: expected one of all, head, got 'body'"),
        ({"learned_lr": True}, ValueError, "learned_lr: expected one of none, per_step"),
    ],
)
def test_a_bad_option_is_named(options, error, message):
    with pytest.raises(error, match=message):
        make_maml(**options)


def test_a_support_set_that_lacks_a_class_is_refused_in_evaluation():
    learner, episode = make_maml().eval(), image_episode()
    with pytest.raises(ValueError, match="support_y: no example of class 1"):
        learner.adapt(episode.support_x, torch.zeros_like(episode.support_y))


@pytest.mark.parametrize("training", [True, False])
def test_targets_of_the_other_kind_are_refused(training):
    """A classifier would take numbers for a regression's targets, and train on them silently."""
    episode = image_episode()
    scores = torch.eye(3).double()[episode.support_y]
    with pytest.raises(ValueError, match="support_y: expected"):
        make_maml().train(training).adapt(episode.support_x, scores)
    regressor = make_maml(regression=True).train(training)
    with pytest.raises(ValueError, match=r"support_y: expected .*targets"):
        regressor.adapt(episode.support_x, episode.support_y)
    assert regressor.adapt(episode.support_x, scores)(episode.query_x).shape == (12, 3)


@pytest.mark.parametrize("training", [True, False])
def test_a_single_example_that_cannot_be_normalised_is_named(training):
    """The second block's maps have one pixel: one example gives a channel one value."""
    torch.manual_seed(0)
    learner = MAML(image_encoder(side=4), 1).double().train(training)
    episode = image_episode(num_ways=1, side=4)
    predict = learner.adapt(episode.support_x, episode.support_y)
    with pytest.raises(ValueError, match="query_x: one example is too few"):
        predict(episode.query_x[:1])
    with pytest.raises(ValueError, match="support_x: one example is too few"):
        learner.adapt(episode.support_x[:1], episode.support_y[:1])
