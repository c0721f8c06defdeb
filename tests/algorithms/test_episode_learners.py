"""What every learner of episodes promises; runs on each line of EPISODE_LEARNERS."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import algorithms
from algorithms import EPISODE_LEARNERS, EpisodeLearner, ParameterVector
from algorithms.baselines import initial_parameters
from algorithms.episodic.checks import check_support
from algorithms.models.passed import Passed
from algorithms.types import Encoder, Episode
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
# Whose own convolutions or output layer run in bfloat16 under autocast, as the encoder does.
HALF_PRECISION = {"learned_optimizer", "maml", "relation"}

shots_of_three = st.lists(st.integers(1, 4), min_size=3, max_size=3)


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


def uneven_episode(kind: str, shots: list[int], seed: int) -> Episode:
    """Return an episode whose three classes have these shots; a regression, so many points."""
    if kind == "regression":
        return sinusoid_episode(num_shots=sum(shots), seed=seed)
    episode = image_episode(num_shots=max(shots), seed=seed)
    places = [(episode.support_y == k).nonzero()[:count, 0] for k, count in enumerate(shots)]
    kept = torch.cat(places)
    return replace(episode, support_x=episode.support_x[kept], support_y=episode.support_y[kept])


@pytest.mark.parametrize(("name", "kind"), CASES)
class TestEveryLearner:
    def test_loss_is_a_finite_scalar_and_there_is_an_answer_for_each_query(self, name, kind):
        learner, episode = make_learner(name, kind), make_episode(kind)
        result = learner.episode_loss(episode)
        assert result.loss.shape == ()
        assert torch.isfinite(result.loss)
        assert result.predictions.shape == (len(episode.query_x), KINDS[kind][2])

    def test_the_loss_reaches_every_parameter(self, name, kind):
        """But for a convolution's bias, which the mean of the batch-norm after it takes out."""
        learner = make_learner(name, kind)
        vector = ParameterVector(learner, dtype=torch.float64)
        for seed in range(3):
            learner.episode_loss(make_episode(kind, seed)).loss.backward()
        assert vector.is_bound(learner)
        for slot in vector.layout:
            largest = vector.grads[slot.offset : slot.end].abs().max()
            if slot.name.endswith("conv.bias"):
                assert largest < 1e-12, slot.name
            else:
                assert largest > 1e-7, slot.name

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

    @settings(deadline=None, max_examples=8)
    @given(shots=shots_of_three, seed=st.integers(0, 1000), data=st.data())
    def test_the_order_of_the_support_set_does_not_matter(self, name, kind, shots, seed, data):
        learner = make_learner(name, kind).eval()
        if learner.ordered:
            pytest.skip(f"{name} reads the support set in order")
        episode = uneven_episode(kind, shots, seed)
        order = data.draw(st.permutations(range(len(episode.support_x))))
        shuffled = replace(
            episode, support_x=episode.support_x[order], support_y=episode.support_y[order]
        )
        torch.testing.assert_close(answers(learner, shuffled), answers(learner, episode))

    @settings(deadline=None, max_examples=8)
    @given(shots=shots_of_three, seed=st.integers(0, 1000), new=st.permutations(range(3)))
    def test_exchanging_labels_exchanges_scores(self, name, kind, shots, seed, new):
        """Of learners with an output layer, after its rows are exchanged likewise."""
        learner = make_learner(name, kind).eval()
        if kind == "regression" or not (learner.relabels or hasattr(learner, "learn")):
            pytest.skip("targets are no labels, or each label has parameters of its own")
        episode, new = uneven_episode(kind, shots, seed), torch.tensor(new)
        expected = answers(learner, episode)
        if not learner.relabels:
            with torch.no_grad():
                for rows in learner.head.parameters():
                    rows[new] = rows.clone()
        renamed = replace(episode, support_y=new[episode.support_y])
        torch.testing.assert_close(answers(learner, renamed)[:, new], expected)

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

    def test_adapting_keeps_no_graph_of_the_support_set(self, name, kind):
        learner, episode = make_learner(name, kind, transductive=False).eval(), make_episode(kind)
        if hasattr(learner, "learn"):
            pytest.skip(f"{name} takes gradients of the support set's loss")
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda saved: saved):
            learner.adapt(episode.support_x, episode.support_y)
        assert not kept

    def test_inference_mode_changes_no_answer(self, name, kind):
        learner, episode = make_learner(name, kind).eval(), make_episode(kind)
        expected = answers(learner, episode)
        with torch.inference_mode():
            assert torch.equal(answers(learner, make_episode(kind)), expected)

    @pytest.mark.parametrize("transductive", [True, False])
    def test_inputs_of_the_wrong_shape_or_not_finite_are_named(self, name, kind, transductive):
        learner = make_learner(name, kind, transductive=transductive and name != "sib").eval()
        episode = make_episode(kind)
        wrong = torch.cat([episode.query_x] * 2, dim=-1)
        with pytest.raises(ValueError, match=r"^support_x: expected shape \[examples, .*got \["):
            learner.adapt(wrong[: len(episode.support_y)], episode.support_y)
        predict = learner.adapt(episode.support_x, episode.support_y)
        with pytest.raises(ValueError, match=r"^query_x: expected shape \[examples, .*got \["):
            predict(wrong)
        with pytest.raises(ValueError, match=r"^query_x: has values that are not finite"):
            predict(episode.query_x / 0)
        with pytest.raises(ValueError, match=r"^query_x: expected examples"):
            predict(episode.query_x[:0])

    def test_labels_of_another_type_than_int64_are_refused(self, name, kind):
        if kind == "regression":
            pytest.skip("targets are no labels")
        learner, episode = make_learner(name, kind).eval(), make_episode(kind)
        for dtype in (torch.uint8, torch.int8, torch.int32, torch.bool, torch.float32):
            with pytest.raises(ValueError, match=f"^support_y: expected .*int64, got {dtype}"):
                learner.adapt(episode.support_x, episode.support_y.to(dtype))

    def test_its_number_of_outputs_is_a_count(self, name, kind):
        make_encoder = KINDS[kind][0]
        with pytest.raises(ValueError, match=r"^num_outputs: expected 1 or more, got 0"):
            EPISODE_LEARNERS[name](make_encoder(), 0)
        with pytest.raises(TypeError, match=r"^num_outputs: expected a whole number"):
            EPISODE_LEARNERS[name](make_encoder(), 3.0)

    @pytest.mark.parametrize("training", [True, False])
    def test_what_follows_the_encoder_is_the_same_bitwise_under_autocast(
        self, name, kind, training
    ):
        """Behind an encoder without arithmetic, so that nothing else can be rounded."""
        if name in HALF_PRECISION:
            pytest.skip(f"{name} has a network of its own after the encoder")
        episode, num_outputs = as_float32(make_episode(kind)), KINDS[kind][2]
        torch.manual_seed(1)
        encoder = Passed(tuple(episode.query_x.shape[1:]))
        learner = EPISODE_LEARNERS[name](encoder, num_outputs).train(training)
        loss, scores = learner.episode_loss(episode).loss, answers(learner, episode)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(learner.episode_loss(episode).loss, loss)
            assert torch.equal(answers(learner, episode), scores)


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
        (GOOD_X, GOOD_Y * 2**61, None, "support_y: no example of class 1, 2, 3, .*10; each of"),
        (GOOD_X, GOOD_Y, 5, "support_y: no example of class 3, 4"),
    ],
)
def test_a_support_set_that_cannot_be_learned_from_is_refused(x, y, ways, message):
    with pytest.raises(ValueError, match=message):
        check_support(x, y, ways)


def test_a_good_support_set_says_how_many_classes_it_has():
    assert check_support(GOOD_X, GOOD_Y) == 3


def test_every_learner_can_be_imported_from_the_package():
    assert {learner.__name__ for learner in EPISODE_LEARNERS.values()} <= set(algorithms.__all__)


class AnySize(Encoder):
    """A user's own, which takes images of any size and says nothing of what it takes."""

    feature_shape = (1,)

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


@pytest.mark.parametrize("name", ["maml", "memory", "prototypical", "sib"])
def test_an_encoder_that_does_not_say_what_it_takes_takes_any_size(name):
    learner = EPISODE_LEARNERS[name](AnySize(), 3).eval()
    for side in (8, 11):
        episode = image_episode(side=side, dtype=torch.float32)
        predict = learner.adapt(episode.support_x, episode.support_y)
        assert predict(episode.query_x).shape == (12, 3)
    with pytest.raises(ValueError, match=r"query_x: expected shape \[examples, 1, 11, 11\]"):
        predict(image_episode(side=8, dtype=torch.float32).query_x)
