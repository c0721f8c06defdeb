"""Ordinary classification, and what its features are good for on new classes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity, cross_entropy

from algorithms.episodic.classifier import Classifier, CosineHead, fit_logistic_regression
from algorithms.models.passed import Passed
from tests.algorithms.episodes import image_encoder, image_episode


def make_learner(num_classes: int = 3, **options) -> Classifier:
    torch.manual_seed(8)
    return Classifier(image_encoder(), num_classes, **options).double()


def test_the_loss_is_the_output_layer_s_cross_entropy_on_the_queries_alone():
    learner, episode = make_learner().eval(), image_episode()
    scores = learner.encoder(episode.query_x).flatten(1) @ learner.head.weight.T + learner.head.bias
    empty = replace(episode, support_x=episode.support_x[:0], support_y=episode.support_y[:0])
    for given_episode in (episode, empty):
        result = learner.episode_loss(given_episode)
        torch.testing.assert_close(result.predictions, scores)
        torch.testing.assert_close(result.loss, cross_entropy(scores, episode.query_y))


def test_the_cosine_head_s_scores_are_scaled_cosines():
    head, features = CosineHead(5, 4).double(), torch.randn(6, 5).double()
    with torch.no_grad():
        expected = [[10 * cosine_similarity(f, w, dim=0) for w in head.weight] for f in features]
        torch.testing.assert_close(head(features), torch.tensor(expected).double())
    assert make_learner(head="cosine").episode_loss(image_episode()).predictions.shape == (12, 3)


def test_new_classes_are_told_apart_by_cosine_to_their_means():
    learner = Classifier(Passed((9,)), 64).double()
    x, y, queries = (
        torch.randn(8, 9).double(),
        torch.arange(4).repeat(2),
        torch.randn(5, 9).double(),
    )
    scores = learner.adapt(x, y)(queries)
    for q, query in enumerate(queries):
        for label in range(4):
            mean = sum(f / f.norm() for f in x[y == label])
            torch.testing.assert_close(scores[q, label], 10 * cosine_similarity(query, mean, dim=0))


@pytest.mark.parametrize("adaptation", ["class_means", "logistic_regression"])
@given(num_ways=st.integers(2, 7), seed=st.integers(0, 100))
@settings(deadline=None, max_examples=15)
def test_one_example_of_a_new_class_is_recognised_whatever_the_number_of_ways(
    adaptation, num_ways, seed
):
    learner = Classifier(Passed((9,)), 64, adaptation=adaptation).double()
    x = torch.randn(num_ways, 9, generator=torch.Generator().manual_seed(seed)).double()
    with torch.no_grad():
        scores = learner.adapt(x, torch.arange(num_ways))(x)
    assert scores.argmax(dim=1).tolist() == list(range(num_ways))


@given(seed=st.integers(0, 100), penalty=st.floats(0.05, 20.0))
@settings(deadline=None, max_examples=15)
def test_logistic_regression_finds_the_minimum(seed, penalty):
    """The problem is strictly convex but for a shift of b: where the gradient is zero is it."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.nn.functional.normalize(
        torch.randn(12, 5, generator=generator).double(), dim=1
    )
    labels = torch.arange(3).repeat(4)
    weight, bias = fit_logistic_regression(features, labels, 3, penalty)
    residual = (features @ weight.T + bias).softmax(dim=1) - torch.eye(3).double()[labels]
    torch.testing.assert_close(
        residual.T @ features + penalty * weight, torch.zeros(3, 5).double(), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(residual.sum(dim=0), torch.zeros(3).double(), rtol=0, atol=1e-6)


def test_an_empty_support_set_stands_for_the_meta_training_classes():
    learner, episode = make_learner(num_classes=3).eval(), image_episode()
    scores = learner.adapt(episode.support_x[:0], episode.support_y[:0])(episode.query_x)
    torch.testing.assert_close(scores, learner.episode_loss(episode).predictions)


def test_an_episode_whose_labels_are_not_those_of_all_classes_is_refused():
    with pytest.raises(ValueError, match="all 64 meta-training classes, got an episode of 3 ways"):
        make_learner(num_classes=64).episode_loss(image_episode())


def test_transductive_answers_use_the_statistics_of_the_queries():
    learner, episode = make_learner(transductive=True).eval(), image_episode()
    predict = learner.adapt(episode.support_x, episode.support_y)
    together, alone = predict(episode.query_x)[:1], predict(episode.query_x[:1])
    assert not torch.isclose(together, alone).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "quadratic"}, "head: expected linear or cosine, got 'quadratic'"),
        ({"adaptation": "none"}, "adaptation: expected class_means or logistic_regression"),
        ({"penalty": 0.0}, "penalty: expected a positive finite number, got 0.0"),
    ],
)
def test_an_option_out_of_range_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_learner(**options)
