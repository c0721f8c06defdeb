"""A2C and PPO against the papers term by term, against each other, and in the inner loop."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from algorithms.inner_loop import InnerLoop, InnerOptimizer
from algorithms.models.actor_critic import ActorCritic
from algorithms.models.perceptron import TanhEncoder
from algorithms.parameters import ParameterVector
from algorithms.reinforcement.a2c import A2C
from algorithms.reinforcement.policies import Categorical, DiagonalGaussian
from algorithms.reinforcement.ppo import PPO, Samples
from algorithms.reinforcement.returns import Rollout, generalized_advantages
from tests.algorithms.reinforcement.rollouts import NUM_ACTIONS, random_rollout

PLAIN = {"gae_lambda": 0.9, "discount": 0.95, "entropy_coefficient": 0.03}


def with_graph(rollout: Rollout) -> Rollout:
    return dataclasses.replace(
        rollout,
        outputs=rollout.outputs.clone().requires_grad_(),
        values=rollout.values.clone().requires_grad_(),
    )


def a2c_terms(rollout: Rollout, a2c: A2C):
    """Loss, and its gradients as derived by hand, step by step."""
    advantages = generalized_advantages(rollout, a2c.discount, a2c.gae_lambda)
    used, count = advantages.clone(), int(rollout.valid.sum())
    if a2c.normalize_advantage:
        chosen = [
            float(a) for a, v in zip(used.flatten(), rollout.valid.flatten(), strict=True) if v
        ]
        mean = math.fsum(chosen) / count
        std = math.sqrt(math.fsum((a - mean) ** 2 for a in chosen) / count)
        used = (used - mean) / std
    loss = 0.0
    by_output, by_value = torch.zeros_like(rollout.outputs), torch.zeros_like(rollout.values)
    for t, env in rollout.valid.nonzero().tolist():
        probs = rollout.outputs[t, env].softmax(-1).tolist()
        action = int(rollout.actions[t, env])
        entropy = -sum(p * math.log(p) for p in probs)
        error, advantage = float(advantages[t, env]), float(used[t, env])
        loss += -math.log(probs[action]) * advantage
        loss += a2c.value_coefficient * error**2 - a2c.entropy_coefficient * entropy
        by_value[t, env] = -2 * a2c.value_coefficient * error / count
        for a, p in enumerate(probs):
            d_log_prob = (a == action) - p
            d_entropy = -p * (math.log(p) + entropy)
            slope = -d_log_prob * advantage - a2c.entropy_coefficient * d_entropy
            by_output[t, env, a] = slope / count
    return torch.tensor(loss / count, dtype=torch.float64), by_output, by_value


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a2c_and_its_gradients_are_those_derived_by_hand(seed, normalize):
    a2c = A2C(normalize_advantage=normalize, value_coefficient=0.7, **PLAIN)
    rollout = with_graph(random_rollout(seed))
    loss, figures = a2c.loss(Categorical(), rollout)
    expected, by_output, by_value = a2c_terms(random_rollout(seed), a2c)
    torch.testing.assert_close(loss.detach(), expected)
    loss.backward()
    torch.testing.assert_close(rollout.outputs.grad, by_output)
    torch.testing.assert_close(rollout.values.grad, by_value)
    whole = (
        figures["policy_loss"]
        + a2c.value_coefficient * figures["value_loss"]
        - a2c.entropy_coefficient * figures["entropy"]
    )
    torch.testing.assert_close(whole, expected)
    assert not any(figure.requires_grad or figure.shape for figure in figures.values())


def spoilt(rollout: Rollout) -> Rollout:
    """Other actions, outputs and rewards in steps that do not count."""
    skipped = ~rollout.valid
    assert skipped.any()
    outputs, actions, rewards = (
        t.clone() for t in (rollout.outputs, rollout.actions, rollout.rewards)
    )
    outputs[skipped] = 5.0
    actions[skipped] = NUM_ACTIONS - 1
    rewards[skipped] = 1e3
    return dataclasses.replace(rollout, outputs=outputs, actions=actions, rewards=rewards)


def ppo_loss(ppo: PPO, rollout: Rollout, output, values):
    """The loss on the whole rollout as one minibatch."""
    observations = torch.zeros(*rollout.rewards.shape, 1)
    samples = ppo.prepare(Categorical(), rollout, observations)
    return ppo.loss(Categorical(), output.flatten(0, 1), values[:-1].flatten(), samples)


@pytest.mark.parametrize("normalize", [False, True])
def test_steps_that_are_not_valid_leave_no_trace(normalize):
    rollout = random_rollout(4)
    for learner in (A2C(normalize_advantage=normalize), PPO(normalize_advantage=normalize)):
        answers = []
        for seen in (with_graph(rollout), with_graph(spoilt(rollout))):
            if isinstance(learner, A2C):
                loss, _ = learner.loss(Categorical(), seen)
            else:
                loss, _ = ppo_loss(learner, seen, seen.outputs, seen.values)
            loss.backward()
            answers.append((loss.detach(), seen.outputs.grad, seen.values.grad))
        torch.testing.assert_close(answers[0], answers[1])


@pytest.mark.parametrize("normalize", [False, True])
def test_ppo_at_the_policy_that_acted_has_the_gradient_of_a2c(normalize):
    one, other = (with_graph(random_rollout(6)) for _ in range(2))
    a2c, ppo = (
        A2C(normalize_advantage=normalize, **PLAIN),
        PPO(normalize_advantage=normalize, **PLAIN),
    )
    a2c.loss(Categorical(), one)[0].backward()
    ppo_loss(ppo, other, other.outputs, other.values)[0].backward()
    torch.testing.assert_close(other.outputs.grad, one.outputs.grad)
    torch.testing.assert_close(other.values.grad, one.values.grad)


def test_ppo_is_the_clipped_objective_of_the_paper():
    rollout, moved = random_rollout(1), random_rollout(2)
    ppo = PPO(clip=0.1, normalize_advantage=False, **PLAIN)
    loss, figures = ppo_loss(ppo, rollout, moved.outputs, moved.values)
    advantages = generalized_advantages(rollout, ppo.discount, ppo.gae_lambda)
    gain = error = entropy = 0.0
    for t, env in rollout.valid.nonzero().tolist():
        action, advantage = int(rollout.actions[t, env]), float(advantages[t, env])
        new, old = (r.outputs[t, env].softmax(-1) for r in (moved, rollout))
        ratio = float(new[action] / old[action])
        gain += min(ratio * advantage, max(0.9, min(ratio, 1.1)) * advantage)
        error += float(advantage + rollout.values[t, env] - moved.values[t, env]) ** 2
        entropy -= sum(float(p) * math.log(p) for p in new)
    count = int(rollout.valid.sum())
    assert float(figures["policy_loss"]) == pytest.approx(-gain / count)
    assert float(figures["value_loss"]) == pytest.approx(error / count)
    assert float(figures["entropy"]) == pytest.approx(entropy / count)
    assert float(loss) == pytest.approx((-gain + 0.5 * error - 0.03 * entropy) / count)


@pytest.mark.parametrize("advantage", [-1.0, 1.0])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_a_policy_that_moved_too_far_is_pulled_back_but_not_pushed_on(advantage, ratio):
    one = torch.ones(1, dtype=torch.float64)
    minibatch = Samples(
        observations=one,
        actions=torch.zeros(1, dtype=torch.int64),
        behaviour_log_probs=torch.log(0.25 * one),
        advantages=advantage * one,
        returns=one,
        valid=torch.tensor([True]),
    )
    share = 0.25 * ratio  # of the action, now
    output = torch.tensor([[share, 1 - share]], dtype=torch.float64).log().requires_grad_()
    ppo = PPO(clip=0.2, normalize_advantage=False, entropy_coefficient=0.0)
    loss, _ = ppo.loss(Categorical(), output, one, minibatch)
    loss.backward()
    is_far_enough = (advantage > 0 and ratio > 1.2) or (advantage < 0 and ratio < 0.8)
    assert (output.grad.abs().sum() == 0) == is_far_enough


def test_continuous_actions_keep_their_shape_on_the_way_to_a_minibatch():
    rollout = dataclasses.replace(
        random_rollout(1, length=4, num_envs=2),
        outputs=torch.zeros(4, 2, 6, dtype=torch.float64),
        actions=torch.ones(4, 2, 3, dtype=torch.float64),
    )
    observations = torch.arange(8.0).view(4, 2, 1)
    samples = PPO().prepare(DiagonalGaussian(), rollout, observations).pick(torch.tensor([5, 0]))
    assert samples.observations.tolist() == [[5.0], [0.0]]
    assert samples.actions.shape == (2, 3)
    expected = torch.full((2,), -1.5 - 1.5 * math.log(2 * math.pi), dtype=torch.float64)
    torch.testing.assert_close(samples.behaviour_log_probs, expected)


def test_each_epoch_takes_each_sample_once_in_an_order_of_its_own():
    ppo = PPO(num_epochs=3, num_minibatches=4)
    order = ppo.minibatches(20, torch.Generator().manual_seed(1))
    assert order.shape == (ppo.steps_per_rollout, 5)
    epochs = order.view(3, 20)
    for epoch in epochs:
        assert epoch.sort().values.tolist() == list(range(20))
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(ppo.minibatches(20, torch.Generator().manual_seed(1)), order)
    assert not torch.equal(ppo.minibatches(20, torch.Generator().manual_seed(2)), order)


@pytest.mark.parametrize("num_samples", [0, 3, 10])
def test_a_rollout_that_minibatches_do_not_divide_is_refused(num_samples):
    with pytest.raises(ValueError, match="num_minibatches=4: does not divide"):
        PPO().minibatches(num_samples, torch.Generator())


@pytest.mark.parametrize("learner", [A2C, PPO])
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("discount", 1.5),
        ("discount", math.nan),
        ("gae_lambda", -0.1),
        ("value_coefficient", -1.0),
        ("entropy_coefficient", math.nan),
    ],
)
def test_options_out_of_bounds_are_refused_by_name(learner, option, value):
    with pytest.raises(ValueError, match=f"{option}: expected .*, got {value}"):
        learner(**{option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [("clip", 0.0), ("clip", math.nan), ("num_epochs", 0), ("num_minibatches", 0)],
)
def test_options_of_ppo_out_of_bounds_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"{option}: expected"):
        PPO(**{option: value})


class GuessTask:
    """A number is shown; naming it earns 1. Episodes last a step and are followed by a reset."""

    length, num_envs = 8, 16

    def __init__(self, learner: A2C | PPO) -> None:
        self.learner = learner
        self.figures = {}

    def loss(self, model: ActorCritic, step: int):
        if isinstance(self.learner, A2C):
            loss, self.figures = self.learner.loss(model.policy, self.gather(model, step)[0])
            return loss
        number, within = divmod(step, self.learner.steps_per_rollout)
        if within == 0:
            with torch.no_grad():
                rollout, observations = self.gather(model, number)
            self.samples = self.learner.prepare(model.policy, rollout, observations)
            generator = torch.Generator().manual_seed(number)
            self.order = self.learner.minibatches(self.length * self.num_envs, generator)
        minibatch = self.samples.pick(self.order[within])
        output, values = model(minibatch.observations)
        loss, self.figures = self.learner.loss(model.policy, output, values, minibatch)
        return loss

    def gather(self, model: ActorCritic, number: int):
        generator = torch.Generator().manual_seed(number)
        shown = torch.randint(3, (self.length + 1, self.num_envs), generator=generator)
        observations = nn.functional.one_hot(shown, 3).float()
        outputs, values, actions = [], [], []
        for observation in observations[:-1]:
            output, value = model(observation)
            outputs.append(output)
            values.append(value)
            actions.append(model.policy.sample(output, generator))
        with torch.no_grad():
            values.append(model(observations[-1])[1])
        taken = torch.stack(actions)
        valid = (torch.arange(self.length) % 2 == 0).unsqueeze(1).expand_as(taken)
        ends = valid.clone()
        rewards = (valid & (taken == shown[:-1])).float()
        rollout = Rollout(
            torch.stack(outputs), torch.stack(values), taken, rewards, ends, ends & False, valid
        )
        return rollout, observations[:-1]

    def training_metrics(self):
        return self.figures

    def evaluate(self, model):
        return {}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        assert state == {}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("learner", [A2C(), PPO()])
def test_the_inner_loop_learns_a_task_whose_answer_is_known(learner, precision):
    torch.manual_seed(0)
    model = ActorCritic(TanhEncoder(3), 3)
    vector = ParameterVector(model)
    optimizer = InnerOptimizer("rmsprop", lr=1e-3, max_grad_norm=0.5)
    loop = InnerLoop(model, vector, GuessTask(learner), optimizer, precision=precision)
    loop.run(320)
    output, values = model(torch.eye(3))
    # Chance is a third; how near to 1 it comes in so many steps depends on the processor.
    assert (output.softmax(-1).diagonal() > 0.7).all()
    assert ((values - 1).abs() < 0.2).all()
