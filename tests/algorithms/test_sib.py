"""SIB against autograd's gradients and the authors' steps, written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, one_hot

from algorithms.batch_norm import estimate_statistics, has_running_statistics
from algorithms.episodic.sib import SIB, QueryNorm
from algorithms.models.passed import Passed
from algorithms.parameters import capture_buffers, learned_parameters
from algorithms.types import Encoder, Episode
from tests.algorithms.episodes import image_encoder, image_episode


def feature_episode(num_shots: int = 2, seed: int = 0) -> Episode:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator).double()  # noqa: E731
    centres, labels = draw(3, 9), torch.arange(3).repeat(num_shots)
    queries = torch.arange(3).repeat(4)
    return Episode(
        centres[labels] + 0.4 * draw(len(labels), 9), labels, centres[queries] + 0.4 * draw(12, 9),
        queries, 3,
    )  # fmt: skip


def make_learner(encoder: Encoder | None = None, **options) -> SIB:
    """Return a learner whose every parameter is away from its start; steps that are felt."""
    torch.manual_seed(6)
    learner = SIB(encoder or Passed((9,)), 3, **{"lr": 0.1} | options).double()
    with torch.no_grad():
        for _, parameter in learned_parameters(learner):
            parameter.add_(0.3 * torch.rand_like(parameter))
    return learner


def literal_answers(learner: SIB, episode: Episode) -> Tensor:
    """The algorithm with cosines one by one, nn.BatchNorm1d, and the step left to autograd."""
    encoder = learner.encoder
    theta = []
    for label in range(3):
        examples = [
            encoder(x[None])[0].flatten() for x in episode.support_x[episode.support_y == label]
        ]
        theta.append(sum(f / f.norm() for f in examples) / len(examples) * learner.feature_scale)
    theta = torch.stack(theta)
    queries = [encoder(x[None])[0].flatten() for x in episode.query_x]

    def logits_of(weights: Tensor) -> Tensor:
        rows = [[cosine_similarity(f, w, dim=0) for w in weights] for f in queries]
        cosines = torch.stack([torch.stack(row) for row in rows])
        return learner.scale * (cosines + learner.bias)

    for _ in range(learner.num_steps):
        theta = theta.requires_grad_() if theta.is_leaf else theta
        logits = logits_of(theta)
        value = logits
        for layer in learner.synthetic_gradient.layers:
            value = literal_norm(layer, value) if isinstance(layer, QueryNorm) else layer(value)
        (gradient,) = torch.autograd.grad(logits, theta, value, create_graph=True)
        theta = theta - learner.lr * gradient
    return logits_of(theta)


def literal_norm(layer: QueryNorm, values: Tensor) -> Tensor:
    norm = nn.BatchNorm1d(values.shape[1], track_running_stats=False).double()
    return torch.func.functional_call(norm, dict(layer.named_parameters()), values)


@pytest.mark.parametrize("num_steps", [0, 1, 3])
@pytest.mark.parametrize("num_shots", [1, 4])
def test_answers_and_outer_gradient_are_those_of_autograd_s_steps(num_steps, num_shots):
    learner, episode = make_learner(num_steps=num_steps), feature_episode(num_shots)
    result = learner.episode_loss(episode)
    result.loss.backward()
    found = {name: p.grad.clone() for name, p in learned_parameters(learner)}
    learner.zero_grad()
    expected = literal_answers(learner, episode)
    cross_entropy(expected, episode.query_y).backward()
    torch.testing.assert_close(result.predictions, expected, rtol=1e-10, atol=1e-12)
    for name, parameter in learned_parameters(learner):
        assert parameter.grad.abs().max() > 0, name
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-8, atol=1e-10)


def test_an_image_encoder_is_used_with_the_statistics_that_it_has():
    encoder = image_encoder()
    estimate_statistics(encoder, [lambda: encoder(image_episode(seed=9).query_x)])
    learner, episode = make_learner(encoder), image_episode()
    torch.testing.assert_close(
        learner.train().episode_loss(episode).predictions,
        literal_answers(learner, episode),
        rtol=1e-9,
        atol=1e-11,
    )


def test_with_the_true_gradient_for_a_synthetic_one_a_step_descends_the_queries_loss():
    learner, episode = make_learner(num_steps=1), feature_episode()

    class TrueGradient(nn.Module):
        def forward(self, logits: Tensor) -> Tensor:
            return logits.softmax(dim=1) - one_hot(episode.query_y, 3)

    learner.synthetic_gradient = TrueGradient()
    theta = torch.randn(3, 9).double().requires_grad_()
    queries = torch.nn.functional.normalize(episode.query_x, dim=1)
    loss = cross_entropy(learner.logits(theta, queries), episode.query_y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, theta)
    torch.testing.assert_close(
        learner.refine(theta, queries), theta - 0.1 * gradient, rtol=1e-10, atol=1e-12
    )


def test_it_starts_as_cosine_similarity_to_class_means_times_ten():
    learner, episode = SIB(Passed((9,)), 3, transductive=False).double(), feature_episode()
    answers = learner.adapt(episode.support_x, episode.support_y)(episode.query_x)
    for query, scores in zip(episode.query_x, answers, strict=True):
        for label in range(3):
            examples = episode.support_x[episode.support_y == label]
            mean = sum(f / f.norm() for f in examples)
            torch.testing.assert_close(scores[label], 10 * cosine_similarity(query, mean, dim=0))


def test_without_steps_transductive_or_not_is_the_same():
    episode = feature_episode()
    answers = [
        make_learner(num_steps=0, transductive=together).episode_loss(episode).predictions
        for together in (False, True)
    ]
    assert torch.equal(*answers)
    assert not make_learner(num_steps=0, transductive=True).transductive
    assert make_learner(num_steps=1).transductive


def test_steps_let_the_queries_change_each_other_s_answers():
    learner, episode = make_learner().eval(), feature_episode()
    predict = learner.adapt(episode.support_x, episode.support_y)
    together, fewer = predict(episode.query_x), predict(episode.query_x[:6])
    assert not torch.isclose(together[:6], fewer).any()


def test_one_query_can_be_answered():
    learner, episode = make_learner().eval(), feature_episode()
    assert learner.adapt(episode.support_x, episode.support_y)(episode.query_x[:1]).shape == (1, 3)


@given(order=st.permutations(range(12)), length=st.floats(0.01, 100.0))
@settings(deadline=None, max_examples=20)
def test_neither_the_order_of_queries_nor_the_length_of_features_matters(order, length):
    learner, episode = make_learner().eval(), feature_episode()
    predict = learner.adapt(length * episode.support_x, episode.support_y)
    answers = predict(episode.query_x[order] * torch.linspace(1, length, 12).double()[:, None])
    expected = learner.adapt(episode.support_x, episode.support_y)(episode.query_x)
    torch.testing.assert_close(answers, expected[order], rtol=1e-8, atol=1e-10)


def test_the_encoder_stays_as_it_was_given_in_training_too():
    encoder = image_encoder()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    learner = make_learner(encoder).train()
    assert not has_running_statistics(learner)
    estimate_statistics(learner, [lambda: learner.episode_loss(image_episode())])
    learner.episode_loss(image_episode()).loss.backward()
    assert not any(module.training for module in encoder.modules())
    assert all(p.grad is None for p in encoder.parameters())
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert not any(name.startswith("encoder") for name, _ in learned_parameters(learner))
    assert capture_buffers(learner).keys() == {f"encoder.{n}" for n, _ in encoder.named_buffers()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": -1}, "num_steps: expected 0 or more, got -1"),
        ({"num_steps": 3, "transductive": False}, "num_steps: 3 steps on the queries need"),
        ({"lr": 0.0}, "lr: expected a positive finite number, got 0.0"),
        ({"lr": float("inf")}, "lr: expected a positive finite number, got inf"),
        ({"hidden_size": 0}, "hidden_size: expected 1 or more, got 0"),
    ],
)
def test_an_option_out_of_range_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        SIB(Passed((9,)), 3, **options)


@pytest.mark.parametrize("value", [False, 2.0, "3"])
def test_steps_are_counted_in_whole_numbers(value):
    with pytest.raises(TypeError, match="num_steps: expected a whole number"):
        SIB(Passed((9,)), 3, num_steps=value)
