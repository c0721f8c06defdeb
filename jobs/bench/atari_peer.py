"""What `bench atari` is measured against: A2C of stable-baselines3, as its users set it up."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from algorithms.models.atari import NatureEncoder, SmallAtariEncoder
from jobs.bench.measured_process import Take
from pipeline.config import Experiment

LIBRARY = "stable-baselines3"
ENCODERS = {"atari-small": SmallAtariEncoder, "nature": NatureEncoder}
NEEDED = ("stable_baselines3", "cv2")  # its Atari wrappers resize with OpenCV


def is_installed() -> bool:
    """Return whether the library and what its Atari wrappers need are there."""
    return all(find_spec(name) is not None for name in NEEDED)


def installed_version() -> str:
    """Return the library's version; it must be there."""
    return version(LIBRARY)


def peer_loop(experiment: Experiment) -> Take:
    """Return A2C on the experiment's first game; it goes on without end.

    `make_atari_env`, a `VecFrameStack` and `CnnPolicy`, with the encoder, environments, rollout
    and RMSProp of `experiment`, in float32. Environments run in this process (`DummyVecEnv`): a
    process for each copy (`SubprocVecEnv`) was no faster on two cores, and takes a minute to start.
    """
    from ale_py.registration import rom_id_to_name  # its import registers the games
    from stable_baselines3 import A2C
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    config, agent, inner = experiment.environments, experiment.agent, experiment.inner
    played = {"frameskip": 1, "repeat_action_probability": config.repeat_action_probability}
    game = f"ALE/{rom_id_to_name(config.games[0])}-v5"
    envs = make_atari_env(game, config.num_envs, seed=0, env_kwargs=played)
    model = A2C(
        "CnnPolicy",
        VecFrameStack(envs, config.stack_num),
        learning_rate=inner.lr,
        n_steps=config.unroll,
        gamma=agent.discount,
        gae_lambda=agent.gae_lambda,
        ent_coef=agent.entropy_coefficient,
        vf_coef=agent.value_coefficient,
        max_grad_norm=inner.max_grad_norm or float("inf"),
        rms_prop_eps=inner.eps,
        policy_kwargs={"features_extractor_class": _extractor(experiment)},
        device="cpu",
    )

    def take(num_steps: int) -> None:
        env_steps = num_steps * config.unroll * config.num_envs
        model.learn(env_steps, reset_num_timesteps=False)

    take(2)
    return take


def plain_encoder(name: str, in_channels: int) -> nn.Sequential:
    """Return the encoder `name` for 84×84 pixels, of plain modules as the library's own are."""
    shape = ENCODERS[name]
    layers: list[nn.Module] = []
    channels, size = in_channels, 84
    for filters, kernel, stride in shape.convolutions:
        layers += [nn.Conv2d(channels, filters, kernel, stride), nn.ReLU()]
        channels, size = filters, (size - kernel) // stride + 1
    linear = nn.Linear(channels * size * size, shape.num_features)
    return nn.Sequential(*layers, nn.Flatten(), linear, nn.ReLU())


def _extractor(experiment: Experiment) -> type[nn.Module]:
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    name = experiment.model.encoder

    class Extractor(BaseFeaturesExtractor):  # type: ignore[misc]  # untyped: it is optional
        def __init__(self, observation_space: Any) -> None:
            super().__init__(observation_space, features_dim=ENCODERS[name].num_features)
            self.net = plain_encoder(name, observation_space.shape[0])

        def forward(self, observations: Tensor) -> Tensor:
            features: Tensor = self.net(observations)
            return features

    return Extractor
