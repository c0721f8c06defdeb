"""The only door to MLflow: one run on one server, found or created, and what it is given.

Everything here blocks and raises whatever MLflow raises; `pipeline.tracking` calls it from a
thread of its own and tries again. Each call may be repeated without changing the result.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files import sync_file, sync_folder, temporary_beside
from pipeline.metric_log import MetricPoint
from pipeline.mlflow_models import MODEL_FILES, STEP_TAG, Registered, log_model, register
from pipeline.sent_record import model_label
from pipeline.tracking_address import SQLITE

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_PARAMS_IN_A_REQUEST = 100
MAX_TAGS_IN_A_REQUEST = 100
MAX_POINTS_IN_A_REQUEST = 1000
MAX_DIGEST_CHARACTERS = 36
TRACKING_ID_TAG = "outerloop.tracking_id"
NESTED_TAG = "outerloop.nested"
RUN_ID_TAG = "outerloop.run_id"
# Who asks, or how often: unauthenticated, forbidden, timed out, too many requests.
NOT_ABOUT_THE_ITEM = (401, 403, 408, 429)

CLIENT_SETTINGS = {
    # Trying again is our thread's part, which also knows when to stop.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # The terminal belongs to the progress bar.
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # What lies in the folder where a command was given is no part of a model.
    "MLFLOW_UV_AUTO_DETECT": "false",
    # Training sends nothing to anyone but the server it was given.
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What makes a run the same run, whichever process speaks of it."""

    experiment: str
    name: str
    tracking_id: str  # drawn once for each run folder; a run is looked up by it before it is made
    artifact_root: Path | None  # for a database as store, which has no place for artifacts
    begun_ms: int  # when it was begun, milliseconds since the epoch


class MlflowRun:
    """The MLflow run of `identity` on the server at `uri`; made there if it does not exist yet.

    Takes seconds: MLflow is imported here, and a new database is set up. `confirm` is asked before
    a run is made, and raises if it must not be. Of a `run_id` that the server does not know (its
    store was lost, perhaps) another one takes the place.
    """

    def __init__(
        self,
        uri: str,
        identity: RunIdentity,
        run_id: str | None = None,
        confirm: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = _connect(uri)
        self._confirm = confirm
        self._experiment_id = self._find_or_create_experiment(identity)
        known = run_id if run_id and self._exists(run_id) else None
        self.run_id = known or self._find_or_create_run(identity)
        self._deliver: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {
            "params": self._log_params,
            "tags": self._set_tags,
            "artifact": self._log_artifact,
            "dataset": self._log_dataset,
            "model": self._log_model,
            "nested": self._log_nested,
            "status": self._set_status,
        }

    @property
    def page(self) -> str:
        """The run's page, relative to the server's address."""
        return f"#/experiments/{self._experiment_id}/runs/{self.run_id}"

    def newest_steps(self) -> dict[str, int]:
        """Return the newest step of each metric that the run has a point of."""
        keys = self._client.get_run(self.run_id).data.metrics
        curves = {key: self._client.get_metric_history(self.run_id, key) for key in keys}
        return {key: max(point.step for point in curve) for key, curve in curves.items() if curve}

    def log_points(self, points: Sequence[MetricPoint]) -> None:
        """Send at most 1,000 points; those that the run already has are left as they are."""
        from mlflow.entities import Metric

        metrics = [Metric(p.key, p.value, p.timestamp_ms, p.step) for p in points]
        self._client.log_batch(self.run_id, metrics=metrics)

    def deliver(self, kind: str, content: dict[str, Any]) -> dict[str, Any]:
        """Send an item of `pipeline.outbox`; return it as MLflow has it now."""
        return self._deliver[kind](content) or content

    def _exists(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    def _find_or_create_experiment(self, identity: RunIdentity) -> str:
        experiment = self._client.get_experiment_by_name(identity.experiment)
        if experiment is not None:
            return str(experiment.experiment_id)
        root = identity.artifact_root
        return self._client.create_experiment(
            identity.experiment, artifact_location=None if root is None else root.as_uri()
        )

    def _find_or_create_run(self, identity: RunIdentity) -> str:
        query = f"tags.`{TRACKING_ID_TAG}` = '{identity.tracking_id}'"
        for run in self._client.search_runs([self._experiment_id], query, max_results=1):
            return str(run.info.run_id)
        tags = {
            TRACKING_ID_TAG: identity.tracking_id,
            RUN_ID_TAG: identity.name,
            **_common_tags(),
        }
        self._confirm()
        run = self._client.create_run(
            self._experiment_id, identity.begun_ms, tags, run_name=identity.name
        )
        return str(run.info.run_id)

    def _log_params(self, params: dict[str, str]) -> dict[str, str]:
        from mlflow.entities import Param

        # MLflow refuses a new value for a parameter, and a resumed run may have a longer budget.
        known = self._client.get_run(self.run_id).data.params
        changed = sorted(key for key in params if known.get(key, params[key]) != params[key])
        if changed:
            logger.warning("MLflow keeps the first value of parameters: %s", ", ".join(changed))
        new = [Param(key, value) for key, value in params.items() if key not in known]
        for start in range(0, len(new), MAX_PARAMS_IN_A_REQUEST):
            batch = new[start : start + MAX_PARAMS_IN_A_REQUEST]
            self._client.log_batch(self.run_id, params=batch)
        return {key: known.get(key, value) for key, value in params.items()}

    def _set_tags(self, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        every = [RunTag(key, value) for key, value in tags.items()]
        for start in range(0, len(every), MAX_TAGS_IN_A_REQUEST):
            self._client.log_batch(self.run_id, tags=every[start : start + MAX_TAGS_IN_A_REQUEST])

    def _log_artifact(self, content: dict[str, Any]) -> None:
        self._client.log_artifact(self.run_id, content["path"], content["folder"] or None)

    def _log_dataset(self, content: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=content["name"],
            digest=content["digest"][:MAX_DIGEST_CHARACTERS],
            source_type="local",
            source=json.dumps({"uri": content["source"]}),
            profile=json.dumps(content["profile"]),
        )
        context = InputTag("mlflow.data.context", content["context"])
        self._client.log_inputs(self.run_id, [DatasetInput(dataset, [context])])

    def _log_model(self, content: dict[str, Any]) -> None:
        log_model(self._client, self._experiment_id, self.run_id, content)

    def _log_nested(self, content: dict[str, Any]) -> None:
        """Make a run below this one, with all its points; found again by its tags."""
        from mlflow.entities import Metric, Param
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

        tags = {MLFLOW_PARENT_RUN_ID: self.run_id, NESTED_TAG: content["sha256"]}
        query = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self._client.search_runs([self._experiment_id], query, max_results=1)
        time_ms, name = content["timestamp_ms"], content["name"]
        if found:
            run = found[0]
        else:
            tags |= _common_tags()
            run = self._client.create_run(self._experiment_id, time_ms, tags, run_name=name)
        if run.info.status == "FINISHED":  # by an earlier test, which came to the same
            return
        run_id = str(run.info.run_id)
        params = [Param(key, value) for key, value in content["params"].items()]
        points = [Metric(key, value, time_ms, step) for key, step, value in content["points"]]
        self._client.log_batch(run_id, params=params)
        for start in range(0, len(points), MAX_POINTS_IN_A_REQUEST):
            self._client.log_batch(run_id, points[start : start + MAX_POINTS_IN_A_REQUEST])
        self._client.set_terminated(run_id, "FINISHED", time_ms)

    def _set_status(self, content: dict[str, Any]) -> None:
        if content["status"] == "RUNNING":
            self._client.update_run(self.run_id, status="RUNNING")
        else:
            self._client.set_terminated(self.run_id, content["status"], content["timestamp_ms"])


@dataclass(frozen=True, slots=True)
class StoredRun:
    """What MLflow says of a run, but for its points and files."""

    status: str
    is_deleted: bool
    tracking_id: str  # empty: it is no run of ours
    params: dict[str, str]
    keys: tuple[str, ...]  # of its metrics


class MlflowReader:
    """Looks at the run `run_id` on the server, or in the database, at `uri`; changes nothing of it.

    RuntimeError if that is a database which MLflow would have to set up first.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        if not uri.startswith(("http://", "https://")):
            _check_tables(uri)
        self._client = _client(uri)
        self._run_id = run_id

    def run(self) -> StoredRun:
        """Return what is known of the run."""
        run = self._client.get_run(self._run_id)
        return StoredRun(
            status=str(run.info.status),
            is_deleted=run.info.lifecycle_stage != "active",
            tracking_id=run.data.tags.get(TRACKING_ID_TAG, ""),
            params=dict(run.data.params),
            keys=tuple(sorted(run.data.metrics)),
        )

    def points(self, key: str) -> list[MetricPoint]:
        """Return every point of a metric."""
        history = self._client.get_metric_history(self._run_id, key)
        return [MetricPoint(m.key, m.step, m.value, m.timestamp) for m in history]

    def register(self, name: str) -> Registered | None:
        """Register the run's newest model as a version of `name`: all that is changed here."""
        experiment_id = self._client.get_run(self._run_id).info.experiment_id
        return register(self._client, experiment_id, self._run_id, name)

    def artifacts(self, folder: str) -> dict[str, int | None]:
        """Return path and size in bytes of each file directly in a folder of the artifacts."""
        found = self._client.list_artifacts(self._run_id, folder or None)
        return {info.path: info.file_size for info in found if not info.is_dir}

    def models(self) -> dict[str, set[str]]:
        """Return the names of the files of each logged model, by `model_label`."""
        experiment = self._client.get_run(self._run_id).info.experiment_id
        query = f"source_run_id = '{self._run_id}'"
        return {
            model_label(model.name, int(model.tags.get(STEP_TAG, -1))): {
                info.path.rpartition("/")[2]
                for folder in (None, MODEL_FILES)
                for info in self._client.list_logged_model_artifacts(model.model_id, folder)
            }
            for model in self._client.search_logged_models([experiment], query)
        }


def _check_tables(uri: str) -> None:
    """Raise RuntimeError if tables are missing in a database: a client would make them."""
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine(uri)  # type: ignore[no-untyped-call]
    if not utils._all_tables_exist(engine):  # type: ignore[no-untyped-call]
        raise RuntimeError("the database lacks tables of MLflow's")


def is_refusal(error: Exception) -> bool:
    """Tell whether MLflow answered and does not want this item, so that others may still go."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        status: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
    else:  # a file is refused, too large perhaps, with the error of the HTTP library
        status = getattr(getattr(error, "response", None), "status_code", 500)
    return status < 500 and status not in NOT_ABOUT_THE_ITEM


def _common_tags() -> dict[str, str]:
    return {
        "mlflow.source.name": "outerloop",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": _user_name(),
    }


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return str(os.getuid())


def _connect(uri: str) -> MlflowClient:
    """Return a client; a database that is not there yet is made."""
    database = Path(uri.removeprefix(SQLITE))
    if uri.startswith(SQLITE) and not database.exists():
        _create_database(database)
    return _client(uri)


def _client(uri: str) -> MlflowClient:
    for name, value in CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _create_database(path: Path) -> None:
    """Set up a new sqlite store, which is at `path` whole or not at all.

    Setting up takes seconds, and MLflow can never again open a store that was left half made by
    a process that was killed, or had no room. So it is made under another name and linked to
    its own; if another process was quicker, its store stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        _client(f"{SQLITE}{temporary}")
        sync_file(temporary)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        sync_folder(path.parent)
    finally:
        for leftover in path.parent.glob(f"{temporary.name}*"):  # with sqlite's own journal
            leftover.unlink(missing_ok=True)
