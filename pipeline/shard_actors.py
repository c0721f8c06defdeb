"""The aggregator's shards as Ray actors: asking them, and putting a lost one back where it was.

After every outer step a shard hands its parameters and its optimizer's state to the object store,
as return values, which Ray lets the driver own: they outlast the shard's process, and the driver
holds no more of them than references. An actor that takes the place of a lost one starts from
them, at the last outer step. What the lost one held of the step to come is lost: `missing` names
those tasks, and the Trainer has them run again. If that was while a step was taken, the others
undo theirs.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.actors import AggregatorActor
from pipeline.aggregator import Commit, ShardUpdate
from pipeline.checkpoint_files import ShardFile
from pipeline.config import Experiment
from pipeline.connection import NodeWatch, cause_of, first_line
from pipeline.errors import (
    AggregatorGoneError,
    AggregatorLostError,
    BadInputError,
    RunFailedError,
)
from pipeline.failure import Action, Kind, decide
from pipeline.messages import Segment, TaskKey
from pipeline.server import Start, restored_shard, write_shard_of

MAX_FOLDS = 64
START_TIMEOUT_S = 180.0
LOST = object()  # the answer of a shard that was lost, and stands again

logger = logging.getLogger(__name__)


class ShardActors:
    """The aggregator, as the driver sees it.

    At all times:
      - `params` and `_states` are of one outer step, the last that all shards took;
      - so are all shards: one that was lost is put back there, and if that was while they took a
        step, the others are too. Which tasks make the step may be another answer the next time.
    """

    def __init__(self, experiment: Experiment, watch: NodeWatch) -> None:
        """Start an actor for each shard, on this node if there is room."""
        self._experiment = experiment
        self._watch = watch
        self._timeout_s = experiment.workers.task_timeout_s or None
        # Till a process has come up, imported torch and read a checkpoint.
        self._start_timeout_s = max(self._timeout_s, START_TIMEOUT_S) if self._timeout_s else None
        self._actors = [self._new_actor() for _ in range(experiment.aggregator.shards)]
        self._folds: deque[tuple[int, Any]] = deque()
        self.params: list[Any] = []  # references, one a shard
        self._states: list[Any] = []
        self._losses = 0  # in a row, without an outer step in between

    def load(self, start: Start) -> None:
        """Have every shard start anew."""
        self._folds.clear()
        self._states = []  # nothing to put a shard back to: one that is lost is begun with again
        calls = [a.start.remote(self._experiment, n, start) for n, a in enumerate(self._actors)]
        for number in range(len(calls)):
            while self._answer(number, calls[number][0], self._start_timeout_s) is LOST:
                actor = self._actors[number]
                calls[number] = actor.start.remote(self._experiment, number, start)
        self.params = [params for _, params, _ in calls]
        self._states = [state for _, _, state in calls]

    def pids(self) -> list[int]:
        """Return the shards' process ids."""
        return list(ray.get([actor.pid.remote() for actor in self._actors]))

    def fold(self, segment: Segment) -> None:
        """Forward references; wait only when too many folds are under way."""
        for number, share in enumerate(segment.pieces):
            call = self._actors[number].fold.remote(segment.spec, segment.part, share)
            self._folds.append((number, call))
        while len(self._folds) > MAX_FOLDS:
            self._answer(*self._folds.popleft())  # of one that is lost, `missing` will tell

    def missing(self, commit: Commit) -> list[TaskKey]:
        """Ask every shard; an actor answers in order, so all folds have ended by then."""
        while self._folds:
            self._answer(*self._folds.popleft())  # raises what a fold raised
        found: set[TaskKey] = set()
        for answer in self._ask_all("missing", commit):
            found.update(answer)
        return sorted(found)

    def commit(self, commit: Commit) -> list[ShardUpdate]:
        """Take the outer step on every shard and remember where the new parameters are.

        AggregatorLostError if a shard was lost on the way: then all are where they were before.
        """
        calls = [actor.commit.remote(commit) for actor in self._actors]
        updates = [self._answer(number, update) for number, (update, *_) in enumerate(calls)]
        if LOST in updates:
            self._undo(number for number, update in enumerate(updates) if update is not LOST)
            raise AggregatorLostError
        self.params = [params for _, params, _ in calls]
        self._states = [state for _, _, state in calls]
        self._losses = 0
        return updates

    def has_lost_folds(self) -> bool:
        """Whether a shard was put back since the last outer step."""
        return self._losses > 0

    def write_checkpoint(self, folder: Path, version: int) -> list[ShardFile]:
        """Have every shard write its own file; that of one that is gone for good is written here.

        The others' files never are: two processes would write one file.
        """
        calls = [actor.write_checkpoint.remote(folder, version) for actor in self._actors]
        written = []
        for number, call in enumerate(calls):
            try:
                answer = self._answer(number, call)
                written.append(
                    self._asked_again(number, answer, "write_checkpoint", folder, version)
                )
            except AggregatorGoneError:
                written.append(self._write_here(number, folder, version))
        return written

    def kill(self) -> None:
        """End all shards."""
        for actor in self._actors:
            ray.kill(actor)

    def _new_actor(self) -> Any:
        # Beside the driver: the loss of another node costs workers alone.
        here = ray.get_runtime_context().get_node_id()
        return AggregatorActor.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=True)
        ).remote()

    def _ask_all(self, method: str, *arguments: Any) -> list[Any]:
        """Return every shard's answer; one that is lost is put back and asked again."""
        calls = [getattr(actor, method).remote(*arguments) for actor in self._actors]
        answers = [self._answer(number, call) for number, call in enumerate(calls)]
        return [
            self._asked_again(n, answer, method, *arguments) for n, answer in enumerate(answers)
        ]

    def _asked_again(self, number: int, answer: Any, method: str, *arguments: Any) -> Any:
        """Return `answer`, or that of the shard that took its place if it was lost."""
        while answer is LOST:
            answer = self._answer(number, getattr(self._actors[number], method).remote(*arguments))
        return answer

    def _write_here(self, number: int, folder: Path, version: int) -> ShardFile:
        try:
            published = [self.params[number], self._states[number]]
            params, state = ray.get(published, timeout=self._timeout_s)
        except RayError as error:
            self._watch.check()
            raise RunFailedError(
                f"the aggregator was lost, and its last outer step with it: {first_line(error)}"
            ) from None
        arrays = params.arrays["params"], state.arrays
        return write_shard_of(restored_shard(self._experiment, number, *arrays), folder, version)

    def _answer(self, number: int, call: Any, timeout_s: float | None = None) -> Any:
        """Return what a shard answers; LOST if it was lost, in which case it was put back."""
        timeout_s = timeout_s or self._timeout_s
        try:
            return ray.get(call, timeout=timeout_s)
        except RayTaskError as error:
            cause = cause_of(error)
            if isinstance(cause, (BadInputError, RunFailedError)):
                raise cause from None
            raise RunFailedError(
                f"the aggregator failed: {type(cause).__name__}: {first_line(cause)}"
            ) from error
        except GetTimeoutError:
            self._put_back(number, f"no answer for {timeout_s:g} s (workers.task_timeout_s)")
        except RayActorError as error:
            self._put_back(number, first_line(error))
        except RayError as error:
            self._watch.check()
            raise RunFailedError(f"the aggregator was lost: {first_line(error)}") from None
        return LOST

    def _undo(self, numbers: Iterable[int]) -> None:
        """Have the shards `numbers` be at the last outer step again, without open tasks."""
        calls = [(number, self._restore(number)) for number in numbers]
        for number, call in calls:
            self._answer(number, call, self._start_timeout_s)

    def _restore(self, number: int) -> Any:
        return self._actors[number].restore.remote(
            self._experiment, number, self.params[number], self._states[number]
        )

    def _put_back(self, number: int, reason: str) -> None:
        """Start an actor in place of a lost one, at the last outer step if there was one."""
        told, version = reason, None
        while version is None:
            self._replace(number, reason)
            if not self._states:
                logger.warning(
                    "aggregator shard %d was lost and is started again: %s", number, told
                )
                return
            try:
                version = ray.get(self._restore(number), timeout=self._start_timeout_s)
            except (RayActorError, GetTimeoutError) as error:  # this one too, while it started
                reason = first_line(error)
            except RayError as error:
                self._watch.check()
                raise RunFailedError(
                    f"the aggregator was lost, and its last outer step with it: {first_line(error)}"
                ) from None
        logger.warning(
            "aggregator shard %d was lost and goes on from outer step %d: %s",
            *(number, version, told),
        )

    def _replace(self, number: int, reason: str) -> None:
        """Start an actor that holds nothing yet in place of a lost one, unless it is too often."""
        self._watch.check()
        ray.kill(self._actors[number])  # it may only hang, and would go on beside its successor
        decision = decide(Kind.AGGREGATOR_DIED, self._losses, self._experiment)
        self._losses += 1
        if decision.action is Action.STOP:
            raise AggregatorGoneError(
                f"the aggregator was lost {self._losses} times without an outer step: {reason}"
            )
        time.sleep(decision.wait_s)
        self._folds = deque((of, call) for of, call in self._folds if of != number)
        self._actors[number] = self._new_actor()
