"""Sections of an experiment for reinforcement learning: environments, and the agent in them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.config_errors import ConfigProblems, Key, Problem
from pipeline.config_sections import Section
from pipeline.errors import BadInputError


class EnvironmentsConfig(Section):
    """Environments, each one task: control problems under varied physics, or Atari games."""

    name: str = Field(
        "CartPole-v1",
        min_length=1,
        description="control: the gymnasium id of an environment; tasks differ in its physics, or "
        "in nothing but their seeds where no physics of it are known.",
    )
    vary: tuple[str, ...] = Field(
        (), description="control: physics that tasks draw, e.g. [length]; none named: all of them."
    )
    num_train: int = Field(20, ge=1, description="control: tasks to meta-train on.")
    num_held_out: int = Field(
        10, ge=1, description="control: tasks for the meta-test, under physics of their own."
    )
    games: tuple[str, ...] = Field(
        ("beam_rider", "pong", "assault", "demon_attack"),
        min_length=1,
        description="atari: games to meta-train on.",
    )
    held_out: tuple[str, ...] = Field(
        ("breakout", "space_invaders"),
        min_length=1,
        description="atari: games for the meta-test, never trained on.",
    )
    num_envs: int = Field(
        16, ge=1, le=65536, description="Copies of a task's environment that step together."
    )
    unroll: int = Field(
        5, ge=1, le=65536, description="Steps of all copies between two losses: a rollout."
    )
    threads: int = Field(
        1, ge=1, description="atari: emulator threads of a worker; no part of the result."
    )
    restart_at_checkpoints: bool = Field(
        True,
        description="Whether all copies begin new episodes at each checkpoint inside a task, as a "
        "task must that goes on elsewhere: the result is then the same whatever is killed.",
    )
    timeout_s: float = Field(
        60.0,
        ge=0,
        le=1_000_000,
        description="Seconds that a step of all copies, or a reset, may take before the task is "
        "given up; 0: no limit.",
    )
    image_size: int = Field(84, ge=8, le=512, description="atari: height and width of a frame.")
    grayscale: bool = Field(True, description="atari: one channel a frame, or three of colour.")
    stack_num: int = Field(4, ge=1, le=64, description="atari: latest frames seen together.")
    frameskip: int = Field(4, ge=1, description="atari: frames an action is held for.")
    maxpool: bool = Field(True, description="atari: show the maximum of the last two frames.")
    noop_max: int = Field(
        30, ge=0, description="atari: fewer than this many idle frames begin an episode."
    )
    use_fire_reset: bool = Field(True, description="atari: press FIRE once after a reset.")
    episodic_life: bool = Field(False, description="atari: a lost life ends the episode.")
    repeat_action_probability: float = Field(
        0.25, ge=0, lt=1, description="atari: sticky actions, drawn for every frame; 0: none."
    )
    full_action_space: bool = Field(
        False, description="atari: all 18 actions in every game, in place of its own."
    )
    max_num_frames_per_episode: int = Field(
        108_000, ge=1, description="atari: frames after which an episode is cut off."
    )


class AgentConfig(Section):
    """The actor-critic learner within a task; a loss of it is an inner step."""

    name: Literal["a2c", "ppo"] = Field(
        "a2c",
        description="a2c: a rollout for each inner step; ppo: one for `num_epochs` passes over it, "
        "each of `num_minibatches` inner steps.",
    )
    discount: float = Field(0.99, ge=0, le=1, description="What a reward one step later is worth.")
    gae_lambda: float = Field(
        1.0, ge=0, le=1, description="Decay λ of advantages; 1: n-step returns (PPO's paper 0.95)."
    )
    value_coefficient: float = Field(0.5, ge=0, description="Weight of the values' squared error.")
    entropy_coefficient: float = Field(0.01, ge=0, description="Weight of the entropy bonus.")
    normalize_advantage: bool = Field(
        False, description="Advantages of mean 0 and deviation 1 in each inner step."
    )
    reward_clip: float = Field(
        0.0, ge=0, description="Rewards learned from lie within ± this; 0: as they are."
    )
    clip: float = Field(0.2, gt=0, description="ppo: bound ε on the change of probabilities.")
    num_epochs: int = Field(4, ge=1, description="ppo: passes over a rollout.")
    num_minibatches: int = Field(4, ge=1, description="ppo: inner steps of a pass.")


def check_environments(
    kind: str, environments: EnvironmentsConfig, agent: AgentConfig, epochs: int
) -> None:
    """Raise ConfigProblems for what does not fit together, or a game that is not there.

    Args:
        kind: One of ENVIRONMENT_KINDS.
        environments: The section.
        agent: The section.
        epochs: `inner.epochs`, which means nothing here.
    """
    if kind == "atari":
        _check_games(environments)
    num_samples = environments.unroll * environments.num_envs
    if agent.name == "ppo" and num_samples % agent.num_minibatches:
        text = (
            f"{agent.num_minibatches} minibatches cannot be cut evenly from a rollout of "
            f"{num_samples} steps ({environments.unroll} of environments.unroll by "
            f"{environments.num_envs} of environments.num_envs)"
        )
        causes = (("environments", "unroll"), ("environments", "num_envs"))
        raise _problem(("agent", "num_minibatches"), text, *causes)
    if epochs:
        raise _problem(
            ("inner", "epochs"), f"environments have no epochs: expected 0, got {epochs}"
        )


def _check_games(environments: EnvironmentsConfig) -> None:
    from pipeline.environments import check_game  # slow to import, and wanted here alone

    for field in ("games", "held_out"):
        key, games = ("environments", field), getattr(environments, field)
        for game in games:
            try:
                check_game(game)
            except BadInputError as error:
                raise _problem(key, str(error)) from None
            if games.count(game) > 1:
                raise _problem(key, f"'{game}' is there twice")
    for game in environments.held_out:
        if game in environments.games:
            text = f"'{game}' is held out for the meta-test (environments.held_out)"
            raise _problem(("environments", "games"), text, ("environments", "held_out"))


def _problem(key: Key, text: str, *causes: Key) -> ConfigProblems:
    return ConfigProblems(Problem(key, text, (key, *causes)))
