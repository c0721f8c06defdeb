"""What is to be done about each kind of failure. Decides, and acts on nothing.

Whoever meets a failure that counts (of a worker, a task, the aggregator) asks `decide`, which knows
no more than what failed and how often in a row, and does what it says. Of the rows after those the
action is what the code that meets the failure does by itself: there is nothing to count. The table
in `pipeline/README.md` is this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the configuration imports torch, which a message does not need
    from pipeline.config import Experiment

MAX_WAIT_S = 60.0


class Kind(StrEnum):
    """What can fail."""

    WORKER_DIED = "a worker dies"
    WORKER_STARTS_IN_VAIN = "a worker dies while it starts"
    NODE_LOST = "a node is lost"
    OUT_OF_MEMORY = "a worker is killed for memory"
    TASK_HUNG = "a task hangs"
    OBJECT_LOST = "an object is lost"
    FOLDS_LOST = "a contribution is lost with the aggregator"
    STATE_DAMAGED = "a checkpoint inside a task is damaged"
    TASK_RAISED = "a task's own code raises"
    ENVIRONMENT_FAILED = "an environment raises or hangs"
    NOT_FINITE = "a loss or gradient is not finite"
    AGGREGATOR_DIED = "the aggregator dies"
    RAY_DIED = "Ray dies on the driver's machine"
    DRIVER_DIED = "the driver dies"
    STOP_ASKED = "SIGINT, SIGTERM, SIGHUP"
    STORAGE_FAILED = "the disk is full or cannot be written"
    CHECKPOINT_DAMAGED = "the newest checkpoint is damaged"
    TRACKING_DOWN = "MLflow is slow, away or killed"
    COPIES_DOWN = "storage of copies is slow or away"


class Action(StrEnum):
    """What can be done."""

    RETRY = "retry"  # the task's next attempt, from its last inner checkpoint, if it has one
    DROP = "drop and count"  # the task has no part in the outer step
    REPLACE = "replace"  # by another one
    PUT_BACK = "put back"  # anew, at the last outer step; what it held since is computed again
    FALL_BACK = "fall back"  # on the one before
    RESUME = "resume"  # by hand, from the last checkpoint
    GO_ON = "go on"  # and deliver later
    STOP = "stop"  # with a checkpoint of the last whole outer step


@dataclass(frozen=True, slots=True)
class Rule:
    """What is done about one kind of failure, and how often in a row before the run stops."""

    action: Action
    limit: str = ""  # key of the configuration, or a number; empty: there is none
    backs_off: bool = False  # whether each time in a row is waited for longer


POLICY: dict[Kind, Rule] = {
    Kind.WORKER_DIED: Rule(Action.RETRY, "workers.max_retries", backs_off=True),
    Kind.WORKER_STARTS_IN_VAIN: Rule(Action.REPLACE, "10"),
    # A machine that is taken away says nothing against the tasks that were on it.
    Kind.NODE_LOST: Rule(Action.RETRY),
    Kind.OUT_OF_MEMORY: Rule(Action.RETRY, "workers.max_retries", backs_off=True),
    Kind.TASK_HUNG: Rule(Action.RETRY, "workers.max_retries"),
    Kind.OBJECT_LOST: Rule(Action.RETRY, "workers.max_retries", backs_off=True),
    Kind.FOLDS_LOST: Rule(Action.RETRY),  # the aggregator has a limit of its own
    Kind.STATE_DAMAGED: Rule(Action.RETRY, "workers.max_retries"),
    Kind.TASK_RAISED: Rule(Action.STOP),
    Kind.ENVIRONMENT_FAILED: Rule(Action.DROP, "meta.max_bad_tasks"),
    Kind.NOT_FINITE: Rule(Action.DROP, "meta.max_bad_tasks"),
    Kind.AGGREGATOR_DIED: Rule(Action.PUT_BACK, "3", backs_off=True),
    Kind.RAY_DIED: Rule(Action.STOP),
    Kind.DRIVER_DIED: Rule(Action.RESUME),
    Kind.STOP_ASKED: Rule(Action.STOP),
    Kind.STORAGE_FAILED: Rule(Action.STOP),
    Kind.CHECKPOINT_DAMAGED: Rule(Action.FALL_BACK),
    Kind.TRACKING_DOWN: Rule(Action.GO_ON),  # `pipeline.delivery` paces itself
    Kind.COPIES_DOWN: Rule(Action.GO_ON),  # `pipeline.copies` paces itself
}


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now."""

    action: Action
    wait_s: float = 0.0  # before it is done


def decide(kind: Kind, before: int, experiment: Experiment) -> Decision:
    """Return what to do about a failure of `kind`.

    Args:
        kind: What failed.
        before: How many failures of the same thing came before it in a row: without a task having
            come any further, without a finite task, without a worker that stands, or without an
            outer step in between.
        experiment: Has the limits.
    """
    rule = POLICY[kind]
    if rule.limit and before >= limit_of(rule, experiment):
        return Decision(Action.STOP)
    doublings = min(before - 1, 10)  # two to the power of 1,024 is no float any more
    wait_s = min(2.0**doublings, MAX_WAIT_S) if rule.backs_off and before else 0.0
    return Decision(rule.action, wait_s)


def limit_of(rule: Rule, experiment: Experiment) -> int:
    """Return how many times in a row the rule's action is taken."""
    if rule.limit.isdigit():
        return int(rule.limit)
    section, key = rule.limit.split(".")
    return int(getattr(getattr(experiment, section), key))
