"""What an aggregator actor holds: a shard, where it starts from, how it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.aggregator import AggregatorShard, Array
from pipeline.checkpoint import Checkpoint, CheckpointStore
from pipeline.checkpoint_files import DamagedCheckpointError, ShardFile, write_shard
from pipeline.config import Experiment
from pipeline.errors import RunFailedError
from pipeline.files import disk_errors
from pipeline.network import build_network, initial_outer_parameters, outer_layout

OPTIMIZER = "optimizer/"  # before the names of its tensors


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run begins: the experiment's initialisation, or a checkpoint of outer step `step`."""

    checkpoints: Path | None = None
    step: int = 0


def build_shard(experiment: Experiment, number: int, start: Start) -> AggregatorShard:
    """Return shard `number` at `start`; each shard reads or draws its own slice."""
    torch.set_num_threads(1)
    layout = outer_layout(experiment, build_network(experiment)[1])
    first, last = layout.shard_bounds()[number]
    if start.checkpoints is None:
        params = initial_outer_parameters(experiment)
        return AggregatorShard(
            first, params[first:last], experiment.outer, num_steps=experiment.meta.num_steps
        )
    checkpoint = load_checkpoint(start)
    if len(checkpoint.params) != layout.size:
        raise RunFailedError(
            f"{start.checkpoints}: checkpoint holds {len(checkpoint.params)} parameters, the "
            f"experiment has {layout.size}"
        )
    shard = AggregatorShard(
        first,
        torch.from_numpy(checkpoint.params[first:last].copy()),
        experiment.outer,
        start.step,
        experiment.meta.num_steps,
    )
    shard.optimizer.load_state_tensors(
        {
            name: torch.from_numpy(values[first:last].copy() if values.shape else values.copy())
            for name, values in checkpoint.optimizer.items()
        }
    )
    return shard


def state_of(shard: AggregatorShard) -> dict[str, Array]:
    """Return what `restored_shard` needs besides parameters: optimizer's state, outer steps."""
    state = {f"{OPTIMIZER}{k}": t.numpy() for k, t in shard.optimizer.state_tensors().items()}
    return state | {"version": np.array(shard.version)}


def restored_shard(
    experiment: Experiment, number: int, params: Array, state: Mapping[str, Array]
) -> AggregatorShard:
    """Return shard `number` as it was with `params` when `state_of` returned `state`.

    It holds no open tasks.
    """
    torch.set_num_threads(1)
    layout = outer_layout(experiment, build_network(experiment)[1])
    shard = AggregatorShard(
        layout.shard_bounds()[number][0],
        torch.from_numpy(params.copy()),
        experiment.outer,
        int(state["version"]),
        experiment.meta.num_steps,
    )
    shard.optimizer.load_state_tensors(
        {
            name.removeprefix(OPTIMIZER): torch.from_numpy(values.copy())
            for name, values in state.items()
            if name.startswith(OPTIMIZER)
        }
    )
    return shard


def load_checkpoint(start: Start) -> Checkpoint:
    """Return the checkpoint that `start` names; RunFailedError if it cannot be read any more."""
    assert start.checkpoints is not None
    try:
        return CheckpointStore(start.checkpoints, keep=2).load(start.step)
    except DamagedCheckpointError as error:
        raise RunFailedError(
            f"{start.checkpoints}: the checkpoint of outer step {start.step} cannot be read "
            f"({error}); every node needs to see this folder"
        ) from None


def write_shard_of(shard: AggregatorShard, folder: Path, version: int) -> ShardFile:
    """Write the shard's parameters and optimizer state, at `version`, into a draft's folder.

    RunFailedError if the disk is full, or is not there on the shard's node.
    """
    shard.check_version(version)
    state = {name: t.numpy() for name, t in shard.optimizer.state_tensors().items()}
    with disk_errors(f"checkpoint {folder}", "free space or mend the folder, then resume the run"):
        return write_shard(folder, shard.offset, shard.params.numpy(), state)
