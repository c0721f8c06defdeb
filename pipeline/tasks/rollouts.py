"""Acting in an environment: one forward pass for all its copies at each step.

Shape letters: n copies of the environment, T steps of a rollout, k episodes that ended in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from algorithms.reinforcement.policies import Categorical, DiagonalGaussian, Policy
from algorithms.reinforcement.returns import Rollout
from pipeline.environments import (
    DiscreteActions,
    EpisodeStatistics,
    FinishedEpisodes,
    Transition,
    VectorEnvironment,
)
from pipeline.seeding import derive_seed

MAX_EPISODE_STEPS = 27_000  # half an hour of Atari, if nothing ends an episode before


@dataclass(frozen=True, slots=True)
class Played:
    """A rollout, and the episodes that ended in it."""

    rollout: Rollout
    episode_returns: NDArray[np.float64]  # [k], undiscounted sums of unclipped rewards
    episode_lengths: NDArray[np.int64]  # [k], in actions


class Player:
    """Acts in an environment as a model's policy says, and keeps count of steps and episodes.

    Episodes go on from one rollout to the next. Actions and episodes follow from `seed`.
    """

    def __init__(
        self, environment: VectorEnvironment, *, seed: int, reward_clip: float, device: torch.device
    ) -> None:
        """Take the environment, which is reset at the first step.

        Args:
            environment: To act in.
            seed: Of actions, and of the environment's episodes.
            reward_clip: Bound on the size of rewards in rollouts; 0 for none.
            device: Of the model.
        """
        space = environment.action_space
        self.policy: Policy
        if isinstance(space, DiscreteActions):
            self.policy, self.num_outputs = Categorical(), space.count
        else:
            self.policy, self.num_outputs = DiagonalGaussian(), 2 * math.prod(space.shape)
        self.env_steps = 0  # actions taken in all copies; steps that only reset are none
        self._environment = environment
        self._seed = seed
        self._reward_clip = reward_clip
        self._device = device
        self._generator = torch.Generator(device).manual_seed(derive_seed(seed, "actions"))
        self._statistics = EpisodeStatistics(environment.num_envs)
        self._observations: Tensor | None = None

    def play(self, model: nn.Module, num_steps: int, seen: Tensor | None = None) -> Played:
        """Return the next `num_steps` steps (T).

        Outputs and the first T values carry the graph of their passes, unless gradients are off;
        the value after the last step takes a pass without.

        Args:
            model: Gives outputs [n, O] and values [n] of observations. Of outputs for discrete
                actions those beyond the environment's number take no part.
            num_steps: T.
            seen: A buffer [T, n, …] that is filled with what the actions were chosen from.
        """
        outputs, values, actions = [], [], []
        transitions: list[Transition] = []
        valid: list[NDArray[np.bool_]] = []
        ended: list[FinishedEpisodes] = []
        for step in range(num_steps):
            if seen is not None:
                seen[step].copy_(self._current())
            output, value = self._forward(model)
            action, transition = self._act(output)
            ended.append(
                self._statistics.observe(
                    transition.rewards, transition.terminated, transition.truncated
                )
            )
            valid.append(self._statistics.valid)
            transitions.append(transition)
            outputs.append(output)
            values.append(value)
            actions.append(action)
        with torch.no_grad():
            values.append(self._forward(model)[1])
        self.env_steps += int(np.sum(valid))
        rewards = np.stack([one.rewards for one in transitions])
        if self._reward_clip:
            rewards = rewards.clip(-self._reward_clip, self._reward_clip)
        rollout = Rollout(
            outputs=torch.stack(outputs),
            values=torch.stack(values),
            actions=torch.stack(actions),
            rewards=self._on_device(rewards),
            terminated=self._on_device(np.stack([one.terminated for one in transitions])),
            truncated=self._on_device(np.stack([one.truncated for one in transitions])),
            valid=self._on_device(np.stack(valid)),
        )
        return Played(
            rollout,
            np.concatenate([one.returns for one in ended]),
            np.concatenate([one.env_steps for one in ended]),
        )

    def first_returns(self, model: nn.Module) -> NDArray[np.float64]:
        """Return the true return of each copy's first episode from here on: [n].

        Taking those that end first would favour short ones. An episode of over MAX_EPISODE_STEPS
        counts as far as it came. To be called before any step is taken, or after `restart`.
        """
        returns = np.zeros(self._environment.num_envs)
        playing = np.ones(self._environment.num_envs, dtype=np.bool_)
        for _ in range(MAX_EPISODE_STEPS):
            transition = self.act(model)
            returns += np.where(playing, transition.rewards, 0)
            playing &= ~(transition.terminated | transition.truncated)
            if not playing.any():
                break
        return returns

    def act(self, model: nn.Module) -> Transition:
        """Take one step of all copies, to no end but to see what comes of it."""
        with torch.no_grad():
            _, transition = self._act(self._forward(model)[0])
        return transition

    def restart(self) -> None:
        """Begin new episodes everywhere; which, follows from the seed and `env_steps`."""
        self._statistics.reset()
        seed = derive_seed(self._seed, "episodes", self.env_steps)
        self._observations = self._on_device(self._environment.reset(seed))

    def state_dict(self) -> dict[str, Any]:
        """Return the count of steps and the generator's state: environments cannot be saved."""
        return {"env_steps": self.env_steps, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; episodes under way are given up for new ones."""
        self.env_steps = state["env_steps"]
        self._generator.set_state(state["generator"])
        self.restart()

    def _current(self) -> Tensor:
        if self._observations is None:
            self.restart()
            assert self._observations is not None
        return self._observations

    def _forward(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        output, value = model(self._current())
        return output[:, : self.num_outputs], value

    def _act(self, output: Tensor) -> tuple[Tensor, Transition]:
        action = self.policy.sample(output, self._generator)
        # A diverged policy must act somehow: its loss says what became of it.
        transition = self._environment.step(action.nan_to_num(0, 0, 0).cpu().numpy())
        self._observations = self._on_device(transition.observations)
        return action, transition

    def _on_device(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)
