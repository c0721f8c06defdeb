"""Workers and aggregator in this process: a laptop, a debugger, most tests."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

from pipeline.aggregator import Commit, ShardUpdate
from pipeline.checkpoint_files import ShardFile
from pipeline.config import Experiment
from pipeline.failure import Kind
from pipeline.messages import Segment, TaskFailure, TaskKey, TaskSpec
from pipeline.run_meter import NoMeter
from pipeline.server import Start, build_shard, write_shard_of
from pipeline.task_states import DamagedStateError
from pipeline.workers import make_worker


class LocalBackend:
    """Runs tasks one after the other; a call of `events` computes one segment."""

    def __init__(self, experiment: Experiment, start: Start) -> None:
        self._experiment = experiment
        self._worker = make_worker(experiment)
        self.load(start)
        self._queue: deque[TaskSpec] = deque()
        self._stream: Iterator[Segment] | None = None

    def load(self, start: Start) -> None:
        """Build every shard anew."""
        numbers = range(self._experiment.aggregator.shards)
        self._shards = [build_shard(self._experiment, number, start) for number in numbers]

    def has_room(self) -> bool:
        """Whether the one slot is free."""
        return not self._queue

    def submit(self, spec: TaskSpec) -> None:
        """Queue the task."""
        self._queue.append(spec)

    def events(self, timeout_s: float) -> list[Segment | TaskFailure]:
        """Compute the next segment of the task at the head of the queue."""
        if not self._queue:
            return []
        if self._stream is None:
            params = [shard.params.numpy() for shard in self._shards]
            self._stream = self._worker.run(self._queue[0], params)
        try:
            segment = next(self._stream)
        except DamagedStateError as error:  # since the driver looked: an older one is left
            return [TaskFailure(self._ended(), str(error), Kind.STATE_DAMAGED)]
        if segment.final:
            self._ended()
        return [segment]

    def _ended(self) -> TaskSpec:
        self._stream = None
        return self._queue.popleft()

    def fold(self, segment: Segment) -> None:
        """Fold the slices at once."""
        for shard, share in zip(self._shards, segment.pieces, strict=True):
            slices = [(piece.offset, piece.values) for piece in share]
            shard.fold(segment.spec, segment.part, slices)

    def missing(self, commit: Commit) -> list[TaskKey]:
        """Nothing is lost within a process, so this finds programming errors only."""
        return sorted({key for shard in self._shards for key in shard.missing(commit)})

    def commit(self, commit: Commit) -> list[ShardUpdate]:
        """Take the outer step on every shard."""
        return [shard.commit(commit) for shard in self._shards]

    def has_lost_folds(self) -> bool:
        """Nothing is lost within a process."""
        return False

    def write_checkpoint(self, folder: Path, version: int) -> list[ShardFile]:
        """Write every shard."""
        return [write_shard_of(shard, folder, version) for shard in self._shards]

    def give_up(self) -> None:
        """Forget the queue and the task that was begun."""
        self.discard()

    def discard(self) -> None:
        """Forget the queue and the task that was begun."""
        self._queue.clear()
        self._stream = None

    def meter(self, run_id: str) -> NoMeter:
        """Nobody watches a process."""
        return NoMeter()

    def close(self) -> None:
        """Nothing to end."""
