"""The agent of an experiment in reinforcement learning, and how much it acts."""

from __future__ import annotations

from dataclasses import fields

from algorithms.reinforcement.a2c import A2C
from algorithms.reinforcement.ppo import PPO
from pipeline.config import Experiment


def make_agent(experiment: Experiment) -> A2C | PPO:
    """Return the learner that the section `agent` describes."""
    config = experiment.agent
    found = PPO if config.name == "ppo" else A2C
    return found(**{field.name: getattr(config, field.name) for field in fields(found)})


def planned_env_steps(experiment: Experiment, num_steps: int) -> int:
    """Return the steps of environments in `num_steps` inner steps, those that only reset included.

    A step of all copies of an environment counts as many as there are copies.
    """
    agent = make_agent(experiment)
    rollouts = -(-num_steps // agent.steps_per_rollout) if isinstance(agent, PPO) else num_steps
    return rollouts * experiment.environments.unroll * experiment.environments.num_envs
