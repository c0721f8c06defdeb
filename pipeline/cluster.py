"""Workers and aggregator as Ray actors: starting, feeding, watching and replacing them.

Who waits for whom:
  - a worker pauses once BACKPRESSURE_SEGMENTS of its segments wait for the driver;
  - the driver pauses in `fold` once MAX_FOLDS folds wait for the aggregator
    (`pipeline.shard_actors`);
  - a worker holds `workers.queue_depth` tasks, so that it never idles between two.
A dead worker's tasks come back as TaskFailure, and an actor of its own kind takes its place.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from pipeline.actors import TaskActor
from pipeline.aggregator import Commit, ShardUpdate
from pipeline.checkpoint_files import ShardFile
from pipeline.cluster_metrics import ClusterMetrics
from pipeline.config import Experiment
from pipeline.connection import NodeWatch, cause_of, connect, disconnect, first_line
from pipeline.errors import BadInputError, RunFailedError
from pipeline.failure import Action, Kind, decide
from pipeline.messages import Segment, TaskFailure, TaskKey, TaskSpec
from pipeline.progress import SHOWN
from pipeline.resources import gpu_share, nodes, room_for_workers
from pipeline.server import Start
from pipeline.shard_actors import ShardActors
from pipeline.task_states import DamagedStateError

LOOK_EVERY_S = 5.0  # at the size of the cluster
START_TIMEOUT_S = 180.0  # of a worker's process, its imports and its data

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Slot:
    """One worker: its actor, and the streams of the tasks it was given, oldest first."""

    actor: Any
    ready: Any | None  # reference to its process id, while it has not answered yet
    pid: int = 0
    begun: float = field(default_factory=time.monotonic)  # when it was asked for
    heard: float = 0.0  # when it was last heard of, or got something to do
    streams: deque[tuple[TaskSpec, Any]] = field(default_factory=deque)


class RayBackend:
    """The Trainer's view of a Ray cluster."""

    def __init__(self, experiment: Experiment, start: Start) -> None:
        self._experiment = experiment
        self._owns_ray = connect(experiment)
        self._watch = NodeWatch()
        self._gpus = gpu_share(experiment.workers, nodes())
        self._shards = ShardActors(experiment, self._watch)
        self._next_look = 0.0  # at the cluster's size; monotonic time
        self._slots = [self._start_worker() for _ in range(self._wanted())]
        self._starts_in_vain = 0  # in a row
        self._metrics: ClusterMetrics | None = None
        self.load(start)

    def load(self, start: Start) -> None:
        """Have every shard start anew."""
        self._shards.load(start)

    def has_room(self) -> bool:
        """Whether a standing worker's queue is short enough."""
        return self._freest() is not None

    def submit(self, spec: TaskSpec) -> None:
        """Hand the task to the worker with the shortest queue."""
        slot = self._freest()
        assert slot is not None
        if not slot.streams:
            slot.heard = time.monotonic()
        slot.streams.append((spec, slot.actor.run.remote(spec, self._shards.params)))

    def worker_pids(self) -> list[int]:
        """Process ids of the workers, in their order (for tests and tools)."""
        for slot in self._slots:
            if slot.ready is not None:
                slot.pid = int(ray.get(slot.ready))
        return [slot.pid for slot in self._slots]

    def shard_pids(self) -> list[int]:
        """Process ids of the aggregator's shards (for tests and tools)."""
        return self._shards.pids()

    def events(self, timeout_s: float) -> list[Segment | TaskFailure]:
        """Wait for any worker's next segment, failure or readiness."""
        if self._metrics is not None and self._metrics.is_due():
            standing = sum(slot.ready is None for slot in self._slots)
            self._metrics.record(standing, sum(len(slot.streams) for slot in self._slots))
        # A worker runs its tasks in order, so only its oldest stream can have news.
        waiting = {
            (slot.ready if slot.ready is not None else slot.streams[0][1]): slot
            for slot in self._slots
            if slot.ready is not None or slot.streams
        }
        if not waiting:
            return []
        done, _ = ray.wait(list(waiting), num_returns=1, timeout=timeout_s, fetch_local=False)
        if not done:
            self._watch.check(idle=True)
        self._follow_cluster()
        self._check_starts()
        found: list[Segment | TaskFailure] = self._hung()
        for item in done:
            found += self._news(waiting[item])
        return found

    def fold(self, segment: Segment) -> None:
        """Forward references; wait only when too many folds are under way."""
        self._shards.fold(segment)

    def missing(self, commit: Commit) -> list[TaskKey]:
        """Ask every shard, once all folds have ended."""
        return self._shards.missing(commit)

    def commit(self, commit: Commit) -> list[ShardUpdate]:
        """Take the outer step on every shard; AggregatorLostError if one was lost meanwhile."""
        return self._shards.commit(commit)

    def has_lost_folds(self) -> bool:
        """Whether a shard was put back since the last outer step."""
        return self._shards.has_lost_folds()

    def write_checkpoint(self, folder: Path, version: int) -> list[ShardFile]:
        """Have every shard write its own file."""
        return self._shards.write_checkpoint(folder.absolute(), version)

    def give_up(self) -> None:
        """Replace the workers: a task that runs cannot be called back."""
        self.discard()
        self._slots = [self._start_worker() for _ in range(self._wanted())]

    def discard(self) -> None:
        """Drop the workers with whatever they do."""
        for slot in self._slots:
            ray.kill(slot.actor)
        self._slots = []

    def meter(self, run_id: str) -> ClusterMetrics:
        """Have Ray export the run's metrics from now on."""
        self._metrics = ClusterMetrics(run_id, self._experiment.name)
        return self._metrics

    def close(self) -> None:
        """End this run's actors; end Ray too if it was started here."""
        self.discard()
        self._shards.kill()
        disconnect(self._owns_ray)

    def _freest(self) -> Slot | None:
        depth = self._experiment.workers.queue_depth
        free = [s for s in self._slots if s.ready is None and len(s.streams) < depth]
        return min(free, key=lambda slot: len(slot.streams), default=None)

    def _start_worker(self) -> Slot:
        workers = self._experiment.workers
        options: dict[str, Any] = {"num_cpus": workers.threads, "num_gpus": self._gpus}
        if workers.placement == "spread":
            options["scheduling_strategy"] = "SPREAD"
        if workers.accelerator:
            options["accelerator_type"] = workers.accelerator
        if workers.labels:
            options["label_selector"] = dict(workers.labels)
        actor = TaskActor.options(**options).remote(self._experiment)
        return Slot(actor, actor.ready.remote())

    def _wanted(self) -> int:
        """Return how many workers there are to be by now."""
        count = self._experiment.workers.count
        if count != "auto":
            return count
        return max(1, room_for_workers(self._experiment, self._gpus, nodes()))

    def _follow_cluster(self) -> None:
        """Have as many workers as the cluster has room for, if that is asked for.

        Those that stand are left to their tasks: a node that leaves ends them itself.
        """
        now = time.monotonic()
        if self._experiment.workers.count != "auto" or now < self._next_look:
            return
        self._next_look = now + LOOK_EVERY_S
        wanted, had = self._wanted(), len(self._slots)
        for slot in [slot for slot in self._slots if slot.ready is not None]:
            if len(self._slots) > wanted:
                ray.kill(slot.actor)
                self._slots.remove(slot)
        while len(self._slots) < wanted:
            self._slots.append(self._start_worker())
        if len(self._slots) != had:
            now_there = len(self._slots)
            logger.info(
                "the cluster has room for %d worker%s now; there were %d",
                *(now_there, "s" * (now_there != 1), had),
                extra=SHOWN,
            )

    def _check_starts(self) -> None:
        """Ask again for workers that hang while they start; RunFailedError if no worker stands."""
        now = time.monotonic()
        timeout_s = max(START_TIMEOUT_S, self._experiment.workers.wait_for_nodes_s)
        slow = [s for s in self._slots if s.ready is not None and now - s.begun > timeout_s]
        if slow and all(slot.ready is not None for slot in self._slots):
            longest = now - min(slot.begun for slot in slow)
            free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
            raise RunFailedError(
                f"no worker has started in {longest:.0f} s: each needs "
                f"{self._experiment.workers.threads} CPU core(s) and {self._gpus:g} GPU(s) on one "
                f"node; free in the cluster: {free.get('CPU', 0):g} CPU, {free.get('GPU', 0):g} GPU"
            )
        for slot in slow:  # one that only waits for room waits on, as another one
            logger.warning("a worker has not started in %g s; it is replaced", timeout_s)
            ray.kill(slot.actor)
            self._slots[self._slots.index(slot)] = self._start_worker()

    def _news(self, slot: Slot) -> list[Segment | TaskFailure]:
        try:
            if slot.ready is not None:
                slot.pid, slot.ready = ray.get(slot.ready), None
                self._starts_in_vain = 0
                return []
            segment: Segment = ray.get(next(slot.streams[0][1]))
        except RayTaskError as error:
            return self._task_raised(slot, error)
        except RayError as error:
            return self._replace(slot, kind_of(error), first_line(error))
        slot.heard = time.monotonic()
        if segment.final:
            slot.streams.popleft()
        return [segment]

    def _hung(self) -> list[Segment | TaskFailure]:
        """Replace the workers of which nothing was heard for too long."""
        timeout_s, now = self._experiment.workers.task_timeout_s, time.monotonic()
        found: list[Segment | TaskFailure] = []
        for slot in list(self._slots):
            if not timeout_s or slot.ready or not slot.streams or now - slot.heard <= timeout_s:
                continue
            done, _ = ray.wait([slot.streams[0][1]], timeout=0, fetch_local=False)
            if not done:  # it is not the driver who has not looked for so long
                reason = f"no segment for {timeout_s:g} s (workers.task_timeout_s)"
                found += self._replace(slot, Kind.TASK_HUNG, reason)
        return found

    def _task_raised(self, slot: Slot, error: RayTaskError) -> list[Segment | TaskFailure]:
        cause = cause_of(error)
        if slot.ready is not None:
            if isinstance(cause, BadInputError):
                raise cause
            raise RunFailedError(
                f"a worker could not start: {type(cause).__name__}: {first_line(cause)}"
            )
        slot.heard = time.monotonic()
        spec, _ = slot.streams.popleft()
        if isinstance(cause, RayError):  # the parameters were lost under the worker
            self._watch.check()  # as they are when this machine's own Ray is gone
            return [TaskFailure(spec, first_line(cause), Kind.OBJECT_LOST)]
        if isinstance(cause, RunFailedError):  # a full disk, say: one line that tells what to do
            raise cause from None
        if isinstance(cause, DamagedStateError):  # since the driver looked: an older one is left
            return [TaskFailure(spec, first_line(cause), Kind.STATE_DAMAGED)]
        reason = f"{type(cause).__name__}: {first_line(cause)}"
        return [TaskFailure(spec, reason, Kind.TASK_RAISED)]

    def _replace(self, slot: Slot, kind: Kind, reason: str) -> list[Segment | TaskFailure]:
        self._watch.check()
        if slot.ready is not None and kind is not Kind.NODE_LOST:
            self._count_start_in_vain(reason)
        ray.kill(slot.actor)
        self._slots[self._slots.index(slot)] = self._start_worker()
        return [
            TaskFailure(spec, reason, kind, begun=place == 0)
            for place, (spec, _) in enumerate(slot.streams)
        ]

    def _count_start_in_vain(self, reason: str) -> None:
        decision = decide(Kind.WORKER_STARTS_IN_VAIN, self._starts_in_vain, self._experiment)
        self._starts_in_vain += 1
        if decision.action is Action.STOP:
            raise RunFailedError(
                f"{self._starts_in_vain} workers died in a row while they started; the last: "
                f"{reason}"
            )


def kind_of(error: RayError) -> Kind:
    """Return what Ray's error says became of a worker."""
    text = str(error)
    if isinstance(error, OutOfMemoryError):
        return Kind.OUT_OF_MEMORY
    if "node has died" in text or "node was terminated" in text:
        return Kind.NODE_LOST
    return Kind.WORKER_DIED
