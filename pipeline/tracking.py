"""Tracking of a run in MLflow that never stops training.

What is logged goes to disk in the run's folder and nowhere else; a thread sends it to MLflow.
With MLflow slow, away or killed the run goes on, and the thread tries again: nothing is lost,
and nothing arrives twice (see `pipeline.delivery`).
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from pipeline.delivery import Delivery, redact
from pipeline.errors import BadInputError
from pipeline.files import disk_errors
from pipeline.metric_log import MetricLog
from pipeline.outbox import Outbox

DELIVER_EVERY_S = 5.0
MAX_BACK_OFF_S = 60.0
MAX_PARAM_CHARACTERS = 6000
MAX_KEY_CHARACTERS = 250
MAX_TAG_CHARACTERS = 5000
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
logger = logging.getLogger(__name__)


class Tracker:
    """A run's parameters, metrics, artifacts, data sets and model, on their way to MLflow.

    Opening one for a run folder that was tracked before goes on in the same MLflow run. All
    methods return at once and none waits for MLflow, but for `finish` with its time limit. One
    Tracker for each run folder; call it from one thread.

    Args:
        uri: From `tracking_uri`.
        experiment: MLflow experiment.
        run_folder: The run's folder; what waits is kept in `tracking/` inside.

    Raises:
        RunFailedError: The run folder cannot be written; from every method that logs.
    """

    def __init__(self, uri: str, experiment: str, run_folder: Path) -> None:
        self._run_folder = run_folder
        with self._disk_errors():
            self._delivery = Delivery(run_folder, uri, experiment)
            self._log = MetricLog(self._delivery.metrics_path)
            self._outbox = Outbox(self._delivery.pending_folder)
        self._finishing = threading.Event()
        self._thread = threading.Thread(target=self._deliver_until_finished, daemon=True)
        self._thread.start()

    @property
    def mlflow_run_id(self) -> str | None:
        """The run in MLflow; None as long as MLflow has never answered."""
        return self._delivery.mlflow_run_id

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log `values` at `step`; a key's steps only grow, other points are skipped (MetricLog)."""
        named = {metric_name(key): value for key, value in values.items()}
        with self._disk_errors():
            self._log.append(step, named, timestamp_ms=_now_ms())

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log nested `params` under dotted keys; MLflow keeps the first value of each."""
        self._put("params", {k: str(v)[:MAX_PARAM_CHARACTERS] for k, v in flatten(params).items()})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set `tags` of the run."""
        self._put("tags", {key: str(value)[:MAX_TAG_CHARACTERS] for key, value in tags.items()})

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Copy the file `path` to the run's artifacts; sent later, as it is by then."""
        self._put("artifact", {"path": str(path.resolve()), "folder": folder})

    def log_dataset(
        self, name: str, digest: str, source: str, context: str, profile: Mapping[str, Any]
    ) -> None:
        """Name a data set that the run uses.

        Args:
            name: Of the data set.
            digest: Hash of its content; the first 36 characters are shown.
            source: Where it is from, a path or an address.
            context: What it is used for, such as "training".
            profile: Figures about it, such as the number of tasks.
        """
        content = {"name": name, "digest": digest, "source": redact(source), "context": context}
        self._put("dataset", {**content, "profile": dict(profile)})

    def log_model(
        self, name: str, step: int, files: Sequence[Path], params: Mapping[str, Any]
    ) -> None:
        """Register `files` (safetensors, config) as the model `name` after outer step `step`."""
        paths = [str(path.resolve()) for path in files]
        described = {key: str(value) for key, value in flatten(params).items()}
        self._put("model", {"name": name, "step": step, "files": paths, "params": described})

    def set_status(self, status: Status) -> None:
        """Set the run's status in MLflow, such as RUNNING for one that was resumed."""
        self._put("status", {"status": status, "timestamp_ms": _now_ms()})

    def sync(self) -> None:
        """Force logged points to disk; to be called before a checkpoint is committed.

        A checkpoint that outlasts a power failure must not be ahead of the points before it.
        """
        with self._disk_errors():
            self._log.sync()

    def finish(self, status: Status | None, timeout_s: float = 30.0) -> int:
        """End tracking: send what waits, for `timeout_s` at most, and set the run's status.

        Returns:
            How many points and items MLflow has not taken. They stay in the run folder, a warning
            says how many they are, and `Tracker.deliver` or the next Tracker sends them.
        """
        if status is not None:
            self.set_status(status)
        with self._disk_errors():
            self._log.close()
        self._finishing.set()
        self._thread.join(timeout_s)
        return _report_undelivered(self._delivery)

    @staticmethod
    def deliver(run_folder: Path, uri: str = "", timeout_s: float = 30.0) -> int:
        """Send what earlier processes left undelivered in `run_folder`; returns what is left.

        `uri` is needed only where the address holds a password, which is not kept on disk.
        """
        delivery = Delivery(run_folder, uri)
        thread = threading.Thread(target=_try_to_deliver, args=[delivery], daemon=True)
        thread.start()
        thread.join(timeout_s)
        return _report_undelivered(delivery)

    def _put(self, kind: str, content: Mapping[str, Any]) -> None:
        with self._disk_errors():
            self._outbox.put(kind, content)

    def _deliver_until_finished(self) -> None:
        failures = 0
        while True:
            finishing = self._finishing.is_set()
            reason = _try_to_deliver(self._delivery)
            if finishing:
                return
            if reason and not failures:
                logger.warning(
                    "MLflow at %s: %s; training goes on, and what is logged is kept and sent later",
                    redact(self._delivery.uri), reason,
                )  # fmt: skip
            elif failures and not reason:
                logger.info("MLflow at %s is back", redact(self._delivery.uri))
            failures = failures + 1 if reason else 0
            self._finishing.wait(min(MAX_BACK_OFF_S, DELIVER_EVERY_S * 2**failures))

    def _disk_errors(self) -> AbstractContextManager[None]:
        return disk_errors(f"tracking in {self._run_folder}", "make room, then resume the run")


def tracking_uri(configured: str, home: Path) -> str:
    """Return where to track: `configured`, else MLFLOW_TRACKING_URI, else a database in `home`.

    Raises:
        BadInputError: The address is of a kind that cannot keep the promise of no point twice.
    """
    uri = configured or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        return f"sqlite:///{home.resolve() / 'mlflow.db'}"
    scheme = uri.partition("://")[0].partition("+")[0]
    if "://" not in uri or scheme not in SCHEMES:
        raise BadInputError(
            f"tracking.uri '{redact(uri)}': expected an MLflow server (http://host:5000) or a "
            f"database ({', '.join(SCHEMES[2:])}); set tracking.uri or MLFLOW_TRACKING_URI"
        )
    relative = uri.removeprefix("sqlite:///")
    if relative != uri and not relative.startswith("/"):
        return f"sqlite:///{Path(relative).resolve()}"
    return uri


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings under dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def metric_name(key: str) -> str:
    """Return `key` with what MLflow does not take, such as brackets, replaced by underscores.

    One bad name would make MLflow refuse the whole batch that it is in.
    """
    parts = re.sub(r"[^\w\-. :/]", "_", key).split("/")
    return "/".join(part for part in parts if part.strip("."))[:MAX_KEY_CHARACTERS]


def _try_to_deliver(delivery: Delivery) -> str:
    """Deliver what waits; return an empty string, or in a line why it did not work."""
    try:
        delivery.deliver()
    except Exception as error:  # whatever MLflow, its database or its network can raise
        lines = redact(str(error)).strip().splitlines() or [type(error).__name__]
        logger.debug("delivery to MLflow failed", exc_info=True)
        return lines[0][:200]
    return ""


def _report_undelivered(delivery: Delivery) -> int:
    points, items = delivery.undelivered()
    if points or items:
        logger.warning(
            "MLflow at %s has not taken %d metric points and %d other items yet; they are kept in "
            "%s and sent when the run is resumed or evaluated",
            redact(delivery.uri), points, items, delivery.folder,
        )  # fmt: skip
    return points + items


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
