"""From the tracking folder of a run to MLflow: what has been delivered, and what has not.

    tracking/metrics.jsonl    pipeline.metric_log
             pending/         pipeline.outbox
             *.json           pipeline.tracking_marks
             sent.jsonl       pipeline.sent_record

Any part may be sent twice, after a crash: MLflow keeps one of each point by its fixed time stamp.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import TakenOverError, UnconfirmedError
from pipeline.files import read_object, sync_file, write_atomic
from pipeline.metric_log import MetricPoint, count_points, now_ms, read_points
from pipeline.mlflow_run import MAX_POINTS_IN_A_REQUEST, MlflowRun, RunIdentity, is_refusal
from pipeline.outbox import Item, count_items, pending_items
from pipeline.progress import SHOWN
from pipeline.reasons import plain_reason
from pipeline.redaction import redact
from pipeline.sent_record import SENT, SentRecord
from pipeline.tracking_marks import (
    DELIVERED,
    FETCHED,
    TARGET,
    delivered_to,
    read_target,
    steps_in,
)

DELIVER_EVERY_S = 5.0
MAX_BACK_OFF_S = 60.0
REFUSED_AGAIN_AFTER_S = 600.0
MAX_FAILURES_AT_END = 6
AT_END_EVERY_S = 2.0
# What comes of an item that was damaged on disk; it must not hold up those after it.
ITS_OWN_FAULT = (LookupError, TypeError, AttributeError)

logger = logging.getLogger(__name__)


class TrackingEndedError(Exception):
    """What waits is for another process, or a later Tracker of this one, to send."""


class Delivery:
    """Sends what waits in a run folder's tracking folder; blocks, and raises what MLflow raises.

    Args:
        run_folder: The run's folder, whose name is the run's name in MLflow.
        uri: MLflow server or database. Another one than the last gets every point from the first
            on.
        experiment: MLflow experiment of a run that is not in MLflow yet.
        confirm: Is asked before anything is sent; raises if it must not be.

    Raises:
        BadInputError: What says which run in MLflow is this one is damaged.
    """

    def __init__(
        self,
        run_folder: Path,
        uri: str,
        experiment: str,
        confirm: Callable[[], None] = lambda: None,
    ) -> None:
        run_folder = run_folder.resolve()
        self.folder = run_folder / "tracking"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.metrics_path = self.folder / "metrics.jsonl"
        self.pending_folder = self.folder / "pending"
        self._run_folder = run_folder
        self.uri = uri
        self._may_send = confirm
        self._left = ""  # the address where the run was tracked before, if it is another one
        self._target = self._load_target(uri, experiment)
        self._check_mark()
        self._sent: SentRecord | None = None
        self._run: MlflowRun | None = None
        self._is_over = threading.Event()
        self._there: dict[str, int] = {}  # newest steps that MLflow had of a fetched run
        self._refused_at: dict[str, float] = {}  # name of an item → monotonic time

    @property
    def mlflow_run_id(self) -> str | None:
        """The run in MLflow; None until MLflow has answered for the first time."""
        run_id: str | None = self._target["run_id"]
        return run_id

    @property
    def begun_ms(self) -> int:
        """When the run was begun, milliseconds since the epoch; a resumed run keeps it."""
        begun_ms: int = self._target["begun_ms"]
        return begun_ms

    def deliver(self, with_refused: bool = False) -> tuple[int, int]:
        """Send what waits; what MLflow refuses stays, and the rest still goes.

        What was refused is tried again once in a while only, or `with_refused`.

        Returns:
            How many points and other items were delivered.
        """
        self._confirm()
        run = self._run or self._connect()
        points, items = self._deliver_points(run), 0
        for item in pending_items(self.pending_folder):
            if not with_refused and self._was_refused_lately(item):
                continue
            self._confirm()
            try:
                self._deliver_item(run, item)
                items += 1
            except Exception as error:
                if not (is_refusal(error) or isinstance(error, ITS_OWN_FAULT)):
                    raise
                self._note_refusal(item, error)
        return points, items

    def end(self) -> None:
        """Send nothing more, but for what is on its way: `deliver` raises TrackingEndedError."""
        self._is_over.set()

    def _confirm(self) -> None:
        if self._is_over.is_set():
            raise TrackingEndedError
        self._may_send()

    def undelivered(self) -> tuple[int, int]:
        """Return how many points and how many other items wait."""
        return count_points(self.metrics_path, delivered_to(self.folder)), count_items(
            self.pending_folder
        )

    def _connect(self) -> MlflowRun:
        identity = RunIdentity(
            experiment=self._target["experiment"],
            name=self._run_folder.name,
            tracking_id=self._target["tracking_id"],
            artifact_root=None if is_http(self.uri) else self._run_folder.parent / "mlartifacts",
            begun_ms=self.begun_ms,
        )
        run = MlflowRun(self.uri, identity, self.mlflow_run_id, self._confirm)
        if run.run_id != self.mlflow_run_id:
            self._begin_anew()
        self._there = self._in_mlflow_when_fetched(run)
        self._target["run_id"] = run.run_id
        self._write_json(TARGET, self._target)
        if is_http(self.uri):
            logger.info("MLflow: %s/%s", redact(self.uri).rstrip("/"), run.page, extra=SHOWN)
        if self._left:
            logger.warning(
                "this run was tracked in %s before, and is in %s from now on: its curves from "
                "their beginning; what else the other one has stays there",
                self._left, redact(self.uri),
            )  # fmt: skip
            self._left = ""
        self._run = run
        return run

    def _begin_anew(self) -> None:
        """Have all sent to a run in MLflow that is not the one that had it.

        The store may have been lost: its file removed, or gone with the machine.
        """
        if self.mlflow_run_id is not None:
            logger.warning(
                "MLflow at %s no longer has this run: it is made there anew, with its curves from "
                "their beginning; parameters, artifacts and model come with: outerloop evaluate %s",
                redact(self.uri), self._run_folder.name,
            )  # fmt: skip
        self._forget_what_was_sent()

    def _in_mlflow_when_fetched(self, run: MlflowRun) -> dict[str, int]:
        """Return the newest steps that MLflow had of a run when it was fetched from a copy.

        Steps that were taken after the copy was made are taken again, and have new time stamps:
        what MLflow has of them must not be sent a second time.
        """
        if not (self.folder / FETCHED).exists():
            return {}
        steps = steps_in(self._read_json(FETCHED))
        if steps is None:
            steps = run.newest_steps()
            self._write_json(FETCHED, {"steps": steps})
        return steps

    def _unless_there(self, points: Sequence[MetricPoint]) -> list[MetricPoint]:
        """Return the points without those that MLflow has of before the run was fetched."""
        # A key's steps only grow, and are sent in order: up to the newest it has them all.
        there = self._there
        return [point for point in points if point.step > there.get(point.key, point.step - 1)]

    def _deliver_points(self, run: MlflowRun) -> int:
        if self.metrics_path.exists():
            # A point that MLflow has must not be lost here: logged anew it would get a new time.
            sync_file(self.metrics_path)
        offset, count = delivered_to(self.folder), 0
        while True:
            points, end = read_points(self.metrics_path, offset, MAX_POINTS_IN_A_REQUEST)
            if new := self._unless_there(points):
                self._confirm()
                run.log_points(new)
            if end == offset:
                return count
            count += len(points)
            offset = end
            self._write_json(DELIVERED, {"offset": offset})

    def _deliver_item(self, run: MlflowRun, item: Item) -> None:
        gone = [path for path in item.files() if not path.is_file()]
        if gone:
            logger.warning("%s is no longer there and is not sent to MLflow", gone[0])
        else:
            sizes = [path.stat().st_size for path in item.files()]
            self._note_sent(item, run.deliver(item.kind, item.content), sizes)
        item.discard()

    def _note_sent(self, item: Item, content: dict[str, Any], sizes: list[int]) -> None:
        """Put on record what MLflow has now; files had `sizes` before they were sent."""
        sent = self._sent = self._sent or SentRecord(self.folder)
        if item.kind == "params":
            sent.add_params(content)
        elif item.kind == "artifact":
            (path,), (size,) = item.files(), sizes
            is_the_same = path.exists() and path.stat().st_size == size
            name = f"{content['folder']}/{path.name}".lstrip("/")
            sent.add_artifact(name, size if is_the_same else None)
        elif item.kind == "model":
            sent.add_model(content["name"], content["step"], [p.name for p in item.files()])

    def _was_refused_lately(self, item: Item) -> bool:
        refused_at = self._refused_at.get(item.file.name)
        return refused_at is not None and time.monotonic() < refused_at + REFUSED_AGAIN_AFTER_S

    def _note_refusal(self, item: Item, error: Exception) -> None:
        name = item.file.name
        if name not in self._refused_at:
            logger.warning(
                "MLflow at %s refuses %s: %s; it is kept in %s and tried again later",
                redact(self.uri), name, plain_reason(error), self.pending_folder,
            )  # fmt: skip
        self._refused_at[name] = time.monotonic()

    def _load_target(self, uri: str, experiment: str) -> dict[str, Any]:
        target = read_target(self.folder)
        shown = redact(uri)
        if target is None:
            new_id = uuid.uuid4().hex
            target = {"tracking_id": new_id, "experiment": experiment, "uri": shown, "run_id": None}
            self._forget_what_was_sent()
        elif target["uri"] != shown:
            self._left = target["uri"]
            target = {**target, "uri": shown, "run_id": None}
            self._forget_what_was_sent()
        target["run"] = self._run_folder.name
        target.setdefault("begun_ms", now_ms())  # of an older version's run
        self._write_json(TARGET, target)
        return target

    def _forget_what_was_sent(self) -> None:
        """Have every point sent from the first on, but for those that will be found there."""
        for name in (DELIVERED, SENT):
            (self.folder / name).unlink(missing_ok=True)
        if (self.folder / FETCHED).exists():
            # The server may have had the run before, with other time stamps: it is asked again.
            self._write_json(FETCHED, {})

    def _check_mark(self) -> None:
        """Send all again if the log became shorter: what is added to it now was never sent."""
        size = self.metrics_path.stat().st_size if self.metrics_path.is_file() else 0
        if delivered_to(self.folder) > size:
            (self.folder / DELIVERED).unlink(missing_ok=True)

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            return read_object(self.folder / name)
        except (OSError, ValueError):
            return {}

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        write_atomic(self.folder / name, json.dumps(content).encode())


def deliver_until(
    finishing: threading.Event, delivery: Delivery, waiting: tuple[int, int] = (0, 0)
) -> None:
    """Deliver what waits, again and again, until it is all delivered once `finishing` is set.

    A server that is just being started again at the end is waited for; one that has been away for
    MAX_FAILURES_AT_END attempts in a row is not.

    Whatever goes wrong is tried again: nothing that a delivery raises comes out of here. Of a run
    that another machine has taken over nothing is sent any more.

    Args:
        finishing: Asks for the end.
        delivery: Does the work.
        waiting: Points and other items that an earlier process left: their delivery is reported.
    """
    failures = 0
    while True:
        last = finishing.is_set()
        reason = ""
        try:
            if failures:
                waiting = delivery.undelivered()
            points, items = delivery.deliver(with_refused=last)
            waiting = min(waiting[0], points), min(waiting[1], items)  # some may be refused
        except (TakenOverError, TrackingEndedError):
            return
        except BaseException as error:  # all that MLflow, its database or its network can raise
            reason = _what_fails(delivery, error)
        with contextlib.suppress(BaseException):  # what shows the log may be broken itself
            _report(delivery, reason, failures, waiting)
        if last and (not reason or failures >= MAX_FAILURES_AT_END):
            return
        if reason:
            failures += 1
        else:
            failures, waiting = 0, (0, 0)
        if last:
            time.sleep(AT_END_EVERY_S)
        else:
            finishing.wait(back_off_s(failures))


def back_off_s(failures: int) -> float:
    """Return how long to wait after so many failures in a row."""
    # The exponent is bounded, as two to the power of 1,024 failures is no float any more.
    return min(MAX_BACK_OFF_S, DELIVER_EVERY_S * 2.0 ** min(failures, 100))


def _what_fails(delivery: Delivery, error: BaseException) -> str:
    """Return the error in plain words: of a file here, whose path they begin with, or of MLflow.

    What holds back the delivery says itself of what it is.
    """
    if isinstance(error, UnconfirmedError):
        return str(error)
    reason = plain_reason(error)
    is_local = isinstance(error, OSError) and error.filename
    return reason if is_local else f"MLflow at {redact(delivery.uri)}: {reason}"


def _report(delivery: Delivery, reason: str, failures: int, waiting: tuple[int, int]) -> None:
    """Log the first failure of a row, and what had waited for the end of the row."""
    if reason and not failures:
        logger.warning("%s; training goes on, and what is logged is kept and sent later", reason)
    elif not reason and any(waiting):
        # Shown too: whoever was warned that these wait is to see that they no longer do.
        logger.info(
            "MLflow at %s: delivered %d metric points and %d other items that were waiting",
            redact(delivery.uri), *waiting, extra=SHOWN,
        )  # fmt: skip


def is_http(uri: str) -> bool:
    """Tell whether `uri` is a server, which has a place for artifacts, and no bare database."""
    return uri.startswith(("http://", "https://"))
