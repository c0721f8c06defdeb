"""Tracking of a run in MLflow that never stops training.

What is logged goes to disk in the run's folder and nowhere else; a thread sends it to MLflow.
With MLflow slow, away or killed the run goes on, and the thread tries again: nothing is lost,
and nothing arrives twice (see `pipeline.delivery`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from pipeline.delivery import Delivery, deliver_until
from pipeline.errors import BadInputError, RunFailedError
from pipeline.files import disk_errors
from pipeline.metric_log import MetricLog, now_ms
from pipeline.outbox import Outbox
from pipeline.redaction import redact, redact_addresses, redact_texts
from pipeline.tracking_address import SQLITE, check_address

MAX_PARAM_CHARACTERS = 6000
MAX_KEY_CHARACTERS = 250
MAX_TAG_CHARACTERS = 5000
LOOK_EVERY_S = 0.1  # at whether the end of tracking is still waited for
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
logger = logging.getLogger(__name__)


class Tracker:
    """A run's parameters, metrics, artifacts, data sets and model, on their way to MLflow.

    Opening one for a run folder that was tracked before goes on in the same MLflow run. All
    methods return at once and none waits for MLflow, but for `finish` with its time limit. Values
    that are addresses are kept and sent without passwords. One Tracker for each run folder; call
    it from one thread.

    Args:
        uri: From `tracking_uri`.
        experiment: MLflow experiment.
        run_folder: The run's folder; what waits is kept in `tracking/` inside.
        confirm: As of Delivery.

    Raises:
        RunFailedError: The run folder cannot be written; from every method but `finish`.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        run_folder: Path,
        confirm: Callable[[], None] = lambda: None,
    ) -> None:
        self._run_folder = run_folder
        with self._disk_errors():
            self._delivery = Delivery(run_folder, uri, experiment, confirm)
            self._log = MetricLog(self._delivery.metrics_path)
            self._outbox = Outbox(self._delivery.pending_folder)
            waiting = self._delivery.undelivered()
        self._finishing = threading.Event()
        arguments = (self._finishing, self._delivery, waiting)
        self._thread = threading.Thread(target=deliver_until, args=arguments, daemon=True)
        self._thread.start()

    @property
    def mlflow_run_id(self) -> str | None:
        """The run in MLflow; None as long as MLflow has never answered."""
        return self._delivery.mlflow_run_id

    @property
    def begun_ms(self) -> int:
        """When the run was begun, milliseconds since the epoch; a resumed run keeps it."""
        return self._delivery.begun_ms

    @property
    def metric_keys(self) -> list[str]:
        """Every metric that the run has a point of, from earlier processes too."""
        return self._log.keys()

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log `values` at `step`; a key's steps only grow, other points are skipped (MetricLog)."""
        named = {metric_name(key): value for key, value in values.items()}
        with self._disk_errors():
            self._log.append(step, named, timestamp_ms=now_ms())

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log nested `params` under dotted keys; MLflow keeps the first value of each."""
        self._put("params", params_as_texts(params))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set `tags` of the run."""
        self._put("tags", _as_texts(tags, MAX_TAG_CHARACTERS))

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Copy the file `path` to the run's artifacts; sent later, as it is by then."""
        path, run = path.resolve(), self._run_folder.resolve()
        kept = path.relative_to(run) if path.is_relative_to(run) else path
        self._put("artifact", {"path": kept.as_posix(), "folder": folder})

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
        shown = redact_addresses(source)
        content = {"name": name, "digest": digest, "source": shown, "context": context}
        self._put("dataset", {**content, "profile": redact_texts(profile)})

    def log_model(
        self, name: str, step: int, files: Sequence[Path], params: Mapping[str, Any]
    ) -> None:
        """Register `files` (safetensors, config) as the model `name` after outer step `step`.

        They are sent as they are now: whoever owns them may remove or replace, but not change them.
        """
        described = _as_texts(flatten(params), MAX_PARAM_CHARACTERS)
        content = {"name": name, "step": step, "params": described}
        self._put("model", content, [path.resolve() for path in files])

    def log_nested(self, runs: Sequence[Mapping[str, Any]]) -> None:
        """Have runs nested below this one; each as `pipeline.nested_runs` describes it."""
        for run in runs:
            self._put("nested", {**run, "timestamp_ms": now_ms()})

    def set_status(self, status: Status) -> None:
        """Set the run's status in MLflow, such as RUNNING for one that was resumed."""
        self._put("status", {"status": status, "timestamp_ms": now_ms()})

    def sync(self) -> None:
        """Force logged points to disk; to be called before a checkpoint is committed.

        A checkpoint that outlasts a power failure must not be ahead of the points before it.
        """
        with self._disk_errors():
            self._log.sync()

    def finish(
        self,
        status: Status | None,
        timeout_s: float = 30.0,
        is_hurried: Callable[[], bool] = lambda: False,
    ) -> int:
        """End tracking: send what waits, for `timeout_s` at most, and set the run's status.

        May be called while an error is on its way out, and puts none in its place: what the disk
        does not take is named in a warning. The wait ends at once when `is_hurried` says so.

        Returns:
            How many points and items MLflow has not taken; 0 with a warning if the folder cannot
            be read. They stay there, a warning says how many they are, and the next Tracker of
            the run sends them.
        """
        with _disk_errors_as_warnings():
            if status is not None:
                self.set_status(status)
        with _disk_errors_as_warnings(), self._disk_errors():
            self._log.close()
        self._finishing.set()
        limit = time.monotonic() + timeout_s
        while self._thread.is_alive() and time.monotonic() < limit and not is_hurried():
            self._thread.join(min(timeout_s, LOOK_EVERY_S))
        self._delivery.end()
        with _disk_errors_as_warnings():
            return _report_undelivered(self._delivery)
        return 0

    def abandon(self) -> None:
        """End tracking and send nothing more: the run is another machine's by now."""
        with _disk_errors_as_warnings(), self._disk_errors():
            self._log.close()
        self._delivery.end()
        self._finishing.set()

    def _put(self, kind: str, content: Mapping[str, Any], files: Sequence[Path] = ()) -> None:
        with self._disk_errors():
            self._outbox.put(kind, content, files)

    def _disk_errors(self) -> AbstractContextManager[None]:
        return disk_errors(f"tracking in {self._run_folder}", "make room, then resume the run")


def tracking_uri(configured: str, home: Path) -> str:
    """Return where to track: `configured`, else MLFLOW_TRACKING_URI, else a database in `home`.

    Raises:
        BadInputError: The address is of a kind that cannot keep the promise of no point twice, or
            there is no use in trying it.
    """
    uri = configured or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        if set("?%") & set(str(home.resolve())):  # in an address they mean something else
            raise BadInputError(
                f"{home}: MLflow's database cannot lie in a folder with '?' or '%' in its path; "
                "set OUTERLOOP_HOME to another one, or tracking.uri to a server"
            )
        return f"{SQLITE}{home.resolve() / 'mlflow.db'}"
    scheme = uri.partition("://")[0].partition("+")[0]
    if "://" not in uri or scheme not in SCHEMES:
        raise BadInputError(
            f"tracking.uri '{redact(uri)}': expected an MLflow server (http://host:5000) or a "
            f"database ({', '.join(SCHEMES[2:])}); set tracking.uri or MLFLOW_TRACKING_URI"
        )
    check_address(uri)
    relative = uri.removeprefix(SQLITE)
    if relative != uri and not relative.startswith("/"):
        return f"{SQLITE}{Path(relative).resolve()}"
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


def params_as_texts(params: Mapping[str, Any]) -> dict[str, str]:
    """Return nested `params` as MLflow has them: dotted keys, texts, no passwords."""
    return _as_texts(flatten(params), MAX_PARAM_CHARACTERS)


def metric_name(key: str) -> str:
    """Return `key` with what MLflow does not take, such as brackets, replaced by underscores.

    One bad name would make MLflow refuse the whole batch that it is in.
    """
    parts = re.sub(r"[^\w\-. :/]", "_", key).split("/")
    return "/".join(part for part in parts if part.strip("."))[:MAX_KEY_CHARACTERS]


def _as_texts(values: Mapping[str, Any], max_characters: int) -> dict[str, str]:
    # Cut after redacting: half an address with a password is no longer known as one.
    return {key: redact_addresses(value)[:max_characters] for key, value in values.items()}


@contextlib.contextmanager
def _disk_errors_as_warnings() -> Iterator[None]:
    try:
        yield
    except (OSError, RunFailedError) as error:
        logger.warning("%s", error)


def _report_undelivered(delivery: Delivery) -> int:
    points, items = delivery.undelivered()
    if points or items:
        logger.warning(
            "MLflow at %s has not taken %d metric points and %d other items yet; they are kept in "
            "%s and sent when the run is resumed or evaluated",
            redact(delivery.uri), points, items, delivery.folder,
        )  # fmt: skip
    return points + items
