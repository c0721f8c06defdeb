"""All that crosses a process border, as frozen dataclasses.

Arrays inside are NumPy or Arrow, which the object store carries without a copy; torch tensors
never travel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa

from pipeline.failure import Kind

TRAJECTORY_SCHEMA = pa.schema(
    [
        ("meta_step", pa.int64()),
        ("task", pa.int32()),  # index in the meta-batch
        ("task_name", pa.string()),
        ("attempt", pa.int32()),
        ("step", pa.int64()),  # inner step, from 0
        ("loss", pa.float32()),
        ("error", pa.float32()),  # share of the minibatch misclassified; null: no meaning
        ("grad_norm", pa.float32()),
        ("path_length", pa.float32()),  # length of the path in parameter space so far
        ("lr", pa.float32()),
        ("wall_ms", pa.float32()),  # mean over the segment: single steps are not timed
        # Of reinforcement learning; null elsewhere, and where no episode ended in the step.
        ("env_steps", pa.int64()),  # actions taken in the task so far, in all its environments
        ("episode_return", pa.float32()),  # mean over the episodes that ended; true rewards
        ("episode_length", pa.float32()),  # mean over the same, in actions
        ("entropy", pa.float32()),  # of the policy, in nats
    ]
)


# Segments that may wait for the driver before a worker pauses: so far it may be ahead of it.
BACKPRESSURE_SEGMENTS = 4

Split = Literal["train", "val", "test"]
TaskKey = tuple[int, int]  # meta_step and index of a task in meta-training


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task to be run once: everything a worker needs besides the outer parameters."""

    meta_step: int
    index: int  # place in the meta-batch
    task_id: int  # which task of the family: index into the split's tasks
    split: Split
    version: int  # of the outer parameters that it starts from
    attempt: int = 0
    purpose: Literal["train", "evaluate"] = "train"
    method: str = ""  # for evaluation: whose parameters these are
    repeat: int = 0  # for evaluation: which of the independent adaptations
    folder: str = ""  # where the worker keeps checkpoints inside the task; empty: it keeps none
    resume: int = 0  # inner step to go on from, by the checkpoint in `folder`; 0: from the start
    losses: int = 0  # failures in a row without coming any further, those that count

    @property
    def key(self) -> TaskKey:
        """What tells its contribution to an outer step from all others of its run."""
        return self.meta_step, self.index

    @property
    def title(self) -> str:
        """What messages call it: outer steps are counted from 1, as in lines of progress.

        In async mode a task's outer step is the one that was under way when it began.
        """
        if self.purpose == "train":
            return f"task {self.index} of outer step {self.version + 1}"
        return f"task {self.index} of the {'meta-test' if self.split == 'test' else 'validation'}"

    def retry(self, is_counted: bool = True) -> TaskSpec:
        """Return the same work as the next attempt, after a loss that counts or does not."""
        return replace(self, attempt=self.attempt + 1, losses=self.losses + is_counted)

    def resumed(self, step: int, folder: str = "") -> TaskSpec:
        """Return the same attempt, to go on from inner step `step` by a checkpoint in `folder`."""
        further = step > self.resume
        return replace(
            self, resume=step, folder=folder, losses=min(self.losses, 1) if further else self.losses
        )


@dataclass(frozen=True, slots=True)
class Piece:
    """A slice of a task's outer gradient: the elements from `offset` on of the outer vector."""

    offset: int
    values: Any  # a float32 array, or an object-store reference to one
    length: int


@dataclass(frozen=True, slots=True)
class Segment:
    """What a worker streams: some inner steps' scalars and their part of the outer gradient."""

    spec: TaskSpec
    number: int  # from 0 within the attempt
    final: bool
    finite: bool  # False: a loss or gradient was not finite, or `failure`; the task ends here
    task: str  # name of the task
    rows: pa.RecordBatch  # TRAJECTORY_SCHEMA; none where no inner step was taken
    pieces: tuple[tuple[Piece, ...], ...]  # for each aggregator shard, its share; or none
    metrics: dict[str, float]  # on held-out data after the last step; empty before
    failure: str = ""  # what the task's environment raised, which ends this task alone
    part: int = 0  # of those of the attempt's segments that have pieces: which one, from 0
    kept: bool = False  # a checkpoint inside the task follows: its rows are to outlast the driver


@dataclass(frozen=True, slots=True)
class TaskFailure:
    """An attempt that ended without its final segment."""

    spec: TaskSpec
    reason: str
    kind: Kind
    begun: bool = True  # False: it only waited in the queue of a worker that died
