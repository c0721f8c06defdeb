"""What every learner of episodes promises; runs on each line of EPISODE_LEARNERS."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from algorithms import EPISODE_LEARNERS, EpisodeLearner, ParameterVector, capture_buffers
from algorithms.baselines import initial_parameters
from algorithms.episodic.learner import check_support
from algorithms.types import Episode
from tests.algorithms.episodes import (
    image_encoder,
    image_episode,
    sinusoid_episode,
    vector_encoder,
)

KINDS = {
    "classification": (image_encoder, image_episode, 3),
    "regression": (vector_encoder, sinusoid_episode, 1),
}
CASES = [(name, kind) for name, maker in EPISODE_LEARNERS.items() for kind in sorted(maker.kinds)]
# Whose paper takes part of the gradient as zero; with these options nothing is left out.
WHOLE_GRADIENT = {"learned_optimizer": {"first_order": False}}


def make_learner(name: str, kind: str = "classification", **options) -> EpisodeLearner:
    make_encoder, _, num_outputs = KINDS[kind]
    if kind == "regression" and len(EPISODE_LEARNERS[name].kinds) > 1:
        options["regression"] = True
    torch.manual_seed(1)
    return EPISODE_LEARNERS[name](make_encoder(), num_outputs, **options).double()


def make_episode(kind: str, seed: int = 0) -> Episode:
    return KINDS[kind][1](seed=seed)


def answers(learner: EpisodeLearner, episode: Episode) -> Tensor:
    return learner.adapt(episode.support_x, episode.support_y)(episode.query_x).detach()


@pytest.mark.parametrize(("name", "kind"), CASES)
class TestEveryLearner:
    def test_loss_is_a_finite_scalar_and_there_is_an_answer_for_each_query(self, name, kind):
        learner, episode = make_learner(name, kind), make_episode(kind)
        result = learner.episode_loss(episode)
        assert result.loss.shape == ()
        assert torch.isfinite(result.loss)
        assert result.predictions.shape == (len(episode.query_x), KINDS[kind][2])

    def test_the_loss_reaches_every_parameter(self, name, kind):
        learner = make_learner(name, kind)
        vector = ParameterVector(learner, dtype=torch.float64)
        for seed in range(3):
            learner.episode_loss(make_episode(kind, seed)).loss.backward()
        assert vector.is_bound(learner)
        for slot in vector.layout:
            assert vector.grads[slot.offset : slot.end].abs().max() > 0, slot.name

    def test_the_gradient_of_the_loss_is_right(self, name, kind):
        """Against finite differences along random directions."""
        learner = make_learner(name, kind, **WHOLE_GRADIENT.get(name, {}))
        episode = make_episode(kind)
        vector = ParameterVector(learner, dtype=torch.float64)
        state = torch.random.get_rng_state()

        def loss() -> Tensor:
            torch.random.set_rng_state(state)
            return learner.episode_loss(episode).loss

        loss().backward()
        gradient, start = vector.grads.clone(), vector.values.clone()
        generator = torch.Generator().manual_seed(3)
        for _ in range(3):
            way = torch.randn(vector.size, generator=generator, dtype=torch.float64)
            way /= way.norm()
            step = 1e-6
            sides = []
            for sign in (1, -1):
                vector.load(start + sign * step * way)
                sides.append(loss().detach())
            vector.load(start)
            expected = (sides[0] - sides[1]) / (2 * step)
            torch.testing.assert_close(gradient @ way, expected, rtol=2e-5, atol=1e-8)

    def test_adapting_leaves_the_learner_as_it_was_and_repeats_bitwise(self, name, kind):
        learner, episode = make_learner(name, kind).eval(), make_episode(kind)
        before = {k: v.clone() for k, v in learner.state_dict().items()}
        first, second = answers(learner, episode), answers(learner, episode)
        assert torch.equal(first, second)
        assert all(torch.equal(before[k], v) for k, v in learner.state_dict().items())
        assert all(p.grad is None for p in learner.parameters())

    def test_queries_are_answered_one_by_one_unless_transductive(self, name, kind):
        learner, episode = make_learner(name, kind, transductive=False).eval(), make_episode(kind)
        predict = learner.adapt(episode.support_x, episode.support_y)
        together = predict(episode.query_x).detach()
        alone = torch.cat([predict(query[None]).detach() for query in episode.query_x])
        torch.testing.assert_close(together, alone)

    def test_the_order_of_the_support_set_does_not_matter(self, name, kind):
        learner, episode = make_learner(name, kind).eval(), make_episode(kind)
        if learner.ordered:
            pytest.skip(f"{name} reads the support set in order")
        order = torch.randperm(len(episode.support_x), generator=torch.Generator().manual_seed(5))
        shuffled = replace(
            episode, support_x=episode.support_x[order], support_y=episode.support_y[order]
        )
        torch.testing.assert_close(answers(learner, shuffled), answers(learner, episode))

    def test_exchanging_labels_exchanges_scores(self, name, kind):
        if kind == "regression":
            pytest.skip("targets are no labels")
        learner, episode = make_learner(name, kind).eval(), make_episode(kind)
        if not learner.relabels:
            pytest.skip(f"{name} has parameters of its own for each label")
        new = torch.tensor([2, 0, 1])
        renamed = replace(episode, support_y=new[episode.support_y])
        torch.testing.assert_close(answers(learner, renamed)[:, new], answers(learner, episode))

    def test_its_start_can_be_drawn_from_a_seed(self, name, kind):
        learner = make_learner(name, kind)
        first, same, other = (initial_parameters(learner, seed) for seed in (0, 0, 1))
        assert torch.equal(first, same)
        assert not torch.equal(first, other)

    def test_it_learns(self, name, kind):
        """Some hundred steps on one small family of episodes must lower the loss."""
        learner = make_learner(name, kind).float()
        optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
        losses = []
        for step in range(120):
            episode = as_float32(make_episode(kind, seed=step % 4))
            optimizer.zero_grad()
            loss = learner.episode_loss(episode).loss
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert sum(losses[-20:]) < 0.9 * sum(losses[:20])

    def test_bfloat16_in_the_encoder_changes_little(self, name, kind):
        learner, episode = make_learner(name, kind).float(), as_float32(make_episode(kind))
        exact = learner.episode_loss(episode).loss.detach()
        with torch.autocast("cpu", torch.bfloat16):
            result = learner.episode_loss(episode)
        result.loss.backward()
        assert result.loss.dtype is torch.float32
        torch.testing.assert_close(result.loss.detach(), exact, rtol=0.05, atol=0.05)
        assert all(torch.isfinite(p.grad).all() for p in learner.parameters() if p.requires_grad)

    def test_a_bad_option_is_named(self, name, kind):
        with pytest.raises((TypeError, ValueError), match="transductive: expected true or false"):
            make_learner(name, kind, transductive="no")

    def test_buffers_stay_through_evaluation(self, name, kind):
        learner, episode = make_learner(name, kind).eval(), make_episode(kind)
        before = capture_buffers(learner)
        answers(learner, episode)
        assert all(torch.equal(before[k], v) for k, v in capture_buffers(learner).items())


def as_float32(episode: Episode) -> Episode:
    def cast(tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.is_floating_point() else tensor

    return Episode(
        cast(episode.support_x), cast(episode.support_y),
        cast(episode.query_x), cast(episode.query_y), episode.num_ways,
    )  # fmt: skip


GOOD_X, GOOD_Y = torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("x", "y", "ways", "message"),
    [
        (torch.zeros(0, 1), torch.zeros(0).long(), None, "support_x: expected examples"),
        (torch.full((4, 1, 8, 8), float("nan")), GOOD_Y, None, "support_x: has values"),
        (GOOD_X, GOOD_Y[:3], None, "support_y: expected 4 labels"),
        (GOOD_X, GOOD_Y.float(), None, "support_y: expected integer labels .*got torch.float32"),
        (GOOD_X, GOOD_Y - 1, None, "support_y: labels count from 0, got -1"),
        (GOOD_X, GOOD_Y, 2, "support_y: label 2, but there are 2 ways"),
        (GOOD_X, GOOD_Y * 2, None, "support_y: no example of class 1, 3"),
        (GOOD_X, GOOD_Y, 5, "support_y: no example of class 3, 4"),
    ],
)
def test_a_support_set_that_cannot_be_learned_from_is_refused(x, y, ways, message):
    with pytest.raises(ValueError, match=message):
        check_support(x, y, ways)


def test_a_good_support_set_says_how_many_classes_it_has():
    assert check_support(GOOD_X, GOOD_Y) == 3
