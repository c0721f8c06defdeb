"""What MLflow has not got of runs that have ended, sent to it now: of an offline run, all."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.checkpoint import CheckpointStore
from pipeline.copies import copying
from pipeline.delivery import Delivery
from pipeline.errors import BadInputError, OuterloopError, RunFailedError
from pipeline.files import disk_errors
from pipeline.metric_log import count_points
from pipeline.outbox import count_items
from pipeline.reasons import plain_reason
from pipeline.redaction import redact
from pipeline.runs import RunFolder, home, list_runs
from pipeline.tracking import tracking_uri
from pipeline.tracking_marks import delivered_to, read_target


@dataclass(frozen=True, slots=True)
class Synced:
    """What was sent of a run, and what is left because MLflow refuses it."""

    run_id: str
    address: str  # of MLflow, without a password
    points: int
    items: int
    left: int


def waiting_runs() -> list[RunFolder]:
    """Return the runs in the home that have something for MLflow, and that nobody is at work on."""
    runs = [RunFolder(home() / name) for name in list_runs()]
    return [run for run in runs if not run.is_in_use() and any(waiting(run))]


def waiting(run: RunFolder) -> tuple[int, int]:
    """Return how many points and how many other items of the run MLflow has not got."""
    folder = run.metrics.parent
    if not folder.is_dir():
        return 0, 0
    points = count_points(run.metrics, delivered_to(folder)) if run.metrics.exists() else 0
    return points, count_items(folder / "pending")


def sync(run: RunFolder) -> Synced:
    """Send all that waits of the run, to where its configuration or the environment says.

    Raises:
        BadInputError: The run is in use, was never begun, or went on on another machine.
        RunFailedError: MLflow does not answer, or the run's folder cannot be written.
    """
    with run.locked():
        experiment = run.read_experiment()
        if read_target(run.metrics.parent) is None:
            raise BadInputError(f"run {run.run_id} was never tracked: there is nothing to send")
        uri = tracking_uri(experiment.tracking.uri, home())
        steps = CheckpointStore(run.checkpoints, keep=experiment.checkpoint.keep).steps()
        with (
            disk_errors(f"tracking in {run.path}", "make room, then sync again"),
            copying(run, experiment, steps[-1] if steps else 0) as copies,
        ):
            delivery = Delivery(run.path, uri, experiment.tracking.experiment, copies.confirm)
            try:
                points, items = delivery.deliver(with_refused=True)
            except OuterloopError:
                raise
            except Exception as error:  # all that MLflow, its database or its network can raise
                num_points, num_items = delivery.undelivered()
                raise RunFailedError(
                    f"MLflow at {redact(uri)}: {plain_reason(error)}; {num_points} metric points "
                    f"and {num_items} other items of run {run.run_id} wait"
                ) from error
            return Synced(run.run_id, redact(uri), points, items, sum(delivery.undelivered()))
