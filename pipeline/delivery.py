"""From the tracking folder of a run to MLflow: what has been delivered, and what has not.

    tracking/metrics.jsonl    pipeline.metric_log
             pending/         pipeline.outbox
             target.json      which run, on which server
             delivered.json   how far metrics.jsonl has been sent; may lag, never leads

Any part may be sent twice, after a crash: MLflow keeps one of each point by its fixed time stamp.
"""

from __future__ import annotations

import json
import logging
import re
import uuid
from pathlib import Path
from typing import Any

from pipeline.files import sync_file, write_atomic
from pipeline.metric_log import count_points, read_points
from pipeline.mlflow_run import MlflowRun, RunIdentity, is_refusal
from pipeline.outbox import Item, count_items, pending_items

MAX_POINTS_IN_A_REQUEST = 1000

logger = logging.getLogger(__name__)


class Delivery:
    """Sends what waits in a run folder's tracking folder; blocks, and raises what MLflow raises.

    Args:
        run_folder: The run's folder, whose name is the run's name in MLflow.
        uri: MLflow server or database. Empty: the one that was named last. Another one than the
            last gets every point from the first on.
        experiment: MLflow experiment of a run that is not in MLflow yet.
    """

    def __init__(self, run_folder: Path, uri: str = "", experiment: str = "") -> None:
        run_folder = run_folder.resolve()
        self.folder = run_folder / "tracking"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.metrics_path = self.folder / "metrics.jsonl"
        self.pending_folder = self.folder / "pending"
        self._run_folder = run_folder
        self._target = self._load_target(uri, experiment)
        self.uri = uri or str(self._target["uri"])
        self._run: MlflowRun | None = None

    @property
    def mlflow_run_id(self) -> str | None:
        """The run in MLflow; None until MLflow has answered for the first time."""
        run_id: str | None = self._target["run_id"]
        return run_id

    def deliver(self) -> None:
        """Send everything that waits; whatever MLflow refuses stays, and the rest still goes."""
        run = self._run or self._connect()
        self._deliver_points(run)
        refusals: list[Exception] = []
        for item in pending_items(self.pending_folder):
            try:
                self._deliver_item(run, item)
            except Exception as error:
                if not is_refusal(error):
                    raise
                refusals.append(error)
        if refusals:
            raise refusals[0]

    def undelivered(self) -> tuple[int, int]:
        """Return how many points and how many other items wait."""
        return count_points(self.metrics_path, self._offset()), count_items(self.pending_folder)

    def _connect(self) -> MlflowRun:
        identity = RunIdentity(
            experiment=self._target["experiment"],
            name=self._run_folder.name,
            tracking_id=self._target["tracking_id"],
            artifact_root=None if is_http(self.uri) else self._run_folder.parent / "mlartifacts",
        )
        self._run = MlflowRun(self.uri, identity, self.mlflow_run_id)
        self._target["run_id"] = self._run.run_id
        self._write_json("target.json", self._target)
        return self._run

    def _deliver_points(self, run: MlflowRun) -> None:
        if self.metrics_path.exists():
            # A point that MLflow has must not be lost here: logged anew it would get a new time.
            sync_file(self.metrics_path)
        offset = self._offset()
        while True:
            points, end = read_points(self.metrics_path, offset, MAX_POINTS_IN_A_REQUEST)
            if points:
                run.log_points(points)
            if end == offset:
                return
            offset = end
            self._write_json("delivered.json", {"offset": offset})

    def _deliver_item(self, run: MlflowRun, item: Item) -> None:
        paths = [*item.content.get("files", ()), item.content.get("path")]
        gone = [path for path in paths if path is not None and not Path(path).exists()]
        if gone:
            logger.warning("%s is no longer there and is not sent to MLflow", gone[0])
        else:
            run.deliver(item.kind, item.content)
        item.file.unlink(missing_ok=True)

    def _load_target(self, uri: str, experiment: str) -> dict[str, Any]:
        target = self._read_json("target.json")
        shown = redact(uri)
        if "tracking_id" not in target:
            target = {"tracking_id": uuid.uuid4().hex, "experiment": experiment, "uri": shown}
        elif uri and target["uri"] != shown:
            target = {**target, "uri": shown, "run_id": None}
            (self.folder / "delivered.json").unlink(missing_ok=True)
        target.setdefault("run_id", None)
        self._write_json("target.json", target)
        return target

    def _offset(self) -> int:
        return int(self._read_json("delivered.json").get("offset", 0))

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self.folder / name).read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        write_atomic(self.folder / name, json.dumps(content).encode())


def is_http(uri: str) -> bool:
    """Tell whether `uri` is a server, which has a place for artifacts, and no bare database."""
    return uri.startswith(("http://", "https://"))


def redact(text: str) -> str:
    """Return `text` without the passwords of the addresses in it."""
    text = re.sub(r"://[^\s/]*:[^\s]*@", "://***@", text)
    return re.sub(r"(?i)((?:password|token|secret|key)=)[^&\s]+", r"\1***", text)
