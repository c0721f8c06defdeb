"""Relation networks against the paper's figure 2, pair by pair."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import batch_norm, conv2d, max_pool2d, relu

from algorithms.episodic.relation import RelationNetwork
from algorithms.models.conv import ConvEncoder
from algorithms.models.passed import Passed
from algorithms.types import Episode
from tests.algorithms.episodes import image_encoder, image_episode
from tests.algorithms.metric_oracles import close, draw_features, shots


def make_learner(channels=3, side=5, seed=0):
    torch.manual_seed(seed)
    encoder = Passed((channels, side, side))
    learner = RelationNetwork(encoder, 3, num_filters=6, hidden_size=4).double()
    for block in (learner.pair_block, learner.second_block):
        torch.nn.init.uniform_(block.norm.weight, 0.5, 2)
        torch.nn.init.normal_(block.norm.bias)
    return learner


def relation_scores(learner, support, labels, num_ways, query):
    """r of equation 1 with explicitly concatenated maps, all pairs as one batch: [Q, N]."""
    pairs = []
    for feature in query:
        for k in range(num_ways):
            summed = sum(support[i] for i in range(len(support)) if labels[i] == k)
            pairs.append(torch.cat([summed, feature]))
    maps = torch.stack(pairs)
    for block in (learner.pair_block, learner.second_block):
        maps = conv2d(maps, block.conv.weight, block.conv.bias, padding=1)
        norm = block.norm
        maps = relu(batch_norm(maps, None, None, norm.weight, norm.bias, training=True))
        if maps.shape[2] > 1:
            maps = max_pool2d(maps, 2)
    first, last = learner.judge[1], learner.judge[3]
    hidden = relu(maps.flatten(1) @ first.weight.T + first.bias)
    return torch.sigmoid(hidden @ last.weight.T + last.bias).view(len(query), num_ways)


@pytest.mark.parametrize("side", [1, 2, 3, 5])
@settings(deadline=None, max_examples=10)
@given(num_shots=shots, seed=st.integers(0, 1000))
def test_scores_and_loss_are_those_of_the_paper(side, num_shots, seed):
    support, labels, query = draw_features(num_shots, 4, 3, side, side, seed=seed)
    learner, query_y = make_learner(side=side, seed=seed), torch.tensor([0, 1, 1, 0])
    num_ways = len(num_shots)
    expected = relation_scores(learner, support, labels, num_ways, query)
    result = learner.episode_loss(Episode(support, labels, query, query_y, num_ways))
    close(result.predictions.exp(), expected)
    squares = [
        (expected[q, k].item() - (query_y[q] == k).item()) ** 2
        for q in range(4)
        for k in range(num_ways)
    ]
    assert result.loss.item() == pytest.approx(sum(squares) / len(squares), rel=1e-10)


def test_beliefs_share_out_in_proportion_to_the_relation_scores():
    support, labels, query = draw_features([1, 2, 1], 4, 3, 5, 5)
    learner = make_learner()
    scores = relation_scores(learner, support, labels, 3, query)
    beliefs = learner.train().adapt(support, labels)(query).softmax(1)
    close(beliefs, scores / scores.sum(1, keepdim=True))


def test_transductive_evaluation_normalises_pairs_by_the_episode_too():
    episode = image_episode(side=12)
    torch.manual_seed(0)
    learner = RelationNetwork(image_encoder(side=12), 3, transductive=True).double()
    learner.eval()
    buffers = {name: b.clone() for name, b in learner.named_buffers()}
    answers = learner.adapt(episode.support_x, episode.support_y)(episode.query_x)
    close(learner.episode_loss(episode).predictions, answers)
    assert all(torch.equal(buffers[name], b) for name, b in learner.named_buffers())
    close(learner.train().episode_loss(episode).predictions, answers)


@pytest.mark.parametrize(("pooled", "size"), [(2, 64), (4, 64), (1, 64 * 9)])
def test_maps_of_every_size_reach_the_judge(pooled, size):
    """28 → 14 → 7 pixels with the paper's encoder, then 3 and 1 in g: 64 numbers, as there."""
    encoder = ConvEncoder(num_pooled_blocks=pooled)
    learner = RelationNetwork(encoder, 5)
    assert learner.judge[1].in_features == size
    result = learner.episode_loss(image_episode(5, 1, 2, side=28, dtype=torch.float32))
    assert torch.isfinite(result.loss)


def test_autocast_stays_close_to_float32():
    torch.manual_seed(0)
    learner = RelationNetwork(ConvEncoder(num_pooled_blocks=2), 5)
    episode = image_episode(5, 2, 3, side=28, dtype=torch.float32)
    full = learner.episode_loss(episode)
    with torch.autocast("cpu", torch.bfloat16):
        half = learner.episode_loss(episode)
    assert half.predictions.dtype is torch.float32
    assert math.isclose(half.loss.item(), full.loss.item(), rel_tol=0.02)


def test_features_that_are_no_maps_are_refused():
    with pytest.raises(ValueError, match=r"encoder: .*feature maps .*\[5\]"):
        RelationNetwork(Passed((5,)), 3)


@pytest.mark.parametrize("option", ["num_filters", "hidden_size"])
def test_a_bad_option_is_refused(option):
    with pytest.raises(ValueError, match=f"{option}: expected 1 or more, got 0"):
        RelationNetwork(Passed((3, 5, 5)), 3, **{option: 0})
    with pytest.raises(TypeError, match=f"{option}: expected a whole number, got 2.0"):
        RelationNetwork(Passed((3, 5, 5)), 3, **{option: 2.0})
