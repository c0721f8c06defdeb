"""Random rollouts with episodes that end and begin inside them."""

import torch
from torch import Tensor

from algorithms.reinforcement.returns import Rollout

NUM_ACTIONS = 3


def random_rollout(
    seed: int,
    length: int = 7,
    num_envs: int = 4,
    dtype: torch.dtype = torch.float64,
    end_rate: float = 0.3,
    reset_steps: bool = True,
) -> Rollout:
    """A step after an episode's end is not valid, has no reward and cannot end anything.

    Without `reset_steps` the next episode follows at once.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (length, num_envs)
    terminated, truncated, valid = (torch.zeros(shape, dtype=torch.bool) for _ in range(3))
    ended = (torch.rand(num_envs, generator=generator) < end_rate) & reset_steps
    for t in range(length):
        valid[t] = ~ended
        terminated[t] = valid[t] & (torch.rand(num_envs, generator=generator) < end_rate)
        truncated[t] = valid[t] & (torch.rand(num_envs, generator=generator) < end_rate)
        ended = (terminated[t] | truncated[t]) & reset_steps
    rewards = normal(generator, *shape, dtype=dtype) * valid
    return Rollout(
        outputs=normal(generator, *shape, NUM_ACTIONS, dtype=dtype),
        values=normal(generator, length + 1, num_envs, dtype=dtype),
        actions=torch.randint(NUM_ACTIONS, shape, generator=generator),
        rewards=rewards,
        terminated=terminated,
        truncated=truncated,
        valid=valid,
    )


def normal(generator: torch.Generator, *shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
