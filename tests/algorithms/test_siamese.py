"""Siamese networks against the paper's similarity and loss, pair by pair."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.episodic.siamese import SiameseNetwork
from algorithms.models.passed import Passed
from algorithms.types import Episode
from tests.algorithms.metric_oracles import close, draw_features, shots


def make_learner(balanced=True, seed=0):
    torch.manual_seed(seed)
    return SiameseNetwork(Passed((5,)), 3, balanced=balanced).double()


def belief(learner, first, second):
    """p = σ(Σ_j α_j |f_j − f′_j| + β)."""
    weights, bias = learner.similarity.weight[0].tolist(), learner.similarity.bias.item()
    total = bias
    for weight, a, b in zip(weights, first.tolist(), second.tolist(), strict=True):
        total += weight * abs(a - b)
    return 1 / (1 + math.exp(-total))


@settings(deadline=None, max_examples=20)
@given(num_shots=shots, seed=st.integers(0, 1000))
def test_a_class_score_is_the_log_of_its_examples_mean_belief(num_shots, seed):
    support, labels, query = draw_features(num_shots, 3, 5, seed=seed)
    learner = make_learner(seed=seed)
    expected = torch.zeros(3, len(num_shots), dtype=torch.float64)
    for q, feature in enumerate(query):
        for k in range(len(num_shots)):
            beliefs = [belief(learner, feature, x) for x in support[labels == k]]
            expected[q, k] = math.log(sum(beliefs) / len(beliefs))
    close(learner.adapt(support, labels)(query).detach(), expected)


@pytest.mark.parametrize("balanced", [True, False])
@settings(deadline=None, max_examples=20)
@given(num_shots=shots, seed=st.integers(0, 1000))
def test_loss_is_the_cross_entropy_of_all_pairs_of_the_episode(balanced, num_shots, seed):
    support, labels, query = draw_features(num_shots, 4, 5, seed=seed)
    query_y = torch.tensor([0, 1, 1, 0])
    learner = make_learner(balanced, seed)
    examples = [*zip(support, labels.tolist(), strict=True),
                *zip(query, query_y.tolist(), strict=True)]  # fmt: skip
    losses = {True: [], False: []}
    for (first, a), (second, b) in combinations(examples, 2):
        p = belief(learner, first, second)
        losses[a == b].append(-math.log(p if a == b else 1 - p))
    kinds = [losses[True], losses[False]] if balanced else [losses[True] + losses[False]]
    expected = sum(sum(kind) / len(kind) for kind in kinds) / len(kinds)
    episode = Episode(support, labels, query, query_y, len(num_shots))
    assert learner.episode_loss(episode).loss.item() == pytest.approx(expected, rel=1e-10)


def test_one_shot_answers_with_the_class_whose_example_is_most_alike():
    learner = make_learner()
    support, labels, query = draw_features([1] * 5, 8, 5)
    answers = learner.adapt(support, labels)(query).argmax(1)
    for q, feature in enumerate(query):
        beliefs = [belief(learner, feature, x) for x in support]
        assert answers[q] == labels[beliefs.index(max(beliefs))]


def test_similarity_is_symmetric_and_one_of_a_kind_does_not_break_the_loss():
    learner = make_learner()
    support, labels, query = draw_features([2], 3, 5)
    there = learner._pair_logits(support[:, None], query)
    close(there, learner._pair_logits(query[:, None], support).T)
    result = learner.episode_loss(Episode(support, labels, query, torch.zeros(3).long(), 1))
    assert torch.isfinite(result.loss)


def test_pairs_are_compared_in_float32_under_autocast():
    learner = make_learner().float()
    support, labels, query = (t.float() if t.is_floating_point() else t
                              for t in draw_features([1, 2], 4, 5))  # fmt: skip
    episode = Episode(support, labels, query, torch.tensor([0, 1, 1, 0]), 2)
    expected = learner.episode_loss(episode)
    with torch.autocast("cpu", torch.bfloat16):
        result = learner.episode_loss(episode)
    assert torch.equal(result.loss, expected.loss)
    assert torch.equal(result.predictions, expected.predictions)


def test_a_bad_option_is_refused():
    with pytest.raises(TypeError, match="balanced: expected true or false, got 1"):
        SiameseNetwork(Passed((5,)), 3, balanced=1)
