"""Environments by their gymnasium id, and classic control whose physics differ from task to task.

A family of tasks is one environment under drawn physics: the same observations and actions, other
masses, lengths or gravity. The equations of motion are gymnasium's own.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import gymnasium
from gymnasium.vector import SyncVectorEnv, VectorEnv

from pipeline.config_errors import known_names
from pipeline.environments.gymnasium_vector import GymnasiumEnvironment, check_supported
from pipeline.environments.vector import check_num_envs
from pipeline.errors import BadInputError
from pipeline.seeding import numpy_generator


@dataclass(frozen=True, slots=True)
class PhysicsParameter:
    """A constant of an environment: the attribute that holds it, and the range tasks draw from.

    The range is half to twice gymnasium's value unless episodes would be unsolvable or trivial.
    """

    attribute: str
    low: float
    high: float


PHYSICS: dict[str, dict[str, PhysicsParameter]] = {
    "CartPole-v1": {
        "masscart": PhysicsParameter("masscart", 0.5, 2.0),  # kg
        "masspole": PhysicsParameter("masspole", 0.05, 0.5),  # kg
        "length": PhysicsParameter("length", 0.25, 1.0),  # m, half the pole
        "gravity": PhysicsParameter("gravity", 4.9, 19.6),  # m/s²
        "force_mag": PhysicsParameter("force_mag", 5.0, 20.0),  # N
    },
    "Acrobot-v1": {
        "link_length_1": PhysicsParameter("LINK_LENGTH_1", 0.75, 1.25),  # m
        "link_mass_1": PhysicsParameter("LINK_MASS_1", 0.5, 1.5),  # kg
        "link_mass_2": PhysicsParameter("LINK_MASS_2", 0.5, 1.5),  # kg
    },
    "MountainCar-v0": {
        "gravity": PhysicsParameter("gravity", 0.002, 0.003),
        "force": PhysicsParameter("force", 0.0008, 0.0015),
    },
    "MountainCarContinuous-v0": {
        "power": PhysicsParameter("power", 0.0012, 0.002),
    },
    "Pendulum-v1": {
        "g": PhysicsParameter("g", 5.0, 15.0),  # m/s²
        "m": PhysicsParameter("m", 0.5, 1.5),  # kg
        "l": PhysicsParameter("l", 0.5, 1.5),  # m
    },
}
"""The families, by gymnasium id and parameter. Names are gymnasium's, in lower case."""


def draw_physics(id: str, seed: int, names: Collection[str] = ()) -> dict[str, float]:
    """Return the physics of the task that `seed` stands for, each uniform over its range.

    `names` restricts which parameters vary (all, if empty). A parameter's value depends on the
    seed and its own name alone. BadInputError for an unknown family or parameter.
    """
    if id not in PHYSICS:
        raise BadInputError(f"no family of physics for '{id}' {known_names(id, PHYSICS)}")
    family = PHYSICS[id]
    drawn = {}
    for name in names or family:
        parameter = _parameter(id, name)
        generator = numpy_generator(seed, "physics", name)
        drawn[name] = float(generator.uniform(parameter.low, parameter.high))
    return drawn


def make_environment(id: str, num_envs: int, **physics: Any) -> GymnasiumEnvironment:
    """Make `num_envs` copies of the environment registered with gymnasium as `id`.

    Copies run one after another in this process, except CartPole's, which are one batch of
    arrays. For a family of PHYSICS, `physics` are values of its parameters; for any other id
    they are passed on to `gymnasium.make`. BadInputError for an unknown id, an environment that
    cannot be made or has an unsupported space, or physics that are unknown or not above 0.
    """
    check_num_envs(num_envs)
    if id not in PHYSICS:
        with _making(id):
            single = gymnasium.make(id, **physics)
        try:
            check_supported(id, single)
        finally:
            single.close()
        return GymnasiumEnvironment(id, _copies(id, num_envs, physics))
    mode = "vector_entry_point" if id == "CartPole-v1" else "sync"
    envs = gymnasium.make_vec(id, num_envs, vectorization_mode=mode)
    _set_physics(id, envs, physics)
    return GymnasiumEnvironment(id, envs)


def make_drawn(id: str, **physics: Any) -> tuple[VectorEnv[Any, Any, Any], GymnasiumEnvironment]:
    """Make a single copy that draws itself, and wrap it: gymnasium's own, and ours around it.

    `physics` and errors as of `make_environment`; gymnasium's `render` returns a picture for each
    copy, one here.
    """
    is_family = id in PHYSICS
    envs = _copies(id, 1, ({} if is_family else physics) | {"render_mode": "rgb_array"})
    if is_family:
        _set_physics(id, envs, physics)
    return envs, GymnasiumEnvironment(id, envs)


def _set_physics(id: str, envs: VectorEnv[Any, Any, Any], physics: dict[str, Any]) -> None:
    values = {_parameter(id, name): _positive(id, name, value) for name, value in physics.items()}
    for holder in _holders(envs):
        for parameter, value in values.items():
            setattr(holder, parameter.attribute, value)
        if id == "CartPole-v1":
            _derive_cart_pole(holder)


def _copies(id: str, num_envs: int, options: dict[str, Any]) -> VectorEnv[Any, Any, Any]:
    with _making(id):
        # Each copy's own checks of every step would cost more than many environments do.
        return gymnasium.make_vec(
            id, num_envs, vectorization_mode="sync", disable_env_checker=True, **options
        )


def _holders(envs: VectorEnv[Any, Any, Any]) -> list[Any]:
    """Return the objects that hold the constants: each copy, or the batch of arrays."""
    if isinstance(envs, SyncVectorEnv):
        return [one.unwrapped for one in envs.envs]
    return [envs]


def _derive_cart_pole(envs: Any) -> None:
    """Bring up to date what gymnasium computes from masses and length on construction."""
    envs.total_mass = envs.masspole + envs.masscart
    envs.polemass_length = envs.masspole * envs.length


def _parameter(id: str, name: str) -> PhysicsParameter:
    if name not in PHYSICS[id]:
        raise BadInputError(
            f"environment {id} has no physics '{name}' {known_names(name, PHYSICS[id])}"
        )
    return PHYSICS[id][name]


def _positive(id: str, name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise BadInputError(f"environment {id}: {name} is {value}, expected a number above 0")
    return float(value)


@contextmanager
def _making(id: str) -> Iterator[None]:
    try:
        yield
    except gymnasium.error.UnregisteredEnv as error:
        near = get_close_matches(id, gymnasium.registry, n=3)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise BadInputError(f"no environment is registered as '{id}'{hint}") from error
    except Exception as error:  # its constructor is anybody's code
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInputError(f"environment {id} cannot be made: {reason}") from error
