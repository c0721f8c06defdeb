"""Conditional neural processes, point by point; what averaging means for their answers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal
from torch.nn.functional import cross_entropy, softplus

from algorithms.episodic.conditional_process import ConditionalClassifier, ConditionalRegressor
from algorithms.types import Episode
from tests.algorithms.episodes import (
    image_encoder,
    image_episode,
    sinusoid_episode,
    vector_encoder,
)


def regressor(**options) -> ConditionalRegressor:
    torch.manual_seed(2)
    return ConditionalRegressor(vector_encoder(), 1, representation_size=8, **options).double()


def classifier(**options) -> ConditionalClassifier:
    torch.manual_seed(2)
    encoder = image_encoder(batch_norm=False)
    return ConditionalClassifier(encoder, 3, representation_size=8, **options).double()


def test_the_regression_s_loss_is_the_mean_surprise_at_every_point_of_the_episode():
    learner, episode = regressor(), sinusoid_episode()
    points = [
        learner.point(torch.cat([learner.encoder(x), y]))
        for x, y in zip(episode.support_x, episode.support_y, strict=True)
    ]
    representation = sum(points) / len(points)
    surprise, means = [], []
    xs = torch.cat([episode.support_x, episode.query_x])
    for x, y in zip(xs, torch.cat([episode.support_y, episode.query_y]), strict=True):
        mean, omega = learner.decoder(torch.cat([learner.encoder(x), representation]))
        surprise.append(-Normal(mean, 0.1 + 0.9 * softplus(omega)).log_prob(y[0]))
        means.append(mean)
    result = learner.episode_loss(episode)
    torch.testing.assert_close(result.loss, sum(surprise) / len(surprise), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        result.predictions[:, 0], torch.stack(means[5:]), rtol=1e-12, atol=1e-14
    )


def test_several_targets_are_independent_gaussians():
    torch.manual_seed(2)
    learner = ConditionalRegressor(vector_encoder(), 2, representation_size=4).double()
    law, targets = torch.randn(6, 4).double(), torch.randn(6, 2).double()
    normal = Normal(law[:, :2], 0.1 + 0.9 * softplus(law[:, 2:]))
    expected = -normal.log_prob(targets).sum(dim=1).mean()
    torch.testing.assert_close(learner._surprise(law, targets), expected, rtol=1e-12, atol=0)


def test_the_classifier_s_representation_is_its_class_means_side_by_side():
    learner, episode = classifier(), image_episode()
    means = []
    for label in range(3):
        images = [
            x for x, y in zip(episode.support_x, episode.support_y, strict=True) if y == label
        ]
        points = [learner.point(learner.encoder(x[None]).flatten()) for x in images]
        means.append(sum(points) / len(points))
    xs = torch.cat([episode.support_x, episode.query_x])
    scores = torch.stack(
        [learner.decoder(torch.cat([learner.encoder(x[None]).flatten(), *means])) for x in xs]
    )
    result = learner.episode_loss(episode)
    targets = torch.cat([episode.support_y, episode.query_y])
    torch.testing.assert_close(result.loss, cross_entropy(scores, targets), rtol=1e-12, atol=0)
    torch.testing.assert_close(result.predictions, scores[6:], rtol=1e-12, atol=1e-14)


@given(copies=st.integers(2, 4), seed=st.integers(0, 50), kind=st.sampled_from(["images", "sine"]))
@settings(deadline=None, max_examples=15)
def test_showing_the_support_set_again_changes_nothing(copies, seed, kind):
    """Averages forget how many they are of."""
    learner = (classifier() if kind == "images" else regressor()).eval()
    episode = image_episode(seed=seed) if kind == "images" else sinusoid_episode(seed=seed)
    once = learner.adapt(episode.support_x, episode.support_y)(episode.query_x)
    shape = [1] * (episode.support_x.ndim - 1)
    again = learner.adapt(
        episode.support_x.repeat(copies, *shape),
        episode.support_y.repeat(copies, *[1] * (episode.support_y.ndim - 1)),
    )(episode.query_x)
    torch.testing.assert_close(once, again, rtol=1e-9, atol=1e-12)


def test_the_regression_s_answer_can_be_of_any_number_of_support_points():
    learner = regressor().eval()
    for shots in (1, 3, 20):
        episode = sinusoid_episode(num_shots=shots)
        assert learner.adapt(episode.support_x, episode.support_y)(episode.query_x).shape == (7, 1)


def test_the_spread_is_learned():
    """On pure noise of deviation 2 the loss falls to that of the right Gaussian, 2.11."""
    learner = regressor().float()
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(300):
        x, y = (torch.randn(64, 1, generator=generator) for _ in range(2))
        optimizer.zero_grad()
        loss = learner.episode_loss(Episode(x[:32], 2 * y[:32], x[32:], 2 * y[32:], 0)).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-50:]) / 50 == pytest.approx(2.11, abs=0.1)


def test_an_option_out_of_range_is_named():
    with pytest.raises(ValueError, match="representation_size: expected 1 or more, got 0"):
        ConditionalRegressor(vector_encoder(), 1, representation_size=0)


X, Y = torch.zeros(4, 1).double(), torch.zeros(4, 1).double()


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X[:0], Y[:0], "support_x: expected examples"),
        (X, Y[:3], r"support_y: expected targets \[4, 1\], got shape \[3, 1\]"),
        (X, Y[:, 0], r"support_y: expected targets \[4, 1\], got shape \[4\]"),
        (X, Y.long(), "support_y: expected floating-point targets, got torch.int64"),
        (X, Y / 0, "support_y: has values that are not finite"),
    ],
)
def test_a_support_set_that_cannot_be_learned_from_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        regressor().eval().adapt(x, y)
