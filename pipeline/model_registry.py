"""A run's model in MLflow's model registry, under a name that others load it by."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import BadInputError, OuterloopError, RunFailedError
from pipeline.mlflow_models import Registered
from pipeline.mlflow_run import MlflowReader, is_refusal
from pipeline.reasons import plain_reason
from pipeline.redaction import redact
from pipeline.runs import RunFolder, home
from pipeline.tracking import tracking_uri
from pipeline.tracking_address import SQLITE
from pipeline.tracking_marks import read_target


def register_model(run: RunFolder, name: str) -> Registered:
    """Register the newest model that MLflow has of the run as a version of `name`.

    Raises:
        BadInputError: MLflow has no model of the run, or refuses the name.
        RunFailedError: MLflow does not answer.
    """
    uri = tracking_uri(run.read_experiment().tracking.uri, home())
    target = read_target(run.metrics.parent) or {}
    run_id, lacking = target.get("run_id"), f"MLflow at {redact(uri)} has no model of run"
    advice = f"finish the run, or send what waits with: outerloop sync {run.run_id}"
    database = uri.removeprefix(SQLITE)
    is_there = database == uri or Path(database).is_file()
    if run_id is None or target.get("uri") != redact(uri) or not is_there:
        raise BadInputError(f"{lacking} {run.run_id}; {advice}")
    try:
        found = MlflowReader(uri, run_id).register(name)
    except OuterloopError:
        raise
    except Exception as error:  # all that MLflow, its database or its network can raise
        reason = f"MLflow at {redact(uri)}: model '{name}': {plain_reason(error)}"
        raise (BadInputError if is_refusal(error) else RunFailedError)(reason) from error
    if found is None:
        raise BadInputError(f"{lacking} {run.run_id}; {advice}")
    return found
