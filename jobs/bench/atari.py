"""`outerloop bench atari`: env steps a second of whole A2C tasks, against what could be and a peer.

Ours is what a task worker does in the midst of a long task of `task.kind=atari`: it acts, learns,
folds and hands out segments; one single-threaded process for each of two cores, without Ray, whose
cost `bench pipeline` measures. Loading the game is not in it but told apart (`task_start_s`): ALE
takes seconds for it, whatever the length of the task. An env step is one action in one copy of the
game: four frames. All of this takes turns in one run, so that a machine that is busy in between
slows all; medians count.

The bound is what ALE and the network allow together, on the same two cores:

    1 / (1 / ALE's rate + 1 / the network's rate)

ALE's rate is that of its vector environment under random actions, played alike: one environment
with two threads, or two processes of one thread each, whichever is faster. The network's is that of
the passes that A2C cannot do without, on random frames, with backward pass and update, and with
neither environment nor sampling nor returns, in two processes of one thread.

The peer is A2C of stable-baselines3 (see `atari_peer`) with both cores to itself, with torch's own
number of threads and with one: the faster counts, since threads that wait for one another lose
most on a machine that others use too.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jobs import catalog
from jobs.bench import atari_peer
from jobs.bench.measured_process import MeasuredProcess, Take, steps_per_second
from jobs.console import say
from pipeline.config import Experiment
from pipeline.environments import AtariEnvironment
from pipeline.errors import BadInputError
from pipeline.learners import inner_optimizer
from pipeline.memory import keep_freed_memory
from pipeline.messages import TaskSpec
from pipeline.network import build_network, initial_outer_parameters
from pipeline.tasks.environment_pools import atari_options
from pipeline.tasks.shapes import task_shape
from pipeline.trajectory_worker import TrajectoryWorker
from pipeline.worker import PRECISIONS

NOT_INSTALLED = "not installed: pip install 'outerloop[bench]'"
CORES = 2
LONG = 1_000_000  # inner steps of a task: as good as without end


def run(
    game: str = "breakout",
    num_steps: int = 50,
    repeats: int = 5,
    overrides: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Measure, telling of each part on stderr; return the figures by name.

    `env_steps_per_s` is ours on two workers; `ratio_to_bound` and `ratio_to_peer` are medians of
    ratios within a repeat. Without the library `peer` says how to install it, and `ratio_to_peer`
    is None.

    Args:
        game: What is played.
        num_steps: Inner steps of a segment, and of one measurement.
        repeats: Measurements of each kind.
        overrides: Changes to the experiment `leap-atari-small`, as on the command line.

    Raises:
        BadInputError: The game is not known, an override is wrong, or there is one core.
    """
    experiment = bench_experiment(game, num_steps, overrides)
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    if len(cores) < CORES:
        raise BadInputError("bench atari: two cores are needed; there is one")
    rates = _rates(experiment, cores, repeats)
    figures = reported(experiment, rates)
    if atari_peer.is_installed():
        figures["peer_version"] = atari_peer.installed_version()
    _tell("loading the game")
    return figures | {
        "task_start_s": median(start_seconds(experiment) for _ in range(repeats)),
        "repeats": repeats,
        "inner_steps_per_measurement": num_steps,
    }


def bench_experiment(game: str, num_steps: int, overrides: tuple[str, ...] = ()) -> Experiment:
    """Return a long task on `game`, in segments of `num_steps`, without sticky actions."""
    settings = [
        f"environments.games=[{game}]",
        f"environments.held_out=[{'breakout' if game == 'pong' else 'pong'}]",
        "environments.repeat_action_probability=0",
        f"inner.num_steps={LONG}",
        f"inner.segment_steps={num_steps}",
        "workers.device=cpu",
    ]
    return catalog.load("leap-atari-small", [*settings, *overrides])


def env_steps(experiment: Experiment) -> int:
    """Return the env steps of one inner step."""
    return experiment.environments.unroll * experiment.environments.num_envs


def _rates(experiment: Experiment, cores: list[int], repeats: int) -> dict[str, list[float]]:
    """Return the env steps a second of each contestant in each repeat."""
    steps = experiment.inner.segment_steps
    with ExitStack() as stack:

        def start(threads: int, build: Any, *arguments: Any) -> MeasuredProcess:
            return stack.enter_context(MeasuredProcess(threads, build, *arguments))

        ours, ale, network = (
            [start(1, _pinned, build, experiment, [core]) for core in cores]
            for build in (task_loop, ale_loop, network_loop)
        )
        two_threads = partial(ale_loop, num_threads=CORES)
        contestants = {
            "two_workers": ours,
            "one_worker": ours[:1],
            "ale_two_processes": ale,
            "ale_one_thread": ale[:1],
            "ale_two_threads": [start(1, _pinned, two_threads, experiment, cores)],
            "network_two_processes": network,
            "network_one_process": network[:1],
        }
        if atari_peer.is_installed():
            for threads in (1, CORES):
                peer = start(threads, _pinned, atari_peer.peer_loop, experiment, cores)
                contestants[f"peer_threads_{threads}"] = [peer]
        rates: dict[str, list[float]] = {name: [] for name in contestants}
        for name, processes in contestants.items():
            _tell(f"starting {name}")
            steps_per_second(processes, 1)  # a process is built while it is waited for
        for repeat in range(1, repeats + 1):
            for name, processes in contestants.items():
                _tell(f"{name}, {repeat} of {repeats}")
                rate = steps_per_second(processes, steps)
                rates[name].append(rate * env_steps(experiment))
    return rates


def _tell(part: str) -> None:
    """Say on stderr what is measured now: all of it takes minutes."""
    say(f"bench atari: {part}", sys.stderr)


def _pinned(build: Any, experiment: Experiment, cores: list[int]) -> Take:
    """Return what `build` makes, on these cores alone."""
    os.sched_setaffinity(0, cores)
    take: Take = build(experiment)
    return take


def task_loop(experiment: Experiment) -> Take:
    """Return a task worker in the midst of its task; it takes whole segments."""
    worker = TrajectoryWorker(experiment)
    params = [initial_outer_parameters(experiment).numpy()]
    segments = worker.run(TaskSpec(0, 0, 0, "train", version=0), params)

    def take(num_steps: int) -> None:
        for _ in range(num_steps // experiment.inner.segment_steps):
            next(segments)

    take(experiment.inner.segment_steps)
    return take


def start_seconds(experiment: Experiment) -> float:
    """Return how long the environments of a task take to be there."""
    start = time.perf_counter()
    environment = _environment(experiment)
    environment.reset(0)
    environment.close()
    return time.perf_counter() - start


def ale_loop(experiment: Experiment, num_threads: int = 1) -> Take:
    """Return ALE's vector environment under random actions, by inner steps."""
    environment = _environment(experiment, num_threads)
    environment.reset(0)
    generator = np.random.default_rng(0)
    shape = (experiment.environments.unroll, environment.num_envs)

    def take(num_steps: int) -> None:
        for _ in range(num_steps):
            for actions in generator.integers(environment.action_space.count, size=shape):
                environment.step(actions)

    take(2)
    return take


def _environment(experiment: Experiment, num_threads: int = 1) -> AtariEnvironment:
    config = experiment.environments
    return AtariEnvironment(config.games[0], config.num_envs, atari_options(config), num_threads)


def network_loop(experiment: Experiment) -> Take:
    """Return the network's share of an inner step alone."""
    keep_freed_memory()
    model, vector = build_network(experiment)
    update = inner_optimizer(experiment, experiment.inner.num_steps).start(vector)
    precision = PRECISIONS[experiment.inner.precision]
    size = task_shape(experiment)
    num_passes, num_envs = experiment.environments.unroll, experiment.environments.num_envs
    frames = torch.randint(
        256,
        (num_passes + 1, num_envs, size.in_channels, size.image_size, size.image_size),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )

    def step() -> None:
        vector.grads.zero_()
        with torch.autocast("cpu", precision, enabled=precision is torch.bfloat16):
            passes = [model(batch) for batch in frames[:-1]]
            with torch.no_grad():
                model(frames[-1])  # the value to bootstrap from
        # Stands for A2C's loss: as cheap as can be, with gradients for every output.
        outputs, values = (torch.stack(tensors) for tensors in zip(*passes, strict=True))
        loss: Tensor = outputs.square().mean() + values.square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        # A rate of 0: it does its work but moves nothing.
        update.apply(torch.linalg.vector_norm(vector.grads), 0.0)

    def take(num_steps: int) -> None:
        for _ in range(num_steps):
            step()

    take(2)
    return take


def reported(experiment: Experiment, rates: dict[str, list[float]]) -> dict[str, Any]:
    """Return the figures, by name, of the rates of each contestant in each repeat."""
    ours = rates["two_workers"]
    ale = _faster(rates["ale_two_processes"], rates["ale_two_threads"])
    network = rates["network_two_processes"]
    bound = [1 / (1 / a + 1 / n) for a, n in zip(ale, network, strict=True)]
    figures: dict[str, Any] = {
        "env_steps_per_s": median(ours),
        "env_steps_per_s_one_worker": median(rates["one_worker"]),
        "scaling_1_to_2": _median_ratio(ours, rates["one_worker"]),
        "bound_env_steps_per_s": median(bound),
        # Ratios within a repeat, so that a slow minute of the machine weighs on both sides.
        "ratio_to_bound": _median_ratio(ours, bound),
        "ratio_to_ale": _median_ratio(ours, ale),
    }
    parts = ("ale_one_thread", "ale_two_threads", "ale_two_processes")
    for name in (*parts, "network_one_process", "network_two_processes"):
        figures[f"{name}_env_steps_per_s"] = median(rates[name])
    peers = {name: values for name, values in rates.items() if name.startswith("peer_")}
    figures |= {"peer": NOT_INSTALLED, "ratio_to_peer": None}
    if peers:
        best = _faster(*peers.values())
        figures |= {
            "peer": atari_peer.LIBRARY,
            "ratio_to_peer": _median_ratio(ours, best),
            "peer_env_steps_per_s": median(best),
        }
        figures |= {f"{name}_env_steps_per_s": median(values) for name, values in peers.items()}
    return figures | {
        "game": experiment.environments.games[0],
        "num_envs": experiment.environments.num_envs,
        "unroll": experiment.environments.unroll,
        "encoder": experiment.model.encoder,
        "precision": experiment.inner.precision,
    }


def _faster(*rates: list[float]) -> list[float]:
    """Return those of which the median is highest."""
    return max(rates, key=median)


def _median_ratio(ours: list[float], theirs: list[float]) -> float:
    return median(a / b for a, b in zip(ours, theirs, strict=True))
