"""Environments of a user's own that fail or hang, and tiny experiments in environments."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from pipeline.config import Experiment
from pipeline.environments import make_environment
from tests.pipeline.runs_for_tests import tiny

FAILS_AT = 7
FAILING = "OuterloopFails-v0"


class Failing(gymnasium.Env):
    """Raises on its seventh step."""

    observation_space = spaces.Box(-1, 1, (3,), dtype=np.float32)
    action_space = spaces.Discrete(2)
    num_steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.num_steps += 1
        if self.num_steps == FAILS_AT:
            raise FloatingPointError("the wheel\ncame off")
        return np.zeros(3, np.float32), 1.0, False, False, {}


class Hanging(gymnasium.Env):
    """Hangs on its third step under some seeds: asleep, or in a loop that catches all it can."""

    observation_space = spaces.Box(-1, 1, (3,), dtype=np.float32)
    action_space = spaces.Discrete(2)
    num_steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.way = seed % 5
        return self.np_random.normal(size=3).astype(np.float32), {}

    def step(self, action):
        self.num_steps += 1
        while self.num_steps == 3 and self.way < 2:
            with suppress(Exception):
                time.sleep(3600 if self.way else 0)
        return self.np_random.normal(size=3).astype(np.float32), 1.0, False, False, {}


gymnasium.register(FAILING, entry_point=Failing)
gymnasium.register("OuterloopHangs-v0", entry_point=Hanging)
HANGING = f"{__name__}:OuterloopHangs-v0"  # as gymnasium finds it in any process


def failing_environment():
    return make_environment(FAILING, 3)


def control(**sections: Any) -> Experiment:
    """CartPole under varied physics, in a second."""
    tree: dict[str, Any] = {
        "task": {"kind": "control"},
        "model": {"encoder": "tanh"},
        "environments": {"num_train": 3, "num_held_out": 2, "num_envs": 4, "unroll": 5},
        "inner": {"precision": "float32", "lr": 0.01},
        "algorithm": {"name": "leap", "options": {"norm": False}},
    }
    return tiny(**_over(tree, sections))


def atari(**sections: Any) -> Experiment:
    """Two games to train on and one held out, small frames, in seconds."""
    tree: dict[str, Any] = {
        "task": {"kind": "atari"},
        "model": {"encoder": "atari-small", "shared": "body"},
        "environments": {
            "games": ["pong", "breakout"],
            "held_out": ["freeway"],
            "num_envs": 2,
            "unroll": 3,
            "image_size": 36,
            "max_num_frames_per_episode": 60,
            "noop_max": 4,
        },
        "agent": {"reward_clip": 5.0},
        "inner": {"precision": "float32", "optimizer": "rmsprop", "lr": 1e-4, "num_steps": 6},
        "meta": {"batch_size": 2, "num_steps": 2},
    }
    return tiny(**_over(tree, sections))


def _over(tree: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section} if isinstance(section, dict) else section
    return tree
