"""Prototypical networks against the paper's equations, written with loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.episodic.prototypical import PrototypicalNetwork, squared_distances
from algorithms.models.passed import Passed
from algorithms.types import Episode
from tests.algorithms.episodes import image_encoder, image_episode
from tests.algorithms.metric_oracles import close, draw_features, shots


def distances_by_hand(support, labels, num_ways, query, distance):
    """Equation 1 and the distances of equation 2, one pair at a time."""
    table = torch.zeros(len(query), num_ways, dtype=torch.float64)
    for k in range(num_ways):
        examples = [support[i] for i in range(len(support)) if labels[i] == k]
        prototype = sum(examples) / len(examples)
        for q, feature in enumerate(query):
            if distance == "euclidean":
                table[q, k] = sum((a - b) ** 2 for a, b in zip(feature, prototype, strict=True))
            else:
                dot = sum(a * b for a, b in zip(feature, prototype, strict=True))
                sizes = [math.sqrt(sum(a * a for a in v)) for v in (feature, prototype)]
                table[q, k] = 1 - dot / (sizes[0] * sizes[1])
    return table


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@settings(deadline=None, max_examples=20)
@given(num_shots=shots, seed=st.integers(0, 1000), scale=st.floats(0.1, 20))
def test_scores_are_minus_the_distances_to_the_class_means(distance, num_shots, seed, scale):
    support, labels, query = draw_features(num_shots, 3, 5, seed=seed)
    learner = PrototypicalNetwork(Passed((5,)), 5, distance=distance, scale=scale)
    expected = distances_by_hand(support, labels, len(num_shots), query, distance)
    close(learner.adapt(support, labels)(query), -scale * expected)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_loss_is_algorithm_1(distance):
    """J is the sum over queries of d(f, c_k) + log Σ exp(−d(f, c_k')), over their number."""
    support, labels, query = draw_features([2, 1, 3], 4, 5)
    query_y = torch.tensor([0, 2, 1, 1])
    learner = PrototypicalNetwork(Passed((5,)), 3, distance=distance)
    table = distances_by_hand(support, labels, 3, query, distance)
    loss = 0.0
    for q, k in enumerate(query_y.tolist()):
        loss += (table[q, k].item() + math.log(sum(math.exp(-d) for d in table[q].tolist()))) / 4
    result = learner.episode_loss(Episode(support, labels, query, query_y, 3))
    assert result.loss.item() == pytest.approx(loss, rel=1e-10)


def test_euclidean_prototypes_are_the_linear_model_of_section_2_4():
    """Weights 2 c_k and biases −‖c_k‖²: the same beliefs."""
    support, labels, query = draw_features([2, 2, 2], 6, 5)
    means = torch.stack([support[labels == k].mean(0) for k in range(3)])
    linear = query @ (2 * means).T - means.square().sum(1)
    scores = PrototypicalNetwork(Passed((5,)), 3).adapt(support, labels)(query)
    close(scores.softmax(1), linear.softmax(1))


def test_distances_far_from_zero_keep_their_digits():
    """The centres' mean is taken off first; without that, float32 would leave nothing here."""
    support, _, query = draw_features([1, 1, 1], 6, 5)
    offset = 1e3
    near = squared_distances(query.float() + offset, support.float() + offset)
    exact = (query[:, None] - support).square().sum(2)
    torch.testing.assert_close(near.double(), exact, rtol=1e-3, atol=1e-3)


def test_moving_all_features_alike_changes_no_score():
    support, labels, query = draw_features([1, 3], 6, 5)
    learner, shift = PrototypicalNetwork(Passed((5,)), 2), torch.randn(5, dtype=torch.float64)
    close(learner.adapt(support + shift, labels)(query + shift),
          learner.adapt(support, labels)(query))  # fmt: skip


def test_training_normalises_support_set_and_queries_as_one_batch():
    learner, episode = PrototypicalNetwork(image_encoder(), 3).train(), image_episode()
    features = image_encoder().train()(torch.cat([episode.support_x, episode.query_x])).flatten(1)
    support, query = features.tensor_split([len(episode.support_x)])
    expected = -distances_by_hand(support, episode.support_y, 3, query, "euclidean")
    close(learner.episode_loss(episode).predictions.detach(), expected.detach())


def test_training_answers_as_adapting_does_and_only_the_loss_moves_running_statistics():
    learner, episode = PrototypicalNetwork(image_encoder(), 3).train(), image_episode()
    before = learner.encoder[0].norm.running_mean.clone()
    answers = learner.adapt(episode.support_x, episode.support_y)(episode.query_x)
    assert torch.equal(learner.encoder[0].norm.running_mean, before)
    close(answers, learner.episode_loss(episode).predictions)
    assert not torch.equal(learner.encoder[0].norm.running_mean, before)


def test_transductive_evaluation_is_that_of_training():
    episode = image_episode()
    training = PrototypicalNetwork(image_encoder(), 3).train().episode_loss(episode)
    learner = PrototypicalNetwork(image_encoder(), 3, transductive=True).eval()
    close(learner.adapt(episode.support_x, episode.support_y)(episode.query_x),
          training.predictions)  # fmt: skip
    close(learner.episode_loss(episode).loss, training.loss)
    assert torch.equal(learner.encoder[0].norm.running_mean, torch.zeros(4).double())


def test_inductive_evaluation_scores_episodes_as_adapting_does():
    episode, learner = image_episode(), PrototypicalNetwork(image_encoder(), 3).eval()
    close(learner.episode_loss(episode).predictions,
          learner.adapt(episode.support_x, episode.support_y)(episode.query_x))  # fmt: skip


def test_more_ways_than_it_was_made_for():
    episode = image_episode(num_ways=7)
    learner = PrototypicalNetwork(image_encoder(), 3)
    assert learner.episode_loss(episode).predictions.shape == (28, 7)


def test_distances_are_taken_in_float32_under_autocast():
    support, labels, query = (t.float() if t.is_floating_point() else t
                              for t in draw_features([1, 2], 4, 5))  # fmt: skip
    learner = PrototypicalNetwork(Passed((5,)), 2)
    expected = learner.adapt(support, labels)(query)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(learner.adapt(support, labels)(query), expected)
        assert learner.adapt(support.bfloat16(), labels)(query.bfloat16()).dtype is torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": "manhattan"}, "distance: expected one of euclidean, cosine, got 'manhattan'"),
        ({"scale": 0.0}, "scale: expected a positive finite number, got 0.0"),
        ({"scale": math.inf}, "scale: expected a positive"),
        ({"scale": "big"}, "scale: expected a number, got 'big'"),
        ({"scale": True}, "scale: expected a number, got True"),
    ],
)
def test_a_bad_option_is_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        PrototypicalNetwork(Passed((5,)), 3, **options)


@pytest.mark.parametrize("transductive", [True, False])
def test_images_of_the_wrong_size_are_named(transductive):
    learner = PrototypicalNetwork(image_encoder(), 3, transductive=transductive).eval()
    small, right = image_episode(), image_episode(side=12)
    with pytest.raises(
        ValueError, match=r"query_x: expected shape \[examples, 1, 8, 8\], got \[12, 1, 12, 12\]"
    ):
        learner.adapt(small.support_x, small.support_y)(right.query_x)
    with pytest.raises(ValueError, match=r"support_x: expected shape \[examples, 1, 8, 8\]"):
        learner.adapt(right.support_x, right.support_y)(right.query_x)
