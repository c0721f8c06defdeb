"""What the Trainer asks of wherever workers and aggregator live.

Two kinds: `pipeline.local` (this process) and `pipeline.cluster` (Ray). The Trainer's loop is
the same over both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pipeline.aggregator import Commit, ShardUpdate
from pipeline.checkpoint_files import ShardFile
from pipeline.messages import Segment, TaskFailure, TaskKey, TaskSpec
from pipeline.run_meter import RunMeter
from pipeline.server import Start


class Backend(Protocol):
    """Workers and the aggregator's shards, as the control plane sees them."""

    def has_room(self) -> bool:
        """Whether a worker takes another task now."""

    def submit(self, spec: TaskSpec) -> None:
        """Hand a task to a worker, with the newest outer parameters."""

    def events(self, timeout_s: float) -> list[Segment | TaskFailure]:
        """Wait for what comes next; an empty list after `timeout_s` without any."""

    def fold(self, segment: Segment) -> None:
        """Forward a segment's slices to the aggregator; the driver never reads them."""

    def missing(self, commit: Commit) -> list[TaskKey]:
        """Return the accepted tasks of which a part was lost; they must be run again."""

    def commit(self, commit: Commit) -> list[ShardUpdate]:
        """Take the outer step on every shard; later tasks start from the new version.

        AggregatorLostError if a shard was lost on the way: then no shard has taken the step, and
        `missing` names the tasks that have to be run again.
        """

    def has_lost_folds(self) -> bool:
        """Whether a part of the aggregator was lost since the last outer step."""

    def load(self, start: Start) -> None:
        """Put the aggregator where `start` says; tasks start from there from now on."""

    def write_checkpoint(self, folder: Path, version: int) -> list[ShardFile]:
        """Have every shard write its state at `version` to a draft's `folder`."""

    def give_up(self) -> None:
        """Give up all tasks in flight, and be ready for others."""

    def discard(self) -> None:
        """Give up all tasks in flight; nothing is asked of workers any more."""

    def meter(self, run_id: str) -> RunMeter:
        """Return what counts the run's work for those who watch the cluster."""

    def close(self) -> None:
        """End workers and aggregator."""
