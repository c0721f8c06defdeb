"""Matching networks against the paper's equations, written with loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.episodic.matching import MatchingNetwork
from algorithms.episodic.metric import log_sums
from algorithms.models.passed import Passed
from algorithms.types import Episode
from tests.algorithms.episodes import image_encoder, image_episode
from tests.algorithms.metric_oracles import close, draw_features, shots


def label_law(support, labels, num_ways, query, scale=1.0):
    """P(y | x̂, S) of equation 1, with the attention of section 2.1.1: [Q, N]."""
    table = torch.zeros(len(query), num_ways, dtype=torch.float64)
    for q, feature in enumerate(query):
        weights = [
            math.exp(scale * float(feature @ g) / (float(feature.norm()) * float(g.norm())))
            for g in support
        ]
        for weight, label in zip(weights, labels.tolist(), strict=True):
            table[q, label] += weight / sum(weights)
    return table


def lstm(x, h, c, w_x, w_h, b_x, b_h):
    """Hochreiter and Schmidhuber's cell as Sutskever et al. have it; gates i, f, g, o."""
    i, f, g, o = (w_x @ x + b_x + w_h @ h + b_h).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def support_in_context(support, network):
    """Appendix A.2, example by example."""
    size, outputs = support.shape[1], []
    for suffix, order in (("", range(len(support))), ("_reverse", reversed(range(len(support))))):
        weights = [getattr(network, f"{kind}_l0{suffix}")
                   for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]  # fmt: skip
        h = c = torch.zeros(size, dtype=torch.float64)
        states = {}
        for i in order:
            h, c = lstm(support[i], h, c, *weights)
            states[i] = h
        outputs.append(states)
    return torch.stack([outputs[0][i] + outputs[1][i] + x for i, x in enumerate(support)])


def query_in_context(feature, support, cell, num_steps):
    """Appendix A.1, equations 3 to 6, with one matrix for the state [h, r], as written there."""
    size = len(feature)
    w_x, w_r = cell.weight_ih[:, :size], cell.weight_ih[:, size:]
    w_state = torch.cat([cell.weight_hh, w_r], dim=1)
    h, c = feature, torch.zeros(size, dtype=torch.float64)
    for _ in range(num_steps):
        weights = [math.exp(float(h @ g)) for g in support]
        r = sum(w / sum(weights) * g for w, g in zip(weights, support, strict=True))
        output, c = lstm(feature, torch.cat([h, r]), c, w_x, w_state, cell.bias_ih, cell.bias_hh)
        h = output + feature
    return h


@settings(deadline=None, max_examples=20)
@given(num_shots=shots, seed=st.integers(0, 1000), scale=st.floats(0.5, 100))
def test_beliefs_are_the_attention_that_falls_on_each_class(num_shots, seed, scale):
    support, labels, query = draw_features(num_shots, 3, 5, seed=seed)
    learner = MatchingNetwork(Passed((5,)), 5, scale=scale)
    expected = label_law(support, labels, len(num_shots), query, scale)
    close(learner.adapt(support, labels)(query).softmax(1), expected)


def full_context_learner(num_steps=3, size=5):
    torch.manual_seed(4)
    return MatchingNetwork(
        Passed((size,)), 3, full_context=True, num_processing_steps=num_steps
    ).double()


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_full_context_embeddings_are_those_of_the_appendix(num_steps):
    learner = full_context_learner(num_steps)
    support, labels, query = draw_features([2, 1, 3], 4, 5)
    with torch.no_grad():
        g = support_in_context(support, learner.context.support_lstm)
        f = [query_in_context(x, g, learner.context.query_lstm, num_steps) for x in query]
        answers = learner.adapt(support, labels)(query)
    close(answers.softmax(1), label_law(g, labels, 3, f))


def test_loss_is_minus_the_log_belief_in_the_true_label():
    support, labels, query = draw_features([2, 1, 3], 4, 5)
    query_y = torch.tensor([0, 2, 1, 1])
    result = MatchingNetwork(Passed((5,)), 3).episode_loss(
        Episode(support, labels, query, query_y, 3)
    )
    law = label_law(support, labels, 3, query)
    expected = -sum(math.log(law[q, k]) for q, k in enumerate(query_y.tolist())) / 4
    assert result.loss.item() == pytest.approx(expected, rel=1e-10)


def test_full_context_depends_on_order_and_says_so():
    learner = full_context_learner()
    support, labels, query = draw_features([2, 1, 3], 4, 5)
    there = learner.adapt(support, labels)(query)
    back = learner.adapt(support.flip(0), labels.flip(0))(query)
    assert (there - back).abs().max() > 1e-6
    assert learner.ordered
    assert not MatchingNetwork(Passed((5,)), 3).ordered


def test_full_context_gives_each_query_an_answer_of_its_own():
    learner = full_context_learner()
    support, labels, query = draw_features([2, 1, 3], 4, 5)
    predict = learner.adapt(support, labels)
    close(torch.cat([predict(one[None]) for one in query]), predict(query))


def test_full_context_does_not_read_labels():
    learner = full_context_learner()
    support, labels, query = draw_features([2, 1, 3], 4, 5)
    new = torch.tensor([2, 0, 1])
    close(learner.adapt(support, new[labels])(query)[:, new], learner.adapt(support, labels)(query))


def test_gradients_of_full_context_reach_every_parameter_and_are_right():
    learner = MatchingNetwork(image_encoder(side=4), 3, full_context=True).double()
    episode = image_episode(side=4)
    names, values = zip(*learner.named_parameters(), strict=True)

    def loss(*values):
        held = dict(zip(names, values, strict=True))
        return torch.func.functional_call(_Loss(learner), {f"learner.{k}": v for k, v in
                                                           held.items()}, episode)  # fmt: skip

    assert torch.autograd.gradcheck(loss, values, fast_mode=True)
    gradients = torch.autograd.grad(loss(*values), values)
    assert all(gradient.abs().max() > 0 for gradient in gradients)


class _Loss(torch.nn.Module):
    def __init__(self, learner):
        super().__init__()
        self.learner = learner

    def forward(self, episode):
        return self.learner.episode_loss(episode).loss


def test_full_context_works_under_autocast():
    learner = full_context_learner().float()
    support, labels, query = draw_features([2, 1, 3], 4, 5)
    expected = learner.adapt(support.float(), labels)(query.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(learner.adapt(support.float(), labels)(query.float()), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"full_context": "yes"}, "full_context: expected true or false, got 'yes'"),
        ({"num_processing_steps": 0}, "num_processing_steps: expected 1 or more, got 0"),
        ({"num_processing_steps": 1.5}, "num_processing_steps: expected a whole number, got 1.5"),
        ({"scale": -1}, "scale: expected a positive finite number, got -1"),
    ],
)
def test_a_bad_option_is_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        MatchingNetwork(Passed((5,)), 3, **options)


@settings(deadline=None, max_examples=20)
@given(num_shots=shots, seed=st.integers(0, 1000), spread=st.floats(0.1, 1e4))
def test_log_sums_keep_classes_far_below_the_largest(num_shots, seed, spread):
    """With its gradient, against a sum class by class; exp(−1e4) is zero in float64."""
    _, labels, draws = draw_features(num_shots, 3, sum(num_shots), seed=seed)
    logits = (spread * draws).requires_grad_()
    found = log_sums(logits, labels, len(num_shots))
    classes = [logits[:, labels == k].logsumexp(dim=1) for k in range(len(num_shots))]
    expected = torch.stack(classes, dim=1)
    close(found, expected)
    weights = torch.randn_like(found)
    close(*(torch.autograd.grad((x * weights).sum(), logits)[0] for x in (found, expected)))
