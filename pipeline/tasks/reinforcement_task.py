"""Learning to act in one environment, as a task for an inner loop."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from algorithms.reinforcement.a2c import A2C
from algorithms.reinforcement.ppo import PPO, Samples
from pipeline.environments import VectorEnvironment
from pipeline.seeding import derive_seed, torch_generator
from pipeline.tasks.rollouts import Played, Player


class ReinforcementTask:
    """An agent in copies of one environment; implements `algorithms.types.Task`.

    With A2C each inner step acts for a rollout and learns from it, by the graph of the very passes
    with which it acted. With PPO the first of `steps_per_rollout` inner steps acts for one, and
    each learns from a minibatch of it. Environments live as long as the task.

    Unlike minibatches of a data set, a rollout depends on the parameters: what an inner step sees
    is a function of the seed and of all parameters so far.
    """

    def __init__(
        self,
        make_environment: Callable[[], VectorEnvironment],
        agent: A2C | PPO,
        *,
        seed: int,
        unroll: int,
        reward_clip: float = 0.0,
        device: torch.device | str = "cpu",
        normalized: Callable[[float], float | None] = lambda score: None,
    ) -> None:
        """Make the environment; nothing is played before the first loss.

        Args:
            make_environment: Called now, and for each evaluation.
            agent: What is minimised.
            seed: Of actions, episodes and minibatches.
            unroll: Steps of a rollout (T).
            reward_clip: Bound on the size of the rewards learned from; 0 for none.
            device: Of the model.
            normalized: From a return to one that is comparable between games, None if unknown.
        """
        self._make_environment = make_environment
        self._agent = agent
        self._seed = seed
        self._unroll = unroll
        self._reward_clip = reward_clip
        self._device = torch.device(device)
        self._normalized = normalized
        environment = make_environment()
        # A task is dropped in many ways, and an emulator has threads of its own to end.
        weakref.finalize(self, environment.close)
        self._environment = environment
        self._player = self._new_player(environment, seed)
        self._figures: dict[str, Tensor] = {}
        self._samples: Samples | None = None  # PPO: of the last rollout
        self._order = torch.empty(0)  # PPO: int64 [steps_per_rollout, M]
        self._seen: Tensor | None = None  # PPO: buffer of a rollout's observations

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """Return the agent's loss (shape [], float32) of inner step `step`.

        Raises:
            EnvironmentFailedError: The environment raised.
        """
        if isinstance(self._agent, A2C):
            played = self._player.play(model, self._unroll)
            loss, figures = self._agent.loss(self._player.policy, played.rollout)
            self._report(figures, played)
            return loss
        return self._ppo_loss(self._agent, model, step)

    def training_metrics(self) -> dict[str, Tensor]:
        """Return figures of the last inner step.

        `env_steps`: actions taken so far; `episode_return`, `episode_length`: means over the
        episodes that ended in the step's rollout, if any did, of true rewards and of actions;
        `entropy`, `policy_loss`, `value_loss`: of the agent.
        """
        return self._figures

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return `return`, and `human_normalized` for a game whose scores were published.

        The mean true return of one episode in each of as many new copies of the environment as
        are trained in, played to its end by the policy as it is: actions are drawn, as in
        training. Training goes on as if nothing had been.
        """
        was_training = model.training
        environment = self._make_environment()
        try:
            model.eval()
            player = self._new_player(environment, derive_seed(self._seed, "evaluation"))
            score = float(player.first_returns(model).mean())
        finally:
            model.train(was_training)
            environment.close()
        normalized = self._normalized(score)
        return {"return": score} | ({} if normalized is None else {"human_normalized": normalized})

    def state_dict(self) -> dict[str, Any]:
        """Return counts and generators: an emulator or a simulation cannot be saved."""
        return self._player.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there with new episodes, and a new rollout for PPO."""
        self._player.load_state_dict(state)
        self._samples = None

    def _ppo_loss(self, agent: PPO, model: nn.Module, step: int) -> Tensor:
        place = step % agent.steps_per_rollout
        played = None
        if self._samples is None or place == 0:
            self._samples, played = self._sample(agent, model, step)
        minibatch = self._samples.pick(self._order[place])
        output, values = model(minibatch.observations)
        # An environment may have fewer actions than the network outputs.
        output = output[:, : self._player.num_outputs]
        loss, figures = agent.loss(self._player.policy, output, values, minibatch)
        self._report(figures, played)
        return loss

    def _sample(self, agent: PPO, model: nn.Module, step: int) -> tuple[Samples, Played]:
        with torch.no_grad():
            if self._seen is None:
                self._seen = self._buffer()
            played = self._player.play(model, self._unroll, self._seen)
            samples = agent.prepare(self._player.policy, played.rollout, self._seen)
        # Some versions of torch would take weights cast here, without a graph, for the loss too.
        torch.clear_autocast_cache()
        generator = torch_generator(self._seed, "minibatches", step)
        count = self._unroll * self._environment.num_envs
        self._order = agent.minibatches(count, generator).to(self._device)
        return samples, played

    def _buffer(self) -> Tensor:
        """Return room for a rollout's observations [T, n, …]; allocated once."""
        environment = self._environment
        shape = (self._unroll, environment.num_envs, *environment.observation_shape)
        dtype = torch.from_numpy(np.empty(0, environment.observation_dtype)).dtype
        return torch.empty(shape, dtype=dtype, device=self._device)

    def _report(self, figures: dict[str, Tensor], played: Played | None) -> None:
        self._figures = figures | {"env_steps": torch.tensor(self._player.env_steps)}
        if played is not None and played.episode_returns.size:
            self._figures |= {
                "episode_return": torch.tensor(played.episode_returns.mean()),
                "episode_length": torch.tensor(played.episode_lengths.mean()),
            }

    def _new_player(self, environment: VectorEnvironment, seed: int) -> Player:
        return Player(environment, seed=seed, reward_clip=self._reward_clip, device=self._device)
